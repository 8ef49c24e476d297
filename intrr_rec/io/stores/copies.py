"""Copies between a store and this machine: an artefact, a file, a folder; and an artefact published there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.places import trouble
from intrr_rec.io.formats.records import LARGEST
from intrr_rec.io.manifest import MANIFEST, Manifest
from intrr_rec.io.stores.lease import PREFIX, Lease
from intrr_rec.io.stores.scratch import SCRATCH
from intrr_rec.io.stores.storage import VERSIONS, Folder, version_name

log = logging.getLogger(__name__)
TRIES = 20
TOGETHER = 8  # files that are copied at once


def bring(folder: Folder, target: Path) -> None:
    """Copy what lies at a URL to `target`: an artefact, all of one version of it, a file, or all files below a folder.

    Raises:
        ArtefactError: nothing is there, or the store cannot be asked.
        PlaceError: there is no room for it here.
    """
    try:
        if folder.has(MANIFEST):
            _bring_artefact(folder, target)
        elif folder.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.fetch("", target)
        else:
            folder = _found(folder)
            if folder.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                folder.fetch("", target)
            else:
                fetch_all(folder, folder.names(), target)
    except OSError as error:
        said = trouble(error, target, fix=f"set {SCRATCH} to a folder with room for a copy of {folder.place}")
        raise said or error from None


def fetch_all(folder: Folder, names: Iterable[str], target: Path) -> None:
    """Copy files of a folder, some at once; names keep to `target`.

    Raises:
        ArtefactError: a file cannot be read, or a name leads out of the folder.
    """
    for name in (names := list(names)):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            raise ArtefactError(f"{folder.place}/{name}: is no name of a file inside the folder; remove it")
    _together(lambda name: folder.fetch(name, target / name), names)


def publish(local: Path, folder: Folder, lease: Lease) -> None:
    """Put the artefact `local` into a store: its files first, below a folder of their own, its manifest last.

    The version before is kept for those that read it; older ones are removed.

    Raises:
        ArtefactError: the lease was lost.
        PlaceError: the store does not take it; what was there is still there.
    """
    text = (local / MANIFEST).read_bytes()
    before = folder.read(MANIFEST, LARGEST) if folder.has(MANIFEST) else None
    version = version_name(text)
    if before != text or not folder.has(f"{version}/{MANIFEST}"):
        names = list(Manifest.parse(text, local, None).files)
        _together(lambda name: folder.put(f"{version}/{name}", local / name), names)
        folder.write(f"{version}/{MANIFEST}", text)  # so that a copy of this folder is an artefact
        lease.require()
        folder.write(MANIFEST, text)
    kept = {version, version_name(before) if before is not None else version}
    versions = Folder(f"{folder.place}/{VERSIONS}", folder.files, f"{folder.root}/{VERSIONS}").folders()
    for name in sorted({f"{VERSIONS}/{name}" for name in versions} - kept):
        folder.remove(f"{name}/{MANIFEST}")
        folder.remove_folder(name)


def stand_in(folder: Folder, target: Path) -> None:
    """Have `target` show the writer of an artefact what is at a URL, so that it refuses to replace what is none of its kind.

    Raises:
        ArtefactError: the store cannot be asked.
    """
    if folder.has(MANIFEST):
        target.mkdir(parents=True, exist_ok=True)
        folder.fetch(MANIFEST, target / MANIFEST)
    elif folder.is_file():
        target.write_bytes(b"")
    else:
        own = (PREFIX, f"{VERSIONS}/")
        for name in folder.names():
            if not name.startswith(own):
                path = target / PurePosixPath(name).name
                target.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"")
                return


def _found(folder: Folder) -> Folder:
    """The folder, or, where nothing lies there, the part of an artefact that is called so: `logs/interactions` of `logs`."""
    if folder.is_folder() and folder.names():
        return folder
    url, inside = str(folder.place), ""
    while url.count("/") > 3:
        url, _, name = url.rpartition("/")
        inside = f"{name}/{inside}".rstrip("/")
        above = Folder.at(url)
        if above.has(MANIFEST):
            version = above.version(above.read(MANIFEST, LARGEST))
            part = Folder(folder.place, version.files, f"{version.root}/{inside}")
            if part.is_file() or part.is_folder():
                return part
    raise ArtefactError(f"{folder.place}: nothing is there; correct the URL")


def _bring_artefact(folder: Folder, target: Path) -> None:
    for last in (False,) * (TRIES - 1) + (True,):
        text = folder.read(MANIFEST, LARGEST)
        names = list(Manifest.parse(text, folder.place, None).files)
        try:
            fetch_all(folder.version(text), names, target)
            (target / MANIFEST).write_bytes(text)
            return
        except ArtefactError:  # replaced twice while it was copied: once more
            if last or folder.read(MANIFEST, LARGEST) == text:
                raise


def _together(work: Callable[[str], Any], names: Iterable[str]) -> None:
    with ThreadPoolExecutor(TOGETHER, "copy") as pool:
        for made in [pool.submit(work, name) for name in names]:
            made.result()
