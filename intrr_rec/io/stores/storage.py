"""Where what we read and write lies: a local folder, or one of an object store named by a URL.

Arrow's own file systems serve `s3://`, `gs://`, `abfs://` and `hdfs://`; any other scheme is asked of fsspec.
Credentials and endpoints come from the environment, as their makers document it (`AWS_ENDPOINT_URL`, …).

A store cannot rename, so an artefact there is `manifest.json` and `versions/HASH/`, where HASH is of the manifest's bytes: the
files of a version never change, and putting the manifest is what publishes it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from intrr_rec.errors import ArtefactError, PlaceError
from intrr_rec.io.disk.places import url_of
from intrr_rec.io.stores.other_stores import other_store

Location: TypeAlias = "Path | str"
BLOCK = 1 << 20
WRITTEN = 8 << 20  # bytes that go to or come from a store at once
VERSIONS = "versions"
OF_ARROW = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
DESCRIPTORS = Path("/proc/self/fd")  # what a process holds open, by number; Linux has it


# What stores say, by what is to be done about it; a test holds them against a real server.
_CAUSES = {
    r"NO_SUCH_BUCKET|NoSuchBucket|bucket does not exist|[Bb]ucket '[^']*' not found": "there is no such bucket; make it, or correct the URL",
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE|EXPIRED|FORBIDDEN|\b40[13]\b|[Cc]redential": (
        "the store refuses these credentials; set them as its maker says (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
        "a profile or a role), with the right to do this"
    ),
    r"NETWORK_CONNECTION|curlCode|resolve|refused|timed? ?out|unreachable": (
        "the store's host cannot be reached; check the network, and the endpoint (AWS_ENDPOINT_URL)"
    ),
    r"libhdfs|libjvm": "HDFS needs Java and Hadoop's libhdfs on this machine; install them",
}


def location(text: Path | str) -> Location:
    """A URL as text, also of a path that was made of one; everything else is a path."""
    return url_of(text) or Path(text)


def below(place: Location, name: str) -> Location:
    """What is called `name` in a folder."""
    return place / name if isinstance(place, Path) else f"{place.rstrip('/')}/{name}"


def version_name(manifest: bytes) -> str:
    """The folder of an artefact's files in a store, by the bytes of its manifest."""
    return f"{VERSIONS}/{hashlib.sha256(manifest).hexdigest()[:16]}"


def cause(error: BaseException) -> str:
    """Why a store did not do what was asked, and what to do about it, in words."""
    said = " ".join(str(error).split())
    found = next((words for sign, words in _CAUSES.items() if re.search(sign, said)), None)
    said = re.sub(r" \(Request ID:.*?\)", "", said)[:200]
    return f"{found} ({said})" if found else f"the store answers: {said}"


