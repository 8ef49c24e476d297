"""`python -m intrr_rec.testing NAME`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from intrr_rec.errors import UserError
from intrr_rec.testing import contract, fault_of, group_of


def main() -> int:
    """Run the contract of the components named on the command line; returns 1 where one fails, 2 where there is none."""
    parser = argparse.ArgumentParser(
        prog="python -m intrr_rec.testing", description="Check components against their contract."
    )
    parser.add_argument("components", nargs="+", metavar="NAME", help="registered name, or module:Class")
    parser.add_argument("--sample", type=Path, help="a file that a log reader reads")
    asked = parser.parse_args()
    failed = 0
    for name in asked.components:
        try:
            checks = contract(group_of(name), name, asked.sample)
        except UserError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
        for words, check in checks.items():
            fault = fault_of(check)
            failed += fault is not None
            print(f"ok    {name}: {words}" if fault is None else f"FAIL  {name}: {words}: {fault}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
