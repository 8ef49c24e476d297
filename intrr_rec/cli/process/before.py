"""What a verb does before it imports torch, which takes seconds: refuses places where nothing is, and shows that it has begun."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from intrr_rec.errors import ArtefactError
from intrr_rec.io.console import console, shows_bars
from intrr_rec.io.launcher import Ranks

log = logging.getLogger(__name__)


def require_artefact(place: Path | str, kind: str) -> None:
    """Refuse a place that holds no finished artefact; a registry of bundles stands for its current one.

    Raises:
        ArtefactError: nothing is there, or no manifest.
    """
    from intrr_rec.io.disk.opened import require_finished
    from intrr_rec.io.registry import current_of
    from intrr_rec.io.stores.storage import Folder

    found = current_of(place)
    require_finished(Folder.at(found), found, kind)


def require_run(place: Path) -> None:
    """Refuse a place that is no run folder.

    Raises:
        ArtefactError: it is none.
    """
    from intrr_rec.runs.run_record import read_run_record

    read_run_record(place)


def require_vectors(place: Path | None) -> None:
    """Refuse vectors that are not there.

    Raises:
        ArtefactError: nothing has this name.
    """
    if place is not None and not place.exists():
        raise ArtefactError(f"{place}: does not exist; give --vectors a Parquet file or what `intrr embed` wrote")


@contextmanager
def loading() -> Iterator[None]:
    """Show that libraries are being loaded, at a terminal for the length of the block, in a log as a line; one rank alone does."""
    if Ranks.from_environment().rank:
        yield
    elif shows_bars():
        with console(stderr=True).status("loading PyTorch"):
            yield
    else:
        log.info("loading PyTorch")
        yield