class Descriptors:
    """Files held open by their numbers, until nobody has them any more."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def hold(self, name: str, path: str, flags: int = 0) -> None:
        """Hold a file or folder open; one that cannot be opened is not held."""
        with suppress(OSError):  # whoever reads it will say why
            self.numbers[name] = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)

    def __del__(self) -> None:
        for number in vars(self).get("numbers", {}).values():  # none where Ctrl-C came before they were there
            os.close(number)


@dataclass(frozen=True)
class Folder:
    """A folder to read from.

    Attributes:
        place: as it was named.
        files: the Arrow file system.
        root: the folder's path in it.
        descriptors: of the folder (its name is "") and of files in it, where they are held open.
    """

    place: Location
    files: Any
    root: str
    descriptors: Descriptors = field(default_factory=lambda: Descriptors(), repr=False, compare=False)

    @classmethod
    def at(cls, place: Location) -> Folder:
        """The folder of this name; it need not exist.

        Raises:
            ArtefactError: a URL that no file system answers to.
        """
        # Arrow and fsspec take a tenth of a second to import, which `intrr --help` should not.
        from pyarrow import ArrowException, fs

        if isinstance(place, Path):
            return cls(place, fs.LocalFileSystem(), str(place))
        scheme = place.partition("://")[0].lower()
        if scheme in OF_ARROW:
            try:
                files, root = fs.FileSystem.from_uri(place)
            except (ArrowException, OSError, ValueError) as error:
                raise ArtefactError(f"{place}: {cause(error)}") from None
            return cls(place, files, root.rstrip("/"))
        try:
            if scheme in ("http", "https", "file"):
                raise ValueError("it is not one of a store that can be written and listed")
            files, root = other_store(place)
            return cls(place, fs.PyFileSystem(fs.FSSpecHandler(files)), root)
        except (ImportError, OSError, ValueError) as error:
            known = ", ".join(f"{name}://" for name in OF_ARROW)
            raise ArtefactError(
                f"{place}: no file system for such a URL ({error}); give a path, or a URL of {known}"
            ) from None

    @classmethod
    def held(cls, place: Location) -> Folder:
        """The folder that has this name now, and goes on to be read when another takes the name.

        An object store's, and where the system has no `/proc`, it is `at`.
        """
        from pyarrow import fs

        folder = cls.at(place)
        if isinstance(folder.files, fs.LocalFileSystem) and DESCRIPTORS.is_dir():
            folder.descriptors.hold("", folder.root, os.O_DIRECTORY)
        return folder

    @property
    def is_remote(self) -> bool:
        """Whether it lies in a store, not on a disk of this machine."""
        return not isinstance(self.place, Path)

    def version(self, manifest: bytes) -> Folder:
        """Where the files of the artefact of this manifest lie: here, or in a store below `versions/`.

        A folder that was copied to a store file by file has no such folder, and is read as it lies there.
        """
        if not self.is_remote:
            return self
        name = version_name(manifest)
        return replace(self, root=self._path(name)) if self.has(f"{name}/manifest.json") else self

    def hold_files(self, names: Iterable[str]) -> None:
        """Hold these files open as well, so that they can be read after they were removed."""
        if self.is_held:
            for name in names:
                self.descriptors.hold(name, self._path(name))

    @property
    def is_held(self) -> bool:
        """Whether the folder is held open."""
        return "" in self.descriptors.numbers

    def mark(self) -> object:
        """What tells whether the folder of this name is still the same: its inode, or the content of its manifest."""
        from pyarrow import fs

        try:
            if isinstance(self.files, fs.LocalFileSystem) and DESCRIPTORS.is_dir():
                found = Path(self.root).stat()
                return found.st_dev, found.st_ino
            with self.files.open_input_file(f"{self.root}/manifest.json") as handle:
                return handle.read()
        except OSError:
            return None

    def is_folder(self) -> bool:
        """Whether anything lies here.

        Raises:
            ArtefactError: the store cannot be asked.
        """
        if self._kind(self._path("")) == "Directory":
            return True
        if self.is_remote and "/" in self.root and self._kind(self.root.partition("/")[0]) == "NotFound":
            raise ArtefactError(f"{self.place}: there is no such bucket; make it, or correct the URL")
        return False

    def is_file(self) -> bool:
        """Whether a file lies here."""
        return self._kind(self._path("")) == "File"

    def has(self, name: str) -> bool:
        """Whether it holds a file of this name."""
        return self._kind(self._path(name)) == "File"

    def open(self, name: str) -> Any:
        """A file of it, for reading at any place (pyarrow.NativeFile).

        Raises:
            ArtefactError: it cannot be read.
        """
        try:
            return self.files.open_input_file(self._path(name))
        except OSError as error:
            raise ArtefactError(f"{self.place}/{name}: cannot be read ({self._why(error)})") from None

    def local(self, name: str) -> str | None:
        """The path of a file of it, by what is held open where it is held; None where it does not lie on this machine."""
        from pyarrow import fs

        return self._path(name) if isinstance(self.files, fs.LocalFileSystem) else None

    def read(self, name: str, largest: int | None = None) -> bytes:
        """A whole file.

        Raises:
            ArtefactError: it cannot be read, or is larger than `largest` bytes.
        """
        with self.open(name) as handle:
            if largest is not None and handle.size() > largest:
                raise ArtefactError(f"{self.place}/{name}: is larger than {largest >> 20} MB")
            try:
                return handle.read()
            except OSError as error:
                raise ArtefactError(f"{self.place}/{name}: cannot be read ({self._why(error)})") from None

    def hash(self, name: str) -> str:
        """SHA-256 of a file, read in blocks."""
        digest = hashlib.sha256()
        with self.open(name) as handle:
            while block := handle.read(BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def names(self, below: str = "") -> dict[str, tuple[int, int | None]]:
        """The files below a folder of it, with their sizes in bytes and times of change in nanoseconds of the store's clock.

        Raises:
            ArtefactError: the store cannot be asked.
        """
        from pyarrow import fs

        root = self._path(below)
        try:
            found = self.files.get_file_info(fs.FileSelector(root, allow_not_found=True, recursive=True))
        except OSError as error:
            raise ArtefactError(f"{self.place}: {cause(error)}") from None
        start = len(self.root) + 1
        return {info.path[start:]: (info.size, info.mtime_ns) for info in found if info.type == fs.FileType.File}

    def beside(self, prefix: str) -> dict[str, tuple[int, int | None]]:
        """The files directly in it whose names begin with `prefix`, as `names`."""
        from pyarrow import fs

        try:
            found = self.files.get_file_info(fs.FileSelector(self.root, allow_not_found=True))
        except OSError as error:
            raise ArtefactError(f"{self.place}: {cause(error)}") from None
        return {
            info.base_name: (info.size, info.mtime_ns)
            for info in found
            if info.type == fs.FileType.File and info.base_name.startswith(prefix)
        }

    def folders(self) -> list[str]:
        """The names of the folders in it."""
        from pyarrow import fs

        try:
            found = self.files.get_file_info(fs.FileSelector(self.root, allow_not_found=True))
        except OSError as error:
            raise ArtefactError(f"{self.place}: {cause(error)}") from None
        return [info.base_name for info in found if info.type == fs.FileType.Directory]

    def write(self, name: str, data: bytes) -> None:
        """Put a file: readers see the old one or the new one.

        Raises:
            PlaceError: the store does not take it.
        """
        self.make_parent(name)
        with self.writing(name) as handle:
            handle.write(data)

    def put(self, name: str, path: Path) -> None:
        """Copy a local file here, in blocks; readers see the old one or the new one."""
        self.make_parent(name)
        with open(path, "rb") as source, self.writing(name) as handle:
            while block := source.read(WRITTEN):
                handle.write(block)

    def fetch(self, name: str, path: Path) -> None:
        """Copy a file of it to a local path, in blocks.

        Raises:
            ArtefactError: it cannot be read.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.open(name) as source, open(path, "wb") as target:
            while block := self._block(source, name):
                target.write(block)

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is none."""
        try:
            self.files.delete_file(self._path(name))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise PlaceError(f"{self.place}/{name}: cannot be removed: {cause(error)}") from None

    def remove_folder(self, name: str) -> None:
        """Remove a folder of it with all in it; what marks its content as whole is to be removed first."""
        try:
            self.files.delete_dir(self._path(name))
        except FileNotFoundError:
            pass
        except OSError as error:
            raise PlaceError(f"{self.place}/{name}: cannot be removed: {cause(error)}") from None

    def make_parent(self, name: str) -> None:
        """Make the folders above a file, in stores that have folders (HDFS); a bucket has none."""
        from pyarrow import fs

        if isinstance(self.files, (fs.S3FileSystem, fs.GcsFileSystem)):
            return
        try:
            self.files.create_dir(self._path(name).rpartition("/")[0], recursive=True)
        except OSError as error:
            raise PlaceError(f"{self.place}: cannot be written: {cause(error)}") from None

    @contextmanager
    def writing(self, name: str) -> Iterator[Any]:
        """A new file of it, written in parts; it is there once the block has ended.

        Raises:
            PlaceError: the store does not take it.
        """
        try:
            with self.files.open_output_stream(self._path(name)) as handle:
                yield handle
        except OSError as error:
            raise PlaceError(f"{self.place}: cannot be written: {cause(error)}") from None

    def _block(self, source: Any, name: str) -> bytes:
        try:
            return bytes(source.read(WRITTEN))
        except OSError as error:
            raise ArtefactError(f"{self.place}/{name}: cannot be read ({self._why(error)})") from None

    def _why(self, error: OSError) -> str:
        return cause(error) if self.is_remote else str(error)

    def _path(self, name: str) -> str:
        """Of a file, or of the folder (its name is ""): by what is held open, where something is."""
        numbers = self.descriptors.numbers
        if name in numbers:
            return f"{DESCRIPTORS}/{numbers[name]}"
        root = f"{DESCRIPTORS}/{numbers['']}" if "" in numbers else self.root
        return f"{root}/{name}" if name else root

    def _kind(self, path: str) -> str:
        try:
            return self.files.get_file_info(path).type.name
        except OSError as error:
            raise ArtefactError(f"{self.place}: cannot be reached: {self._why(error)}") from None
