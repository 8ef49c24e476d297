"""Artefacts: folders that are either whole or absent.

An artefact is data files plus `manifest.json`, written last. It is built in a temporary sibling folder, synced to disk
and swapped into place in one system call, so a reader (or a crash) sees the old artefact or the new one, never a mixture.
What a killed writer leaves is such a sibling; the next writer of the same artefact clears it away.
"""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.atomic import follow_umask, remove_tree, swap_into_place, sync, write_json
from intrr_rec.io.disk.lock import Lock, Taken
from intrr_rec.io.disk.opened import Opened, open_artefact, peek, read
from intrr_rec.io.disk.places import writing_to, written_through
from intrr_rec.io.formats.records import parse_json
from intrr_rec.io.manifest import COMPLETE, MANIFEST, SCHEMA_VERSION, Manifest, require_parent
from intrr_rec.io.versions import keep_version

__all__ = [
    "COMPLETE",
    "MANIFEST",
    "SCHEMA_VERSION",
    "Draft",
    "Manifest",
    "Opened",
    "file_hash",
    "open_artefact",
    "peek",
    "read",
    "require_parent",
    "writing",
]
log = logging.getLogger(__name__)


@dataclass
class Draft:
    """An artefact being written: put files under `path`, fill in `counts` and `parents`; `config` adds to what is there.

    `hashes` are those of files that were hashed as they were written.
    """

    path: Path
    counts: dict[str, int] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def writing(target: Path | str, kind: str, config: Mapping[str, Any], *, keep_old: bool = False) -> Iterator[Draft]:
    """Build an artefact and publish it when the block ends without an error.

    The place is locked from the start, so of two jobs that write one artefact the second is refused. A symbolic link is
    written through. The modes of the files follow the umask.

    Args:
        target: its folder.
        kind, config: of the manifest.
        keep_old: keep the artefact that is there as a version beside the new one; see `versions`.

    Raises:
        ArtefactError: `target` exists and is not an artefact of this kind, holds a file that its manifest does not list
            (nothing of the user's is overwritten), or another job is writing it.
        ConfigError: `target` is a URL.
        PlaceError: it cannot be written, or the disk is full; what was there is still there.
    """
    target = written_through(target).absolute()
    with writing_to(target):
        _require_ours(target, kind)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = Lock(target.with_name(f".{target.name}.lock"))
        except Taken:
            raise ArtefactError(
                f"{target}: another job is writing there; wait for it, or choose another --out"
            ) from None
        with lock:
            if lock.certain:
                for stale in target.parent.glob(f".{glob.escape(target.name)}.tmp-*"):
                    remove_tree(stale)
            staging = target.with_name(f".{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
            staging.mkdir()
            try:
                yield from _fill_and_publish(staging, target, kind, config, keep_old)
            finally:
                remove_tree(staging)


def _fill_and_publish(
    staging: Path, target: Path, kind: str, config: Mapping[str, Any], keep_old: bool
) -> Iterator[Draft]:
    draft = Draft(staging)
    yield draft
    paths = sorted(p for p in staging.rglob("*") if p.is_file())
    named = {p.relative_to(staging).as_posix(): p for p in paths}
    files = {name: draft.hashes.get(name) or file_hash(path) for name, path in named.items()}
    settings = {**config, **draft.config}
    manifest = Manifest(kind=kind, files=files, counts=dict(draft.counts), config=settings, parents=dict(draft.parents))
    for path in paths:
        sync(path)
    write_json(staging / MANIFEST, manifest.document())
    follow_umask(staging)
    sync(staging)
    if keep_old and _differs(target / MANIFEST, staging / MANIFEST):
        keep_version(target)
    swap_into_place(staging, target)
    if staging.exists() and (added := _unlisted(staging, kind)):  # put there while this job worked
        kept = target.with_name(f"{target.name}.old-{os.getpid()}")
        staging.rename(kept)
        log.warning("%s: held %s, which no manifest lists; the folder as it was is now %s", target, added[0], kept)


def _differs(old: Path, new: Path) -> bool:
    return old.is_file() and old.read_bytes() != new.read_bytes()


def _require_ours(target: Path, kind: str) -> None:
    """Refuse to replace anything but an artefact of this kind, whole as we wrote it, or an empty folder."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    unlisted = _unlisted(target, kind)
    if unlisted is None:
        raise ArtefactError(f"{target}: exists and is not a '{kind}' artefact; choose another --out or remove it")
    if unlisted:
        more = f" and {len(unlisted) - 1} more" if unlisted[1:] else ""
        raise ArtefactError(
            f"{target}: holds {unlisted[0]}{more}, not listed in its {MANIFEST}; move what is yours away, or choose another --out"
        )


def _unlisted(path: Path, kind: str) -> list[str] | None:
    """Files and links in an artefact that its manifest does not list; None where it is no artefact of this kind."""
    try:
        found = parse_json((path / MANIFEST).read_bytes(), str(path), "")
        listed = {MANIFEST, *found["files"]} if found["kind"] == kind else None
    except (OSError, ArtefactError, KeyError, TypeError):
        return None
    if listed is None:
        return None
    there = (p for p in path.rglob("*") if p.is_symlink() or not p.is_dir())
    return sorted(name for p in there if (name := p.relative_to(path).as_posix()) not in listed)
