"""Opening an artefact: verified, held open while it is read, so that a swap in the meantime mixes nothing.

Where the system has `/proc`, the folder and its files (up to `MOST_HELD`) are held by their descriptors: all is read of the one
artefact that was verified, even when another takes its name or it is removed. Elsewhere, and for an object store, the manifest
is read again at the end and the whole is opened anew where it has changed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from intrr_rec.errors import ArtefactError, UserError
from intrr_rec.io.disk.places import not_the_input
from intrr_rec.io.formats.records import LARGEST, Record, as_record, parse_json
from intrr_rec.io.launcher import is_first_of_host
from intrr_rec.io.manifest import MANIFEST, Manifest
from intrr_rec.io.misfit import note_read
from intrr_rec.io.stores.storage import Folder, Location, location

if TYPE_CHECKING:
    import pyarrow.parquet as pq
    from torch import Tensor

log = logging.getLogger(__name__)
T = TypeVar("T")
TRIES = 20
MOST_HELD = 64  # files
HASHED_AT_ONCE = 2  # files: hashing lets other threads run
RESIDENT = 1 << 20  # bytes of a file up to which it is read rather than mapped
_FIX = "build it again"


@dataclass(frozen=True)
class Opened:
    """An artefact whose manifest and hashes were verified.

    Attributes:
        folder: holds the artefact open.
        manifest: its manifest.
    """

    folder: Folder
    manifest: Manifest

    def read(self, name: str, largest: int | None = None) -> bytes:
        """A whole file, whose hash is verified once more: what is returned is what the manifest lists.

        Raises:
            ArtefactError: not listed, larger than `largest` bytes, or altered since it was opened.
        """
        expected = self.manifest.files.get(name)
        if expected is None:
            raise ArtefactError(f"{self.folder.place}: its {MANIFEST} lists no {name}; {_FIX}")
        data = self.folder.read(name, largest)
        if hashlib.sha256(data).hexdigest() != expected:
            raise ArtefactError(f"{self.folder.place}: file {name} was altered while it was read; {_FIX}")
        return data

    def json(self, name: str) -> Any:
        """The value of a JSON file.

        Raises:
            ArtefactError: as `read` and `parse_json`.
        """
        return parse_json(self.read(name, LARGEST), f"{self.folder.place}/{name}", _FIX)

    def record(self, name: str, kind: type[Record]) -> Record:
        """A JSON file as `kind`.

        Raises:
            ArtefactError: as `json`, or a field that does not fit.
        """
        return as_record(self.json(name), kind, f"{self.folder.place}/{name}", _FIX)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a safetensors file, in memory of their own: a file that is cut short later ends no process.

        Raises:
            ArtefactError: as `read`, or not a safetensors file.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(self.read(name))
        except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
            raise ArtefactError(f"{self.folder.place}/{name}: is not a safetensors file ({error}); {_FIX}") from None

    def mapped(self, name: str) -> dict[str, Tensor]:
        """The tensors of a safetensors file where they lie: mapped into memory, so that the processes of a host share one copy
        and opening costs nothing; not to be written to.

        A file of up to `RESIDENT` bytes, and one of an object store, is read as by `tensors`. Cutting a mapped file short in its
        place ends the processes that read it; replacing or removing it does not touch them.

        Raises:
            ArtefactError: as `tensors`.
        """
        from safetensors import SafetensorError, safe_open

        path = self.folder.local(name) if name in self.manifest.files else None
        if path is None or Path(path).stat().st_size <= RESIDENT:
            return self.tensors(name)
        try:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 it is no dictionary
        except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError, OSError) as error:
            not_the_input(error)
            raise ArtefactError(f"{self.folder.place}/{name}: is not a safetensors file ({error}); {_FIX}") from None

    def parquet(self, name: str) -> pq.ParquetFile:
        """A Parquet file, open.

        Raises:
            ArtefactError: not listed, or not a Parquet file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if name not in self.manifest.files:
            raise ArtefactError(f"{self.folder.place}: its {MANIFEST} lists no {name}; {_FIX}")
        try:
            return pq.ParquetFile(self.folder.open(name))
        except (OSError, pa.ArrowException) as error:
            raise ArtefactError(f"{self.folder.place}/{name}: is not a Parquet file ({error}); {_FIX}") from None


