"""A run folder in a store: the job works in a copy on its own disk, and puts there what has changed, checkpoint by checkpoint.

The copy holds the small files alone: checkpoints are written to and read from the store itself.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from intrr_rec.io.stores import scratch
from intrr_rec.io.stores.copies import fetch_all
from intrr_rec.io.stores.lease import Lease
from intrr_rec.io.stores.storage import Folder, Location, location

CHECKPOINTS, LAST = "checkpoints", "results.json"
_mirrors: dict[Path, RunMirror] = {}


class RunMirror:
    """The copy `local` of a run folder in a store.

    Args:
        lease: where the copy is written back; None of one that is only read.
    """

    def __init__(self, folder: Folder, local: Path, lease: Lease | None) -> None:
        self.folder, self.local, self.lease = folder, local, lease
        self._pushed: dict[str, tuple[int, int]] = {}
        _mirrors[local] = self

    def pull(self, only: Collection[str] = ()) -> None:
        """Copy the small files here, and remove here what is no longer there; `only` files of some names, where many runs lie
        below the folder.

        Raises:
            ArtefactError: the store cannot be asked.
        """
        found = [name for name in self.folder.names() if not self._is_apart(name)]
        if only:
            found = [name for name in found if name.rpartition("/")[2] in only]
        for name in self._pushed.keys() - set(found):
            (self.local / name).unlink(missing_ok=True)
        fetch_all(self.folder, found, self.local)
        self._pushed = {name: _mark(self.local / name) for name in found}

    def push(self) -> None:
        """Put there what has changed here, and remove there what is no longer here; `results.json`, which vouches for the
        others, is the last.

        Raises:
            ArtefactError: the lease was lost.
            PlaceError: the store does not take it.
        """
        if self.lease is None:
            return
        self.lease.require()
        files = [path for path in self.local.rglob("*") if path.is_file()]
        names = {path.relative_to(self.local).as_posix() for path in files}
        marks = {name: _mark(self.local / name) for name in names if not self._is_apart(name)}
        changed = sorted(name for name, mark in marks.items() if self._pushed.get(name) != mark)
        if LAST in changed:
            self.folder.remove(LAST)  # so that at no moment it stands beside files of another evaluation
        for name in sorted(changed, key=lambda name: name == LAST):
            self.folder.put(name, self.local / name)
            self._pushed[name] = marks[name]
        for name in self._pushed.keys() - names:
            self.folder.remove(name)
            del self._pushed[name]

    def close(self) -> None:
        """Forget the copy, which goes with the scratch folder."""
        del _mirrors[self.local]

    def _is_apart(self, name: str) -> bool:
        return any(part == CHECKPOINTS or part.startswith(".") for part in name.split("/"))


def mirror_of(run: Path) -> RunMirror | None:
    """The mirror whose copy a run folder is; None of a run folder on a disk."""
    return _mirrors.get(run)


def origin(place: Path) -> Location:
    """Where something really lies: the URL that a path stands for, or the path."""
    return location(scratch.named(place) or place)


def _mark(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
