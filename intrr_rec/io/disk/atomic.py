"""The one atomic write: a file or a folder is the old one or the new one, never a mixture, whatever happens in between."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import glob
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from intrr_rec.io.disk.places import writing_to, written_through


@contextmanager
def replacing(path: Path, *, binary: bool = False) -> Iterator[IO[Any]]:
    """A new file, open for writing, that takes the name `path` once the block has ended well and its bytes are on the disk.

    A symbolic link is written through. The mode of the file follows the umask.

    Raises:
        PlaceError: the place is full or cannot be written; what was at `path` is still there.
    """
    path = written_through(path)
    staging = path.with_name(f"{_staging_prefix(path.name)}{os.getpid()}")
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(staging, "wb" if binary else "w", encoding=None if binary else "utf-8") as handle:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(staging, path)
            sync(path.parent)
        finally:
            staging.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a crash leaves the old one or the new one. What a killed writer of it left is removed.

    Raises:
        PlaceError: as `replacing`.
    """
    with replacing(path) as handle:
        handle.write(text)
    remove_stale(path)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file of bytes, as `write_text`.

    Raises:
        PlaceError: as `replacing`.
    """
    with replacing(path, binary=True) as handle:
        handle.write(content)
    remove_stale(path)


def remove_stale(path: Path) -> None:
    """Remove what writers of the file `path` left beside it when they were killed: their process is gone, here and elsewhere."""
    path = written_through(path)
    for stale in path.parent.glob(f"{glob.escape(_staging_prefix(path.name))}*"):
        number = stale.name.rpartition("-")[2]
        if not number.isdigit() or _is_alive(int(number)):
            continue
        with contextlib.suppress(OSError), open(stale, "rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which its writer holds, on whatever machine
            stale.unlink()


def is_left_over(path: Path, name: str) -> bool:
    """Whether `path` is what a killed writer of the file `name` leaves beside it."""
    return path.name.startswith(_staging_prefix(name))


def _staging_prefix(name: str) -> str:
    return f".{name}.tmp-"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def write_json(path: Path, value: Any) -> None:
    """Write JSON, as `write_text`.

    Raises:
        PlaceError: as `replacing`.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def take_name(staging: Path, target: Path) -> None:
    """Give a file that is written the name `target`, once its bytes are on the disk."""
    sync(staging)
    os.replace(staging, target)
    sync(target.parent)


def swap_into_place(staging: Path, target: Path) -> None:
    """Put the folder `staging` at `target`; what was there is then at `staging`, for the caller to remove."""
    if not target.exists():
        os.rename(staging, target)
    elif not _exchange(staging, target):
        retired = target.with_name(f".{target.name}.old-{os.getpid()}")
        os.rename(target, retired)
        os.rename(staging, target)
        os.rename(retired, staging)
    sync(target.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder, as far as that goes."""
    shutil.rmtree(folder, ignore_errors=True)


def follow_umask(folder: Path) -> None:
    """Give everything in `folder`, and itself, the mode that a plain `open` or `mkdir` would: some writers choose 0600."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)


def sync(path: Path) -> None:
    """Have a file or folder written through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(a: Path, b: Path) -> bool:
    """Atomically exchange two folders (Linux renameat2); False where the system cannot."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    at_cwd, exchange = -100, 2
    return renameat2(at_cwd, os.fsencode(a), at_cwd, os.fsencode(b), exchange) == 0
