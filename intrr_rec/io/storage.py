"""Where what we read lies: a local folder, or one of an object store named by a URL.

Arrow's own file systems serve `s3://`, `gs://`, `abfs://`, `hdfs://` and `file://`; any other scheme is asked of fsspec.
Credentials and endpoints come from the environment, as their makers document it (`AWS_ENDPOINT_URL`, …).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from intrr_rec.errors import ArtefactError

Location: TypeAlias = "Path | str"
BLOCK = 1 << 20
DESCRIPTORS = Path("/proc/self/fd")  # what a process holds open, by number; Linux has it


def location(text: Path | str) -> Location:
    """A URL stays text; everything else is a path."""
    return str(text) if "://" in str(text) else Path(text)


class Descriptors:
    """Files held open by their numbers, until nobody has them any more."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def hold(self, name: str, path: str, flags: int = 0) -> None:
        """Hold a file or folder open; one that cannot be opened is not held."""
        with suppress(OSError):  # whoever reads it will say why
            self.numbers[name] = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)

    def __del__(self) -> None:
        for number in self.numbers.values():
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
        try:
            return cls(place, *fs.FileSystem.from_uri(place))
        except (ArrowException, OSError, ValueError):
            pass
        try:
            from fsspec.core import url_to_fs

            files, root = url_to_fs(place)
            return cls(place, fs.PyFileSystem(fs.FSSpecHandler(files)), root)
        except (ImportError, OSError, ValueError) as error:
            raise ArtefactError(f"{place}: no file system for such a URL ({error}); fix it") from None

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
        return self._kind(self._path("")) == "Directory"

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
            raise ArtefactError(f"{self.place}/{name}: cannot be read ({error})") from None

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
                raise ArtefactError(f"{self.place}/{name}: cannot be read ({error})") from None

    def hash(self, name: str) -> str:
        """SHA-256 of a file, read in blocks."""
        digest = hashlib.sha256()
        with self.open(name) as handle:
            while block := handle.read(BLOCK):
                digest.update(block)
        return digest.hexdigest()

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
            raise ArtefactError(f"{self.place}: cannot be reached ({error})") from None
