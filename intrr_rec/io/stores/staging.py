"""URLs where a verb takes paths: copied here before it begins, and published when it has ended well.

A verb works on paths, in a scratch folder of its job (`scratch`). What it reads is copied there; what it writes is published by
`copies.publish`, and the place is leased from the start. A run folder is a mirror, whose checkpoints stay in the store.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from intrr_rec.errors import ArtefactError, ConfigError, PlaceError, Stopped, UserError
from intrr_rec.io.disk.atomic import remove_tree
from intrr_rec.io.disk.lock import Lock
from intrr_rec.io.disk.places import url_fault, url_of
from intrr_rec.io.launcher import Ranks
from intrr_rec.io.manifest import MANIFEST
from intrr_rec.io.registry import REGISTRY, current_of
from intrr_rec.io.stores import copies, scratch
from intrr_rec.io.stores.lease import Lease
from intrr_rec.io.stores.mirror import RunMirror, mirror_of
from intrr_rec.io.stores.storage import OF_ARROW, Folder

_DONE, _LOCK = ".done", ".lock"
_alive: list[Staging] = []  # of all threads; the scratch folder goes with the last
_here = threading.local()


class Staging:
    """The places of one call of a verb. Paths come back as they are; URLs as paths that stand for them."""

    def __init__(self) -> None:
        self.is_main = Ranks.from_environment().rank == 0
        self._leases: list[Lease] = []
        self._brought: list[tuple[Path, str]] = []
        self._ends: list[Callable[[], None]] = []
        self._mirrors: list[RunMirror] = []
        self.afterwards: list[Callable[[], None]] = []

    def bring(self, place: Path | str) -> Path:
        """A file, folder or artefact to read.

        Raises:
            ArtefactError: nothing is there, or the store cannot be asked.
            ConfigError: a URL that no store answers to.
        """
        url = url_of(place)
        if url is None:
            return Path(place)
        url = str(current_of(url))
        target = self._once("in", url, lambda path: copies.bring(openable(url), path))
        self._brought.append((target, url))
        return target

    def artefact(self, place: Path | str, *, with_content: bool = False) -> Path:
        """An artefact to write, published at the end.

        Args:
            with_content: copy what is there, for a verb that adds to it.

        Raises:
            ArtefactError, PlaceError: another job writes there, or the store does not take it.
        """
        url = url_of(place)
        if url is None:
            return Path(place)
        folder = openable(url)
        lease = self._lease(folder)
        get = copies.bring if with_content and folder.has(MANIFEST) else copies.stand_in
        target = self._once("out", url, lambda path: get(folder, path))
        if lease is not None:
            self._ends.append(lambda: copies.publish(target, folder, lease))
        return target

    def file(self, place: Path | str) -> Path:
        """A file to write, put there at the end.

        Raises:
            ArtefactError: the store cannot be asked.
        """
        url = url_of(place)
        if url is None:
            return Path(place)
        folder = openable(url)
        if folder.is_folder():
            raise PlaceError(f"{url}: is a folder; name a file")
        parent = openable(url.rpartition("/")[0])
        probe = f".{url.rpartition('/')[2]}.probe-{os.getpid()}"
        parent.write(probe, b"")
        parent.remove(probe)
        target = self._once("out", url, lambda path: None)
        self._ends.append(lambda: folder.put("", target) if target.exists() else None)
        return target

    def run(self, place: Path | str, *, write: bool, only: Collection[str] = (), anew: bool = False) -> Path:
        """A run folder; or one with run folders below it, of which `only` files of some names are needed.

        Args:
            anew: ask the store again for what this job may have a copy of, which another job writes.

        Raises:
            ArtefactError, PlaceError: another job writes there, or the store cannot be asked.
        """
        url = url_of(place)
        if url is None:
            return Path(place)
        sizes = [os.environ.get(name) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")]
        if write and sizes[1] is not None and sizes[0] != sizes[1]:
            raise ConfigError(f"{url}: ranks on several nodes share no copy of a run at a URL; give a mounted folder")
        folder = openable(url)
        if not write and (folder.has(MANIFEST) or folder.has(REGISTRY)):  # a bundle, where a verb reads either
            return self.bring(url)
        lease = self._lease(folder) if write else None
        target = scratch.place_in(scratch.scratch(), "run", url)
        if (known := mirror_of(target)) is None:
            mirror = RunMirror(folder, target, lease)
            self._mirrors.append(mirror)
            self._once("run", url, lambda path: mirror.pull(only))
        elif anew:
            known.pull(only)
        return target

    def end(self) -> None:
        """Publish all that was written."""
        for mirror in self._mirrors:
            mirror.push()
        if not self.is_main:
            return
        for publish in self._ends:
            publish()
        for target, url in self._brought:  # pages that a verb writes beside what it reads
            parent = openable(url.rpartition("/")[0])
            for path in target.parent.iterdir():
                if path.is_file() and path.name not in (target.name, _DONE, _LOCK):
                    parent.put(path.name, path)
        for work in self.afterwards:
            work()

    def push_runs(self) -> None:
        """Put what has changed in run folders."""
        for mirror in self._mirrors:
            mirror.push()

    def close(self) -> None:
        """Let go of all places."""
        for mirror in self._mirrors:
            mirror.close()
        for lease in self._leases:
            lease.release()

    @property
    def has_copies(self) -> bool:
        """Whether anything lies in the scratch folder."""
        return bool(self._brought or self._ends or self._mirrors or self._leases)

    def _lease(self, folder: Folder) -> Lease | None:
        if not self.is_main:
            return None
        self._leases.append(Lease(folder))
        return self._leases[-1]

    def _once(self, role: str, url: str, make: Callable[[Path], None]) -> Path:
        """The path that stands for a URL, made by the first process of the job on this machine."""
        target = scratch.place_in(scratch.scratch(), role, url)
        target.parent.mkdir(parents=True, exist_ok=True)
        with Lock(target.parent / _LOCK, wait=True):
            if not (target.parent / _DONE).exists():
                make(target)
                (target.parent / _DONE).touch()
        scratch.name(target, url)
        return target


@contextmanager
def staged() -> Iterator[Staging]:
    """Places for the length of the block, published where it ends well; within another such block, that one's.

    Raises:
        UserError: as the block raised it, with URLs for the paths that stand for them.
    """
    if (outer := _outermost()) is not None:
        yield outer
        return
    staging = _here.staging = Staging()
    _alive.append(staging)
    try:
        yield staging
        staging.end()
    except Stopped:
        staging.push_runs()
        raise
    except UserError as error:
        said = scratch.in_words(str(error))
        if said == str(error):
            raise
        if "the disk is full" in said:
            said += f"; it is the disk of the copies that is full: set {scratch.SCRATCH} to a folder with more room"
        raise type(error)(said) from None
    finally:
        _here.staging = None
        _alive.remove(staging)
        staging.close()
        if staging.has_copies and not _alive:
            scratch.remove()


def _outermost() -> Staging | None:
    """The staging that this thread is in."""
    found: Staging | None = getattr(_here, "staging", None)
    return found


def at_end(work: Callable[[], None]) -> None:
    """Do `work` when all is published."""
    outer = _outermost()
    if outer is None:
        work()
    else:
        outer.afterwards.append(work)


def require_store(url: str) -> None:
    """Refuse a URL that no file system here opens; no store is asked.

    Raises:
        ConfigError: names the URL.
    """
    scheme = url.partition("://")[0].lower()
    if scheme == "file":
        raise ConfigError(url_fault(url) or url)
    if scheme not in OF_ARROW:
        openable(url)


def openable(url: str) -> Folder:
    """The folder of a URL.

    Raises:
        ConfigError: no store answers to such URLs, or the store cannot be reached.
    """
    try:
        if url.partition("://")[0].lower() == "file":
            raise ConfigError(url_fault(url) or url)
        return Folder.at(url)
    except ArtefactError as error:
        raise ConfigError(str(error)) from None


@contextmanager
def copied(place: Path | str) -> Iterator[Path]:
    """A copy of an artefact for the length of the block, as it lies at a URL now; a path is itself.

    Files that are open at the end of the block can still be read.

    Raises:
        ArtefactError: as `Staging.bring`.
    """
    url = url_of(place)
    if url is None:
        yield Path(place)
        return
    fresh = scratch.place_in(scratch.scratch(), f"copy-{secrets.token_hex(4)}", url)
    scratch.name(fresh, url)
    try:
        fresh.parent.mkdir(parents=True)
        copies.bring(openable(url), fresh)
        yield fresh
    finally:
        remove_tree(fresh.parent)
