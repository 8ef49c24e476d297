"""Which job made which artefact, in TorchX's own tracker: a folder of records beside the artefacts.

`torchx tracker` reads it where .torchxconfig names the file `tracker.conf` of the work folder: docs/cluster.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import fsspec
from torchx.runner import Runner
from torchx.specs import AppStatus
from torchx.tracker.backend.fsspec import FsspecTracker

from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.atomic import write_text
from intrr_rec.io.disk.places import not_the_input
from intrr_rec.io.stores.storage import Location

FOLDER, CONFIG = "tracker", "tracker.conf"


def status_of(runner: Runner, job: str) -> AppStatus | None:
    """How a job is; None where its scheduler has forgotten it.

    Args:
        job: handle from a record that may be anybody's.

    Raises:
        ArtefactError: it is no handle, or of a scheduler that is not here or cannot be asked.
    """
    try:
        return runner.status(job)
    except Exception as error:  # each scheduler has errors of its own
        not_the_input(error)
        said = f"{type(error).__name__}: {error}"[:300]
        raise ArtefactError(
            f"job {job}: its scheduler cannot be asked ({said}); correct or remove the record of it"
        ) from None


def link(work: Path, job: str, name: str, place: Location, content_hash: str, before: Sequence[str]) -> None:
    """Record what a job made, and the jobs whose artefacts it read, unless that is known already.

    Args:
        work: folder of the pipeline.
    """
    (work / FOLDER).mkdir(exist_ok=True)
    write_text(work / CONFIG, f"protocol=file\nroot_path={work / FOLDER}\n")
    tracker = _tracker(work)
    if name in tracker.artifacts(job):
        return
    for source in before:
        tracker.add_source(job, source)
    tracker.add_artifact(job, name, str(place), {"sha256": content_hash})


def linked(work: Path, job: str) -> dict[str, tuple[str, str]]:
    """Place and content hash of what a job made, by the stage's name."""
    found = _tracker(work).artifacts(job)
    return {name: (item.path, str((item.metadata or {})["sha256"])) for name, item in found.items()}


def _tracker(work: Path) -> FsspecTracker:
    return FsspecTracker(fsspec.filesystem("file"), str(work / FOLDER))
