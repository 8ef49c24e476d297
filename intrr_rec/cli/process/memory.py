"""Too little address space (`ulimit -v`) is said before a verb loads its libraries.

Within less than this the C++ runtimes of PyTorch, OpenBLAS and DuckDB do not raise an error: they end the process, or leave half
a module behind whose next use is a traceback, or wait for a thread that could not start.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping

from intrr_rec.errors import UserError

# Megabytes of address space with which a verb of miniature data comes to its end or to an error of its own.
TRAINS, LOADS_TORCH, LOADS_TABLES, LOADS_LITTLE = 3_000, 2_000, 1_200, 500
NEEDS: Mapping[str, int] = {
    **dict.fromkeys(("train", "evaluate", "export", "promote", "rollback", "serve"), TRAINS),
    **dict.fromkeys(("embed", "index", "plan", "recommend"), LOADS_TORCH),
    **dict.fromkeys(
        ("prepare", "validate", "describe", "generate", "concat-vectors", "inspect-ids", "doctor"), LOADS_TABLES
    ),
    **dict.fromkeys(("runs", "report", "compare"), LOADS_TABLES),
    **dict.fromkeys(("pipeline", "tune", "fetch", "settings"), LOADS_LITTLE),
}
POOLS = 3  # of threads, by OpenMP, OpenBLAS and the reader of Parquet
USUAL_STACK = 8 << 20  # bytes, where the limit of a stack is none
MEGABYTE = 1 << 20


def require_address_space(verb: str) -> None:
    """Refuse to begin where the limit of address space leaves no room for the libraries and the stacks of their threads.

    Raises:
        UserError: tells the limit and what is needed.
    """
    limit = min((soft for soft in (_soft(resource.RLIMIT_AS), _soft(resource.RLIMIT_DATA)) if soft), default=None)
    needed = NEEDS.get(verb, 0) * MEGABYTE + POOLS * (_threads() - 1) * (_soft(resource.RLIMIT_STACK) or USUAL_STACK)
    if limit is not None and limit < needed:
        raise UserError(
            f"memory: the limit of address space is {limit // MEGABYTE:,} MB (`ulimit -v`), and {verb} needs "
            f"{-(-needed // MEGABYTE):,} MB for its libraries and the stacks of their threads; raise it, or start fewer threads "
            "(OMP_NUM_THREADS)"
        )


def _soft(kind: int) -> int | None:
    """The limit that holds, in bytes; None where there is none."""
    found = resource.getrlimit(kind)[0]
    return None if found == resource.RLIM_INFINITY else found


def _threads() -> int:
    """How many threads a pool starts."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return max(1, int(asked) if asked.isdigit() else os.cpu_count() or 1)
