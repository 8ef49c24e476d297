"""Resolve pyproject.toml into requirements/{common,cuda-libraries,embed,spark,browser,store}.txt.

Needs the `uv` command (`pip install uv`). Run from the repository root after changing a dependency, then look at the diff:

    python scripts/lock.py

Releases already locked are kept while they satisfy pyproject.toml; delete a line to have it resolved anew. torch, fbgemm
and torchrec move together and are pinned by hand in requirements/{cpu,cuda}.txt.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMON = ROOT / "requirements" / "common.txt"
LIBRARIES = ROOT / "requirements" / "cuda-libraries.txt"
EXTRAS = ("embed", "spark", "browser", "store")
TRIPLE = ("torch==", "torchrec==", "fbgemm-gpu==")
CUDA_LIBRARIES = ("cuda-", "nvidia-", "triton==")
# What `environments` in pyproject.toml already promises, and what requires-python already says.
IMPLIED = re.compile(
    r"(platform_machine|platform_python_implementation|sys_platform) == '\w+'|python_full_version < '3\.1[4-9]'"
)
HEADER = "# Written by scripts/lock.py from pyproject.toml; installed with `pip install --no-deps -r`.\n"


def main() -> None:
    """Write the locks."""
    base = _resolve([COMMON, LIBRARIES])
    libraries = [line for line in base if line.startswith(CUDA_LIBRARIES)]
    common = [line for line in base if not line.startswith(CUDA_LIBRARIES + TRIPLE)]
    for extra in EXTRAS:
        lock = ROOT / "requirements" / f"{extra}.txt"
        extended = _resolve([COMMON, LIBRARIES, lock], "--extra", extra)
        moved = [line for line in base if line not in extended]
        if moved:
            raise SystemExit(f"the extra '{extra}' would change what is locked without it: {', '.join(moved)}")
        lock.write_text(HEADER + "\n".join(line for line in extended if line not in base) + "\n")
    COMMON.write_text(HEADER + "\n".join(common) + "\n")
    LIBRARIES.write_text(HEADER + "\n".join(libraries) + "\n")


def _resolve(locked: list[Path], *extras: str) -> list[str]:
    """The lines of a new lock that keeps what `locked` pins wherever it may."""
    with tempfile.TemporaryDirectory() as scratch:
        pins = Path(scratch, "triple.in")
        pins.write_text("torch==2.13.0\ntorchrec==1.8.0\nfbgemm-gpu==1.8.0\n")
        resolved = Path(scratch, "resolved.txt")
        resolved.write_text("".join(path.read_text() for path in locked if path.exists()))
        words = "uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --no-header --no-annotate"
        subprocess.run([*words.split(), *extras, pins, "--quiet", "--output-file", resolved], cwd=ROOT, check=True)
        return [_plain(line) for line in resolved.read_text().splitlines()]


def _plain(line: str) -> str:
    """A lock line without the markers that hold on every machine the locks are for."""
    requirement, _, marker = line.partition(" ; ")
    clauses = [clause for clause in marker.split(" and ") if clause and not IMPLIED.fullmatch(clause)]
    return f"{requirement}; {' and '.join(clauses)}" if clauses else requirement


if __name__ == "__main__":
    main()
