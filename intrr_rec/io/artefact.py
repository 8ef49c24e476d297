"""Artefacts: folders that are either whole or absent.

An artefact is data files plus `manifest.json`, written last. It is built in a temporary sibling folder, synced to disk
and swapped into place in one system call, so a reader (or a crash) sees the old artefact or the new one, never a mixture.
What a killed writer leaves is such a sibling; the next writer of the same artefact clears it away.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from intrr_rec.errors import ArtefactError
from intrr_rec.io.atomic import follow_umask, remove_tree, swap_into_place, sync, write_json
from intrr_rec.io.lock import Lock, Taken
from intrr_rec.io.places import writing_to, written_through
from intrr_rec.io.storage import Folder, Location, location

log = logging.getLogger(__name__)
SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
COMPLETE = "complete.json"  # of a checkpoint: the hashes of its files, written last


@dataclass(frozen=True)
class Manifest:
    """What an artefact holds and what it was built from.

    `files` maps each relative path to its SHA-256; `parents` maps a role ("dataset", "vectors") to the content hash of
    what was read in that role.
    """

    kind: str
    files: dict[str, str]
    counts: dict[str, int]
    config: dict[str, Any]
    parents: dict[str, str]
    schema_version: int = SCHEMA_VERSION

    @property
    def content_hash(self) -> str:
        """SHA-256 over the kind, the file hashes and the parents: equal content, equal hash, wherever it lies."""
        identity = {"kind": self.kind, "files": self.files, "parents": self.parents, "schema": self.schema_version}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


@dataclass
class Draft:
    """An artefact being written: put files under `path`, fill in `counts` and `parents`."""

    path: Path
    counts: dict[str, int] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def writing(target: Path | str, kind: str, config: Mapping[str, Any]) -> Iterator[Draft]:
    """Build an artefact and publish it when the block ends without an error.

    The place is locked from the start, so of two jobs that write one artefact the second is refused. A symbolic link is
    written through. The modes of the files follow the umask.

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
                yield from _fill_and_publish(staging, target, kind, config)
            finally:
                remove_tree(staging)


def _fill_and_publish(staging: Path, target: Path, kind: str, config: Mapping[str, Any]) -> Iterator[Draft]:
    draft = Draft(staging)
    yield draft
    paths = sorted(p for p in staging.rglob("*") if p.is_file())
    files = {p.relative_to(staging).as_posix(): file_hash(p) for p in paths}
    manifest = Manifest(kind, files, dict(draft.counts), dict(config), dict(draft.parents))
    for path in paths:
        sync(path)
    write_json(staging / MANIFEST, asdict(manifest))
    follow_umask(staging)
    sync(staging)
    swap_into_place(staging, target)
    if staging.exists() and (added := _unlisted(staging, kind)):  # put there while this job worked
        kept = target.with_name(f"{target.name}.old-{os.getpid()}")
        staging.rename(kept)
        log.warning("%s: held %s, which no manifest lists; the folder as it was is now %s", target, added[0], kept)


def read(path: Location, kind: str) -> Manifest:
    """Read and verify an artefact's manifest, hashing every file it names.

    Args:
        path: a folder, or the URL of one.
        kind: what it must be.

    Raises:
        ArtefactError: no manifest, another kind, another schema, a missing file or a wrong hash.
    """
    folder = Folder.at(location(path))
    if not folder.is_folder():
        raise ArtefactError(f"{path}: no such {kind} artefact; build it first or mend the path")
    if not folder.has(MANIFEST):
        raise ArtefactError(f"{path}: has no {MANIFEST}, so it is not a finished {kind} artefact; build it again")
    try:
        manifest = Manifest(**json.loads(folder.read(MANIFEST)))
    except (ValueError, TypeError) as error:
        raise ArtefactError(f"{path}/{MANIFEST}: cannot be read ({error}); build the artefact again") from None
    if manifest.kind != kind:
        raise ArtefactError(f"{path}: is a '{manifest.kind}' artefact, but a '{kind}' artefact is needed here")
    if manifest.schema_version != SCHEMA_VERSION:
        raise ArtefactError(
            f"{path}: schema {manifest.schema_version}, this version reads {SCHEMA_VERSION}; rebuild it"
        )
    for name, expected in manifest.files.items():
        if not folder.has(name):
            raise ArtefactError(f"{path}: file {name} is missing; build the artefact again")
        if folder.hash(name) != expected:
            raise ArtefactError(f"{path}: file {name} was altered (its hash differs from {MANIFEST}); build it again")
    return manifest


def require_parent(path: Location, manifest: Manifest, role: str, parent_path: Location, parent: Manifest) -> None:
    """Refuse an artefact that was built from another `role` than the one given.

    Raises:
        ArtefactError: the recorded content hash differs from `parent`'s.
    """
    recorded = manifest.parents.get(role)
    if recorded != parent.content_hash:
        was = (recorded or "nothing")[:12]
        raise ArtefactError(
            f"{path}: was built from {role} {was}, but {parent_path} is {parent.content_hash[:12]}; "
            f"build it again from {parent_path} or give the {role} it came from"
        )


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
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        listed = {MANIFEST, *manifest["files"]} if manifest["kind"] == kind else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if listed is None:
        return None
    there = (p for p in path.rglob("*") if p.is_symlink() or not p.is_dir())
    return sorted(name for p in there if (name := p.relative_to(path).as_posix()) not in listed)
