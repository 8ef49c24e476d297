"""The one lock: `flock` on a folder that is there, or on a lock file that is removed when let go.

The system lets go of it when its process dies, however it dies, so no lock outlives its holder.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

TRIES = 5


class Taken(Exception):
    """Another process, or another part of this one, holds the lock."""


class Lock:
    """An exclusive lock, held from its making until `release` or the end of the process.

    Args:
        path: a folder that exists, or the name of a lock file to make.
        wait: wait for the holder instead of raising.

    Attributes:
        certain: False on a file system without locks, where two jobs on one place are not told apart.

    Raises:
        Taken: another holds it.
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, *, wait: bool = False) -> None:
        self.path = path
        self.certain, tries = True, TRIES
        self._is_folder = path.is_dir()
        while True:
            flags = os.O_RDONLY if self._is_folder else os.O_RDWR | os.O_CREAT
            self._descriptor = os.open(path, flags | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(self._descriptor)
                if tries := tries - 1:  # `is_held` holds it for a moment
                    time.sleep(0.02)
                    continue
                raise Taken(str(path)) from None
            except OSError:
                self.certain = False
                return
            if self._is_the_file():
                return
            os.close(self._descriptor)  # its last holder removed it between our opening and our locking

    def release(self) -> None:
        """Let go; a lock file is removed first, while nobody else can hold it."""
        if not self._is_folder:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _is_the_file(self) -> bool:
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return False


def is_held(path: Path) -> bool | None:
    """Whether a living process holds the lock file `path`; None where there is none or the file system cannot tell."""
    if not path.exists():
        return None
    try:
        with Lock(path) as mine:
            return None if not mine.certain else False
    except Taken:
        return True
    except OSError:
        return None
