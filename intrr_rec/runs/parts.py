"""What an evaluation leaves in a run folder: tables that all ranks write together, and records, which name the tables' hashes.

All is written beside its place first and published by renaming: the old `results.json` goes first, then the other old files, and
the new `results.json` comes last. A job that is killed in between leaves files of one evaluation, without `results.json`, which a
reader takes for a run that is not evaluated. `results.json` also holds the hashes of the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from intrr_rec.errors import ArtefactError
from intrr_rec.io.artefact import file_hash
from intrr_rec.io.disk.atomic import remove_tree, sync, write_json
from intrr_rec.io.disk.places import writing_to
from intrr_rec.io.formats.records import read_sealed, sealed
from intrr_rec.runs.run_files import RESULTS

if TYPE_CHECKING:  # the readers here do without torch
    from intrr_rec.distributed.world import World

STAGING = ".results.tmp"


def write_part(folder: Path, table: pa.Table, world: World) -> None:
    """Write this rank's `table` into `folder`; every rank calls this.

    Raises:
        PlaceError: a rank could not write, on every rank.
    """

    def write() -> None:
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(table, folder / f"part-{world.rank:05d}.parquet")

    world.agree(write)


def publish(
    run: Path, world: World, tables: Callable[[Path], None], records: Callable[[], Mapping[str, dict[str, Any]]]
) -> None:
    """Replace the results of a run; every rank calls this.

    Args:
        run: the run folder.
        tables: writes this rank's tables into the folder it is given, by `write_part`.
        records: the JSON files by name, `results.json` among them; called on the main rank.

    Raises:
        PlaceError: the disk is full or cannot be written, on every rank; the results before are still there.
    """
    staging = run / STAGING

    def begin() -> None:
        if world.is_main:
            remove_tree(staging)
            with writing_to(run):
                staging.mkdir(parents=True)

    def end() -> None:
        if not world.is_main:
            return
        with writing_to(run):
            for name, record in records().items():
                if name != RESULTS:
                    write_json(staging / name, sealed(record))
            files = {
                path.relative_to(staging).as_posix(): file_hash(path)
                for path in sorted(staging.rglob("*"))
                if path.is_file()
            }
            write_json(staging / RESULTS, sealed(records()[RESULTS] | {"files": files}))
            _replace(run, staging)

    try:
        world.agree(begin)
        tables(staging)
        world.agree(end)
    finally:
        if world.is_main:
            remove_tree(staging)


def _replace(run: Path, staging: Path) -> None:
    """Put what lies in `staging` into the run, so that at no moment files of two evaluations lie there."""
    names = sorted((path.name for path in staging.iterdir()), key=lambda name: name == RESULTS)
    for path in staging.rglob("*"):
        sync(path)
    old = staging / "old"
    old.mkdir()
    there = [name for name in reversed(names) if (run / name).exists()]
    try:
        for name in there:
            os.rename(run / name, old / name)
        sync(run)
        for name in names:
            os.rename(staging / name, run / name)
        sync(run)
    except BaseException:
        for name in names:
            if (old / name).exists():
                if (run / name).exists():
                    os.rename(run / name, staging / name)
                os.rename(old / name, run / name)
        raise


def require_whole(run: Path, files: Mapping[str, str]) -> None:
    """Refuse results that an evaluation was killed in the midst of replacing.

    Args:
        files: their hashes by name, as `results.json` tells them.

    Raises:
        ArtefactError: a file is missing or another than the one evaluated.
    """
    for name, expected in files.items():
        path = run / name
        if not path.is_file() or file_hash(path) != expected:
            raise ArtefactError(
                f"{run}: {name} is not of the same evaluation as {RESULTS}, which was interrupted or changed by hand; run "
                f"`intrr evaluate --run {run}` again"
            )


def recorded_files(run: Path) -> dict[str, str]:
    """The hashes that `results.json` tells of the other files of its evaluation.

    Raises:
        ArtefactError: it cannot be read.
    """
    found = (read_sealed(run / RESULTS, f"run `intrr evaluate --run {run}` again") or {}).get("files", {})
    return {str(name): str(digest) for name, digest in found.items()} if isinstance(found, dict) else {}
