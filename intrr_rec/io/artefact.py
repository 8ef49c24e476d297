"""Artefacts: folders that are either whole or absent.

An artefact is data files plus `manifest.json`, written last. It is built in a temporary sibling folder, synced to disk
and swapped into place in one system call, so a reader (or a crash) sees the old artefact or the new one, never a mixture.
What a killed writer leaves is such a sibling; the next writer of the same artefact clears it away.
"""

from __future__ import annotations

import ctypes
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from intrr_rec.errors import ArtefactError
from intrr_rec.io.storage import Folder, Location, location

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

    Raises:
        ArtefactError: `target` exists and is not an artefact of this kind (nothing of the user's is overwritten).
    """
    target = Path(target).absolute()
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]) and not _is_kind(target, kind):
        raise ArtefactError(f"{target}: exists and is not a '{kind}' artefact; choose another --out or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtefactError(f"{target}: cannot be written ({error.strerror}); choose another --out") from None
    _clear_stale(target)
    staging, lock = _make_staging(target)
    try:
        draft = Draft(staging)
        yield draft
        paths = sorted(p for p in staging.rglob("*") if p.is_file())
        files = {p.relative_to(staging).as_posix(): file_hash(p) for p in paths}
        manifest = Manifest(kind, files, dict(draft.counts), dict(config), dict(draft.parents))
        for path in paths:
            sync(path)
        write_json(staging / MANIFEST, asdict(manifest))
        sync(staging)
        staging.chmod(0o755)
        swap_into_place(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


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


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name, sync, rename."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a crash leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(staging, "w", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(staging, path)
        sync(path.parent)
    finally:
        staging.unlink(missing_ok=True)


def swap_into_place(staging: Path, target: Path) -> None:
    """Put the folder `staging` at `target`; what was there before is removed only after the swap."""
    if not target.exists():
        os.rename(staging, target)
    elif not _exchange(staging, target):
        retired = target.with_name(f".{target.name}.old-{os.getpid()}")
        os.rename(target, retired)
        os.rename(staging, target)
        shutil.rmtree(retired, ignore_errors=True)
    sync(target.parent)


def _make_staging(target: Path) -> tuple[Path, int]:
    """A new folder beside `target`, and the descriptor whose lock says that its writer lives."""
    while True:
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
        try:
            lock = os.open(staging, os.O_RDONLY)
        except FileNotFoundError:  # taken for stale by another writer, before it was locked
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # likewise
            os.close(lock)
            continue
        except OSError:
            pass  # a file system without locks: there nobody takes anything for stale
        if staging.exists():
            return staging, lock
        os.close(lock)


def _clear_stale(target: Path) -> None:
    """Remove the staging folders of `target` whose writers are dead: nobody holds their lock."""
    for folder in target.parent.glob(f".{glob.escape(target.name)}.tmp-*"):
        try:
            lock = os.open(folder, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            pass  # its writer lives, or the file system cannot tell
        finally:
            os.close(lock)


def _exchange(a: Path, b: Path) -> bool:
    """Atomically exchange two folders (Linux renameat2); False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    at_cwd, exchange = -100, 2
    return renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0


def sync(path: Path) -> None:
    """Have a file or folder written through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_kind(path: Path, kind: str) -> bool:
    try:
        return json.loads((path / MANIFEST).read_text())["kind"] == kind
    except (OSError, ValueError, KeyError):
        return False
