"""How a command leaves: without lines of native libraries about each other.

At the end of a process PyTorch keeps modules alive that Python takes down otherwise, those of DuckDB among them. DuckDB's binding
library (nanobind) then prints a page of "leaked function …" after a verb that did all it should.
"""

from __future__ import annotations

import atexit
import gc
import sys

DUCKDB = ("duckdb", "_duckdb", "narwhals")


def leave_quietly() -> None:
    """Have DuckDB's modules go before the interpreter does, where PyTorch is loaded too; called once, before any verb."""
    atexit.register(_let_go)


def _let_go() -> None:
    if "torch" not in sys.modules:
        return
    for name in [name for name in sys.modules if name.partition(".")[0] in DUCKDB]:
        vars(sys.modules.pop(name)).clear()
    gc.collect()
