"""Where what we read lies: a local folder, or one of an object store named by a URL.

Arrow's own file systems serve `s3://`, `gs://`, `abfs://`, `hdfs://` and `file://`; any other scheme is asked of fsspec.
Credentials and endpoints come from the environment, as their makers document it (`AWS_ENDPOINT_URL`, …).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from intrr_rec.errors import ArtefactError

Location: TypeAlias = "Path | str"
BLOCK = 1 << 20


def location(text: Path | str) -> Location:
    """A URL stays text; everything else is a path."""
    return str(text) if "://" in str(text) else Path(text)


@dataclass(frozen=True)
class Folder:
    """A folder to read from.

    Attributes:
        place: as it was named.
        files: the Arrow file system.
        root: the folder's path in it.
    """

    place: Location
    files: Any
    root: str

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
            raise ArtefactError(f"{place}: no file system for such a URL ({error}); mend it") from None

    def is_folder(self) -> bool:
        """Whether anything lies here.

        Raises:
            ArtefactError: the store cannot be asked.
        """
        return self._kind(self.root) == "Directory"

    def has(self, name: str) -> bool:
        """Whether it holds a file of this name."""
        return self._kind(f"{self.root}/{name}") == "File"

    def open(self, name: str) -> Any:
        """A file of it, for reading at any place (pyarrow.NativeFile).

        Raises:
            ArtefactError: it cannot be read.
        """
        try:
            return self.files.open_input_file(f"{self.root}/{name}")
        except OSError as error:
            raise ArtefactError(f"{self.place}/{name}: cannot be read ({error})") from None

    def read(self, name: str) -> bytes:
        """A whole file."""
        with self.open(name) as handle:
            return handle.read()

    def hash(self, name: str) -> str:
        """SHA-256 of a file, read in blocks."""
        digest = hashlib.sha256()
        with self.open(name) as handle:
            while block := handle.read(BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def _kind(self, path: str) -> str:
        try:
            return self.files.get_file_info(path).type.name
        except OSError as error:
            raise ArtefactError(f"{self.place}: cannot be reached ({error})") from None
