"""`run.json`: where the inputs of a run lie, what they hash to, and the command that began it; sealed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from intrr_rec.config import Recipe, is_sealed, load_recipe
from intrr_rec.errors import ArtefactError
from intrr_rec.io.atomic import write_json
from intrr_rec.io.manifest import MANIFEST, Hash, Manifest
from intrr_rec.io.records import read_record, sealed
from intrr_rec.io.storage import Location
from intrr_rec.io.stores.mirror import origin
from intrr_rec.runs.run_files import CONFIG, INPUTS

SCHEMA = 2
FIX = "put the file back, or train again into another --out"
_Place = Annotated[str, Field(min_length=1, max_length=4096)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class RunPaths(_Strict):
    """Where the inputs lie: absolute paths, or URLs."""

    dataset: _Place
    semantic_ids: _Place
    vectors: _Place | None = None
    init_from: _Place | None = None


class RunHashes(_Strict):
    """Content hashes of the inputs."""

    dataset: Hash
    semantic_ids: Hash


class RunRecord(_Strict):
    """`run.json`.

    Attributes:
        relative_paths: where local inputs lie seen from the run, by role, for a project that is moved as a whole.
        job: the TorchX job that trains, if one does.
    """

    run_schema: int = Field(SCHEMA, ge=SCHEMA, le=SCHEMA)
    paths: RunPaths
    relative_paths: dict[str, _Place] = {}
    hashes: RunHashes
    command: str
    job: str | None = None


def read_run_record(run: Path) -> RunRecord:
    """The record of a run folder.

    Raises:
        ArtefactError: not a run folder, or its record was altered.
    """
    record = read_record(run / INPUTS, RunRecord, FIX) if (run / CONFIG).is_file() else None
    if record is None:
        raise ArtefactError(f"{run}: is not a run folder (no {CONFIG} or {INPUTS}); give the --out of `intrr train`")
    return record


def input_place(run: Path, record: RunRecord, role: str) -> str | None:
    """Where an input of a run lies now: where it was, or, in a project that was moved, where it lies seen from the run.

    Of the two, the one that is an artefact of the recorded content is taken.

    Args:
        run: the run folder.
        record: its record.
        role: "dataset", "semantic_ids" or "vectors".
    """
    recorded: str | None = getattr(record.paths, role)
    if recorded is None or "://" in recorded:
        return recorded
    places = [recorded]
    if beside := record.relative_paths.get(role):
        places.append(os.path.normpath(run.absolute() / beside))
    there = [place for place in places if Path(place).exists()]
    expected = getattr(record.hashes, role, None)
    return next(
        (place for place in there if expected and expected == _content_hash(place)), next(iter(there), recorded)
    )


def _content_hash(place: str) -> str | None:
    try:
        found = read_record(Path(place) / MANIFEST, Manifest, FIX)
    except ArtefactError:
        return None
    return None if found is None else found.content_hash


def read_recipe(run: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a run folder, with `overrides`.

    Raises:
        ArtefactError: its `config.yaml` carries no hash.
        ConfigError: it was altered, or an override that is unknown or out of range.
    """
    if not is_sealed(run / CONFIG):
        raise ArtefactError(f"{run / CONFIG}: has no hash of its content, so it is not what training wrote; {FIX}")
    return load_recipe(run / CONFIG, overrides)


def write_run_record(run: Path, paths: dict[str, Location | None], hashes: RunHashes, command: str) -> None:
    """Write the record of a run that begins; of one that goes on only the paths may have changed, and the command stays."""
    origins = {role: origin(path) if isinstance(path, Path) else path for role, path in paths.items()}
    located = {role: str(path.absolute()) if isinstance(path, Path) else path for role, path in origins.items()}
    beside = {
        role: os.path.relpath(path.absolute(), run.absolute())
        for role, path in origins.items()
        if isinstance(path, Path) and origin(run) == run
    }
    there = read_record(run / INPUTS, RunRecord, FIX)
    job = os.environ.get("TORCHX_JOB_ID")
    if there is not None and there.hashes == hashes:
        command, job = there.command, job or there.job
    record = RunRecord(
        paths=RunPaths.model_validate(located), relative_paths=beside, hashes=hashes, command=command, job=job
    )
    if record != there:
        write_json(run / INPUTS, sealed(record.model_dump()))
