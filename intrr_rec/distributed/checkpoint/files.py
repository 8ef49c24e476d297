"""The files of a checkpoint, on a disk or in a store, as torch.distributed.checkpoint writes and reads them; hashed while written."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystemBase

from intrr_rec.io.stores.storage import Folder


class HashedFiles(FileSystemBase):
    """The files of one folder.

    Attributes:
        sums: SHA-256 of each file that was written, by its name.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.sums: dict[str, str] = {}

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        """A file, to read at any place or to write from its start."""
        name = PurePosixPath(path).name
        if mode == "rb":
            with self.folder.open(name) as handle:
                yield handle
            return
        if isinstance(self.folder.place, Path):
            with open(self.folder.place / name, "wb") as local:
                yield (hashed := _Hashed(local))
                local.flush()
                os.fsync(local.fileno())
        else:
            with self.folder.writing(name) as remote:
                yield (hashed := _Hashed(remote))
        self.sums[name] = hashed.digest.hexdigest()

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        """Rename a small file."""
        old, new = PurePosixPath(path).name, PurePosixPath(new_path).name
        if isinstance(self.folder.place, Path):
            os.replace(self.folder.place / old, self.folder.place / new)
        else:
            self.folder.write(new, self.folder.read(old))
            self.folder.remove(old)
        self.sums[new] = self.sums.pop(old)

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        """A name in the folder."""
        return f"{path}/{suffix}"

    def init_path(self, path: str | os.PathLike[str]) -> str:
        """The folder's name."""
        return str(path)

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        """Make the folder."""
        if isinstance(self.folder.place, Path):
            self.folder.place.mkdir(parents=True, exist_ok=True)
        else:
            self.folder.make_parent("file")

    def exists(self, path: str | os.PathLike[str]) -> bool:
        """Whether there is such a file."""
        return self.folder.has(PurePosixPath(path).name)

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        """Remove a file."""
        self.folder.remove(PurePosixPath(path).name)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any place will do."""
        return True


class HashedWriter(dcp.FileSystemWriter):
    """Writes the tensors of a checkpoint into a folder; `hashes` then tells what this rank wrote."""

    def __init__(self, folder: Folder) -> None:
        super().__init__(str(folder.place), sync_files=False)  # the streams are synced as they are closed
        self.files = HashedFiles(folder)
        self.fs = self.files  # type: ignore[assignment]  # narrower than what PyTorch calls
        self.path = str(folder.place)

    @property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each file, by its name."""
        return self.files.sums


class _Hashed(io.RawIOBase):
    """Passes on what is written, and hashes it."""

    def __init__(self, handle: Any) -> None:
        self._handle, self.digest, self._written = handle, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self._handle.write(data)
        size = memoryview(data).nbytes
        self._written += size
        return size

    def tell(self) -> int:
        return self._written
