"""The closing line of a verb: where its result lies, and what to do next."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from intrr_rec.io.console import say


def close(*nexts: str, lies: object = None) -> None:
    """Say on standard error where the result `lies` and which command comes next; the main rank alone says it."""
    if os.environ.get("RANK", "0") != "0":
        return
    where = f"{lies} is written; " if lies is not None else ""
    say(f"{where}next: {' | '.join(nexts)}", err=True)


def beside(place: Path, name: str) -> str:
    """What is called `name` where a place lies."""
    from intrr_rec.io.stores.mirror import origin

    real = origin(place)
    return str(real.parent / name) if isinstance(real, Path) else f"{real.rpartition('/')[0]}/{name}"


def command(verb: str, *words: object) -> str:
    """A command line that can be copied."""
    return shlex.join(["intrr", verb, *map(str, words)])
