"""`run.json`: where the inputs of a run lie, what they hash to, and the command that began it; sealed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from intrr_rec.config import Recipe, is_sealed, load_recipe
from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.disk.opened import peek
from intrr_rec.io.formats.records import read_record, sealed
from intrr_rec.io.manifest import MANIFEST, Hash, Manifest
from intrr_rec.io.stores.mirror import origin
from intrr_rec.io.stores.storage import VERSIONS, Folder, Location
from intrr_rec.io.versions import find_version, version_of
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
        versions: number of each input that is a version of an artefact, by role; see `io.versions`.
        job: the TorchX job that trains, if one does.
    """

    run_schema: int = Field(SCHEMA, ge=SCHEMA, le=SCHEMA)
    paths: RunPaths
    relative_paths: dict[str, _Place] = {}
    hashes: RunHashes
    versions: dict[str, int] = {}
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


def input_place(run: Path, record: RunRecord, role: str, is_wanted: Callable[[Path], bool] | None = None) -> str | None:
    """Where an input of a run lies now: where it was, or, in a project that was moved, where it lies seen from the run.

    Of the two, and of the older versions kept beside them, the one that is an artefact of the recorded content is taken; where none
    is, the first of the two that is there.

    Args:
        run: the run folder.
        record: its record.
        role: "dataset", "semantic_ids" or "vectors".
        is_wanted: whether an artefact is the one; left out, by the hash in the record. The record has none of "vectors".
    """
    recorded: str | None = getattr(record.paths, role)
    expected = getattr(record.hashes, role, None)
    if recorded is None or "://" in recorded:
        return recorded if recorded is None or expected is None else _version_in_store(recorded, expected)
    places = [Path(recorded)]
    if beside := record.relative_paths.get(role):
        places.append(Path(os.path.normpath(run.absolute() / beside)))
    if is_wanted is None and expected is not None:
        is_wanted = partial(_is_of, expected)
    if is_wanted is not None:
        found = next((found for place in places if (found := find_version(place, is_wanted))), None)
        if found is not None:
            return str(found)
    return next((str(place) for place in places if place.exists()), recorded)


def _is_of(expected: str, place: Path) -> bool:
    found = read_record(place / MANIFEST, Manifest, FIX)
    return found is not None and found.content_hash == expected


def _version_in_store(url: str, expected: str) -> str:
    """The URL of the version of an artefact in a store that has this content; the URL itself where none has."""
    try:
        versions = Folder.at(f"{url}/{VERSIONS}").folders()
    except ArtefactError:
        versions = []
    for place in (url, *(f"{url}/{VERSIONS}/{name}" for name in versions)):
        with suppress(ArtefactError):
            if peek(place).content_hash == expected:
                return place
    return url


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
    versions = {
        role: version_of(path)
        for role, path in origins.items()
        if isinstance(path, Path) and role in RunHashes.model_fields
    }
    there = read_record(run / INPUTS, RunRecord, FIX)
    job = os.environ.get("TORCHX_JOB_ID")
    if there is not None and there.hashes == hashes:
        command, job, versions = there.command, job or there.job, there.versions
    record = RunRecord(
        paths=RunPaths.model_validate(located),
        relative_paths=beside,
        hashes=hashes,
        versions=versions,
        command=command,
        job=job,
    )
    if record != there:
        write_json(run / INPUTS, sealed(record.model_dump()))
