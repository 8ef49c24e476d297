"""The folder on this machine where a job keeps copies of what lies in a store, and the names these have in messages.

It lies below INTRR_SCRATCH, or else the folder of temporary files; all processes of one job on this machine share it, and the
last of them removes it. What a killed job left is removed by the next job.
"""

from __future__ import annotations

import atexit
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from intrr_rec.errors import PlaceError

SCRATCH = "INTRR_SCRATCH"
_PREFIX = "job-"
_LOCK = ".in-use"
_held: dict[tuple[int, Path], int] = {}  # by process and folder: the descriptor that says that it is in use
_urls: dict[str, str] = {}  # by the local path that stands for it


def scratch() -> Path:
    """The folder of this job, made on first use.

    Raises:
        PlaceError: it cannot be made, or belongs to another user.
    """
    root = _root()
    folder = root / f"{_PREFIX}{_job()}"
    if (os.getpid(), folder) not in _held:
        _sweep(root)
        while True:
            folder.mkdir(exist_ok=True)
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), (folder / _LOCK).stat()):
                    break
            os.close(descriptor)  # its last holder removed it between our opening and our locking
        _held[os.getpid(), folder] = descriptor
    return folder


def place_in(scratch_folder: Path, role: str, url: str) -> Path:
    """The local path that stands for a URL in a role; it has the URL's last name, which some messages and outputs carry."""
    name = url.rstrip("/").rpartition("/")[2].partition("?")[0] or "root"
    return scratch_folder / f"{role}-{hashlib.sha256(url.encode()).hexdigest()[:12]}" / name


def name(path: Path, url: str) -> None:
    """Have messages and records say `url` where they would say `path`."""
    _urls[str(path)] = url.rstrip("/")


def named(path: Path | str) -> str | None:
    """The URL that a local path stands for; None where it stands for none."""
    text = str(path)
    for local, url in _urls.items():
        if text == local or text.startswith(f"{local}/"):
            return url + text[len(local) :]
    return None


def in_words(text: str) -> str:
    """A message, with URLs in place of the paths that stand for them."""
    for local in sorted(_urls, key=len, reverse=True):
        text = text.replace(local, _urls[local])
    return text


class Renaming(logging.Filter):
    """Puts URLs into what is logged."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        if _urls:
            record.msg, record.args = in_words(record.getMessage()), None
        return True


@atexit.register
def remove() -> None:
    """Let go of this process's scratch folder, and remove it where no other process uses it."""
    for (owner, folder), descriptor in list(_held.items()):
        if owner != os.getpid():
            continue  # a forked child's parent goes on
        del _held[owner, folder]
        _remove_unused(folder, descriptor)
        with suppress(OSError):  # two that end together both found the other there; each has let go by now
            _remove_unused(folder, os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC))
    _urls.clear()


def _sweep(root: Path) -> None:
    for folder in root.glob(f"{_PREFIX}*"):
        if (os.getpid(), folder) in _held:
            continue
        with suppress(OSError):
            _remove_unused(folder, os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC))


def _remove_unused(folder: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in folder.iterdir():  # the lock file last, for whoever is waiting for it
            if path.name != _LOCK:
                shutil.rmtree(path, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:
        pass  # another process of the job goes on
    finally:
        os.close(descriptor)


def _root() -> Path:
    root = Path(os.environ.get(SCRATCH) or Path(tempfile.gettempdir()) / f"intrr-{os.getuid()}").absolute()
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = root.stat().st_uid
    except OSError as error:
        raise PlaceError(f"{root}: cannot be made ({error.strerror}); set {SCRATCH} to a folder for copies") from None
    if owner != os.getuid():
        raise PlaceError(f"{root}: belongs to another user; set {SCRATCH} to a folder of yours")
    return root


def _job() -> str:
    """What the processes of one job on this machine have in common: torchrun's, or this process alone."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        said = f"{os.environ['TORCHELASTIC_RUN_ID']}:{os.getppid()}"
        return hashlib.sha256(said.encode()).hexdigest()[:12]
    return str(os.getpid())