def verify(path: Location, kind: str, required: Collection[str] = ()) -> Opened:
    """Open an artefact, hashing every file that its manifest lists.

    Of a job's processes on one host the first alone hashes; where it finds a file altered, it ends the job.

    Args:
        path: a folder, or the URL of one.
        kind: what it must be.
        required: patterns of file names; each must match at least one file.

    Raises:
        ArtefactError: no manifest or an altered one, another kind, another schema, a missing file or a wrong hash.
    """
    folder = Folder.held(location(path))
    require_finished(folder, path, kind)
    text = folder.read(MANIFEST, LARGEST)
    manifest = Manifest.parse(text, path, kind, required)
    folder = folder.version(text)
    if len(manifest.files) <= MOST_HELD:
        folder.hold_files(manifest.files)
    for name in manifest.files:
        if not folder.has(name):
            raise ArtefactError(f"{path}: file {name} is missing; build the artefact again")
    hashed = manifest.files if is_first_of_host() else {}
    with ThreadPoolExecutor(HASHED_AT_ONCE, thread_name_prefix="hash") as hashers:
        for name, found in zip(hashed, hashers.map(folder.hash, hashed), strict=True):
            if found != manifest.files[name]:
                hashers.shutdown(cancel_futures=True)
                raise ArtefactError(
                    f"{path}: file {name} was altered (its hash differs from {MANIFEST}); build it again"
                )
    note_read(path)
    return Opened(folder, manifest)


def open_artefact(path: Location, kind: str, load: Callable[[Opened], T], required: Collection[str] = ()) -> T:
    """Verify an artefact and make of it what `load` does, all of one version of it.

    Args:
        path, kind, required: as in `verify`.
        load: reads the files; it may raise what reading malformed content raises.

    Raises:
        ArtefactError: as `verify`; content that `load` cannot read; or a folder that is replaced again and again.
    """
    for _ in range(TRIES):
        folder = Folder.at(location(path))
        mark = folder.mark()
        try:
            opened = verify(path, kind, required)
            made = load(opened)
            if opened.folder.is_held or folder.mark() == mark:
                return made
        except ArtefactError:
            if folder.mark() == mark:
                raise
        except UserError:
            raise
        except Exception as error:
            not_the_input(error)
            if folder.mark() == mark:
                log.debug("%s", path, exc_info=True)
                said = f"{type(error).__name__}: {error}"[:300]
                raise ArtefactError(f"{path}: its files do not fit one another ({said}); {_FIX}") from None
    raise ArtefactError(f"{path}: was replaced again and again while it was opened; try again when its writer is done")


def require_finished(folder: Folder, path: Location, kind: str) -> None:
    """Refuse a place without a finished artefact, whose files are not looked at.

    Raises:
        ArtefactError: nothing is there, or no manifest.
    """
    if not folder.is_folder():
        raise ArtefactError(f"{path}: no such {kind} artefact; build it first or correct the path")
    if not folder.has(MANIFEST):
        raise ArtefactError(f"{path}: has no {MANIFEST}, so it is not a finished {kind} artefact; build it again")


def peek(path: Location) -> Manifest:
    """The manifest of an artefact, whose files are not looked at.

    Raises:
        ArtefactError: no manifest, or one that cannot be read or was altered.
    """
    folder = Folder.at(location(path))
    if not folder.has(MANIFEST):
        raise ArtefactError(f"{path}: has no {MANIFEST}, so it is not a finished artefact; build it again")
    return Manifest.parse(folder.read(MANIFEST, LARGEST), path, None)


def read(path: Location, kind: str, required: Collection[str] = ()) -> Manifest:
    """The manifest of an artefact, verified as `verify` does."""
    return open_artefact(path, kind, lambda opened: opened.manifest, required)
