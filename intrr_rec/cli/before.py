"""What a verb does before it imports torch, which takes seconds: refuses places where nothing is, and shows that it has begun."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from intrr_rec.io.console import console, shows_bars
from intrr_rec.io.launcher import Ranks


def require_artefact(place: Path | str, kind: str) -> None:
    """Refuse a place that holds no finished artefact; a registry of bundles stands for its current one.

    Raises:
        ArtefactError: nothing is there, or no manifest.
    """
    from intrr_rec.io.opened import require_finished
    from intrr_rec.io.registry import current_of
    from intrr_rec.io.storage import Folder

    found = current_of(place)
    require_finished(Folder.at(found), found, kind)


def require_run(place: Path) -> None:
    """Refuse a place that is no run folder.

    Raises:
        ArtefactError: it is none.
    """
    from intrr_rec.runs.run_record import read_run_record

    read_run_record(place)


@contextmanager
def loading() -> Iterator[None]:
    """Show at a terminal that libraries are being loaded, for the length of the block; one rank alone does."""
    if not shows_bars() or Ranks.from_environment().rank:
        yield
        return
    with console(stderr=True).status("loading PyTorch"):
        yield
