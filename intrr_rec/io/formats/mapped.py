"""New arrays that lie on disk: every byte is reserved first, so that a full disk is an error of one line, not a SIGBUS later."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from intrr_rec.io.disk.places import writing_to

BLOCK = 1 << 20  # bytes of zeros written at a time
IN_MEMORY = 1 << 20  # bytes of an array of `roomy` that are held in memory
_NOT_THERE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
OTHER_TMPDIR = "set TMPDIR to a folder with more room"


def mapped_file(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Zeros of `shape` in a new file, mapped for reading and writing.

    Raises:
        PlaceError: the disk has no room for all of it, or the file cannot be made.
    """
    with writing_to(path), open(path, "w+b") as handle:
        return _mapped(handle, dtype, shape)


def mapped_spool(dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """As `mapped_file`, in a file of TMPDIR that has no name and goes with the array.

    Raises:
        PlaceError: TMPDIR has no room, or cannot be written.
    """
    place = Path(tempfile.gettempdir())
    with writing_to(place, OTHER_TMPDIR), tempfile.TemporaryFile(prefix="intrr-") as handle:
        return _mapped(handle, dtype, shape)


def _mapped(handle: IO[bytes], dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    reserve(handle, math.prod(shape) * np.dtype(dtype).itemsize)
    return np.memmap(handle, dtype, "r+", shape=shape)


def reserve(handle: IO[bytes], size: int) -> None:
    """Have the file system set `size` bytes aside; where it cannot, write them.

    Raises:
        OSError: there is no room.
    """
    if not size:
        return
    try:
        os.posix_fallocate(handle.fileno(), 0, size)
    except (OSError, AttributeError) as error:  # no such call on macOS
        if isinstance(error, OSError) and error.errno not in _NOT_THERE:
            raise
        for first in range(0, size, BLOCK):
            handle.write(bytes(min(BLOCK, size - first)))
        handle.flush()


def roomy(dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Zeros in memory, or, beyond `IN_MEMORY` bytes, in a file of TMPDIR that is mapped: for what has a row an item.

    Raises:
        PlaceError: as `mapped_spool`.
    """
    small = math.prod(shape) * np.dtype(dtype).itemsize <= IN_MEMORY
    return np.zeros(shape, dtype) if small else mapped_spool(dtype, shape)
