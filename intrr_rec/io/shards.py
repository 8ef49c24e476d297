"""Long jobs made of shards: finished ones are kept beside the target until the whole is published, so a killed job goes on; beside a URL in its store.

The folder of the finished shards is named after the job, what it reads and its settings: another job's shards are never taken
for this one's. An interrupted job gives the same bytes as one that was not. Beside each shard lies its SHA-256; a shard that is
changed or cut, or was killed before its hash was written, is made again.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.io.artefact import file_hash
from intrr_rec.io.console import console, shows_bars
from intrr_rec.io.disk.atomic import replacing, write_json
from intrr_rec.io.disk.lock import Lock, Taken, is_held
from intrr_rec.io.disk.places import writing_to, written_through
from intrr_rec.io.launcher import SPEAK_EVERY, patience, stray
from intrr_rec.io.stores import scratch
from intrr_rec.io.stores.staging import at_end
from intrr_rec.io.stores.storage import Folder

log = logging.getLogger(__name__)
JOB = "job.json"
WAIT_SECONDS = 0.2  # between two looks for a shard of another rank
_kept: dict[Path, Folder] = {}  # where the shards of a folder are kept in a store
Advance = Callable[[int, bool], None]


def identity(job: Mapping[str, Any]) -> str:
    """SHA-256 of what a job reads and how it is set."""
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()


@contextmanager
def staging(out: Path, verb: str, job: Mapping[str, Any], rank: int = 0) -> Iterator[Path]:
    """The folder of this job's finished shards, held by one process a rank, removed by rank 0 once its block ends well.

    Raises:
        ArtefactError: another process is at the same job.
        PlaceError: it cannot be written.
    """
    out = written_through(out).absolute()
    folder = out.with_name(f".{out.name}.{verb}-{identity(job)[:16]}")
    with writing_to(out):
        others = [path.name for path in out.parent.glob(f".{glob.escape(out.name)}.{verb}-*") if path != folder]
        if others:
            log.warning(
                "%s: unfinished work of other settings lies in %s; remove it if not wanted", out.parent, others[0]
            )
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = Lock(lock_file(folder, rank))
        except Taken:
            raise ArtefactError(f"{out}: another process is at the same job; wait for it or stop it") from None
        with lock, _keeping(folder, out, rank):
            if finished := len(list(folder.glob("part-*.parquet"))):
                log.info("%s: going on after %d finished shards", out, finished)
            elif not rank:
                write_json(folder / JOB, job)
            ended = False
            try:
                yield folder
                ended = True
            finally:
                if not rank and (ended or not any(folder.glob("part-*.parquet"))):
                    shutil.rmtree(folder, ignore_errors=not ended)


@contextmanager
def _keeping(folder: Path, out: Path, rank: int) -> Iterator[None]:
    """Where `out` stands for a URL: bring the finished shards that are kept beside it, and keep each that is made."""
    url = scratch.named(out)
    if url is None:
        yield
        return
    sizes = [os.environ.get(name, "1") for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")]
    if sizes[0] != sizes[1] and "LOCAL_WORLD_SIZE" in os.environ:
        raise ConfigError(f"{url}: ranks on several nodes share no shards at a URL; use one node, or a mounted folder")
    store = Folder.at(f"{url.rpartition('/')[0]}/{folder.name}")
    for name in store.beside("part-"):
        if not rank and not (folder / name).exists():
            store.fetch(name, folder / name)
    _kept[folder] = store
    try:
        yield
    finally:
        del _kept[folder]
    if not rank:
        at_end(lambda: store.remove_folder(""))


def lock_file(folder: Path, rank: int) -> Path:
    """What the process of this rank holds locked while it makes shards in `folder`."""
    return folder / f".lock-{rank}"


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"part-{number:05d}.parquet"


def write_shard(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a shard, then its hash: a shard counts as finished once both are there.

    Raises:
        PlaceError: the disk is full or cannot be written.
    """
    with replacing(path, binary=True) as handle:
        pq.write_table(table, handle, **options)
    _seal(path)


def take_shard(known: Path, shard: Path) -> None:
    """Make a file that was verified a finished shard of this job.

    Raises:
        PlaceError: as `write_shard`.
    """
    shard.unlink(missing_ok=True)
    link(known, shard)
    _seal(shard)


def _seal(shard: Path) -> None:
    seal = _seal_of(shard)
    with replacing(seal) as handle:
        handle.write(file_hash(shard))
    if shard.parent in _kept:
        for path in (shard, seal):
            _kept[shard.parent].put(path.name, path)


def _seal_of(shard: Path) -> Path:
    return shard.with_suffix(".sha256")


def shard_rows(shard: Path) -> int | None:
    """Rows of a finished shard; None where there is none whose hash is the one beside it."""
    try:
        if _seal_of(shard).read_text(encoding="ascii", errors="replace") != file_hash(shard):
            return None
        return int(pq.read_metadata(shard).num_rows)
    except (OSError, pa.ArrowException):
        return None


def awaited_rows(shard: Path, rank: int, size: int) -> int:
    """Rows of a shard that the process of `rank` makes; waits while that process lives, or until it is given up.

    Raises:
        ConfigError: nobody of that rank has been at work for `patience()` seconds.
    """
    alive = time.monotonic()  # when that rank was last seen, or when we began to look
    spoke = 0.0
    while (rows := shard_rows(shard)) is None:
        now = time.monotonic()
        if held := is_held(lock_file(shard.parent, rank)):
            alive = now
        if now - alive > patience():
            raise ConfigError(
                f"rank {rank} of {size} did not come within {patience():.0f} s, so {shard.name} is not made; the same command "
                f"goes on; {stray()}"
            )
        if now - spoke >= SPEAK_EVERY:
            spoke = now
            doing = "is at work" if held else f"is not there yet, waiting {patience() - now + alive:.0f} s more"
            log.warning("waiting for %s of rank %d of %d, which %s", shard.name, rank, size, doing)
        time.sleep(WAIT_SECONDS)
    return rows


def link(shard: Path, target: Path) -> None:
    """Hard link, so that the shard stays resumable until the artefact is published; copy where links are not to be had."""
    try:
        target.hardlink_to(shard)
    except OSError:
        shutil.copy2(shard, target)


@contextmanager
def progress(verb: str, what: str, total: int | None) -> Iterator[Advance]:
    """A bar on a terminal, a log line every ten seconds elsewhere; yields what is told (how many done, newly or not)."""
    if shows_bars():
        columns = [*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()]
        with Progress(*columns, console=console(stderr=True)) as bar:
            task = bar.add_task(verb, total=total)
            yield lambda count, new: bar.advance(task, count)
        return
    started = spoke = time.monotonic()
    done = made = 0

    def advance(count: int, new: bool) -> None:
        nonlocal done, made, spoke
        done, made = done + count, made + count * new
        if made and time.monotonic() - spoke > 10:
            spoke = time.monotonic()
            rate = made / (spoke - started)
            of, left = ("", "") if total is None else (f" of {total}", f", {(total - done) / rate:.0f} s left")
            log.info("%s: %d%s %s, %.0f a second%s", verb, done, of, what, rate, left)

    yield advance
