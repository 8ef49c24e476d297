"""Places that cannot be written, and memory that ran out: told as one line that names the place or the setting.

A full disk speaks with many voices: an `OSError` with its number and file, one without, DuckDB's and Arrow's own errors,
safetensors' text. This module is the one that knows them all. A reader asks `not_the_input` before it blames its file.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from intrr_rec.errors import ConfigError, OutOfMemoryError, PlaceError, UserError

log = logging.getLogger(__name__)
CHOOSE = "choose another --out"

# Only a write meets these, so whatever file is being read is not to blame.
_WRITES = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# A path, or the rights to it, is at fault; met by readers and writers.
_PATHS = {
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EIO, errno.ESTALE, errno.EBUSY, errno.EXDEV, errno.EMFILE, errno.ENFILE, errno.ENOTEMPTY),
}
# What libraries write of an error of the system: Arrow "[errno 28]", safetensors "(os error 28)".
_NUMBERED = re.compile(r"(?:\[errno |\(os error )(\d+)[])]", re.IGNORECASE)
_BY_TEXT = {os.strerror(number).lower(): number for number in (*_WRITES, errno.EACCES, errno.ENOMEM)}
_SPILL = ("failed to offload data block", "max_temp_directory_size")  # DuckDB, of its temporary files
_TORCH_WRITER = ("file write failed", "unexpected pos")  # PyTorch's writer of files keeps no number
_NO_MEMORY = (
    *("std::bad_alloc", "can't allocate memory", "unable to allocate", "out of memory", "malloc of size"),
    *("realloc of size", "failed to allocate", "can't start new thread", "failed to map segment", "array::at_alloc"),
)
_STAGING = re.compile(r"(?<=/)\.([^/]+)\.tmp-[^/]+(?:/.*)?$")  # what stands beside NAME while it is written
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?=.)")


def number_of(error: BaseException) -> int | None:
    """The errno of an error, from its attribute or its text; None where it has none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error).lower().replace("cannot allocate memory in static tls", "")  # the loader's, and not of memory
    if any(sign in text for sign in _SPILL):
        return errno.ENOSPC
    if found := _NUMBERED.search(text):
        return int(found[1])
    if isinstance(error, RuntimeError) and any(sign in text for sign in _TORCH_WRITER):
        return errno.ENOSPC
    return next((number for said, number in _BY_TEXT.items() if said in text), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, NumPy's, Torch's (also on a GPU), Arrow's, DuckDB's or the system's own error."""
    number = number_of(error)
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return True
    text = str(error).lower()
    return number not in _WRITES and any(sign in text for sign in _NO_MEMORY)


def trouble(error: BaseException, place: Path | None = None, fix: str = CHOOSE) -> UserError | None:
    """The one-line error for a place or for memory; None for any other error.

    Args:
        error: what was raised.
        place: what was being written; a file that the error names is preferred where it lies elsewhere.
        fix: what to do about it.
    """
    if isinstance(error, UserError):
        return error
    if is_out_of_memory(error):
        first = " ".join(str(error).split()).partition(". ")[0][:160]
        return OutOfMemoryError(f"memory ran out ({first})" if first else "memory ran out")
    number = number_of(error)
    named = _file_of(error)
    inside = place is not None and (named is None or _lies_in(named, place))
    if number in _WRITES or (number in _PATHS and (named is not None if place is None else inside and named)):
        where = place if inside else named and _STAGING.sub(r"\1", named)
        return PlaceError(f"{where or _fullest()}: {reason(number)}; {fix}") if number else None
    return None


def reason(number: int) -> str:
    """Why a place cannot be used, in words."""
    text = os.strerror(number)
    if number in _FULL:
        return f"cannot be written: the disk is full ({text}); free some space"
    return f"cannot be written ({text})" if number in _WRITES else f"cannot be read or written ({text})"


def not_the_input(error: BaseException) -> None:
    """Raise what a reader must not blame on its file: no memory, or no space for what is kept beside it.

    Raises:
        OutOfMemoryError: memory ran out.
        PlaceError: a temporary or output file cannot be written.
    """
    if is_out_of_memory(error) or number_of(error) in _WRITES:
        found = trouble(error)
        assert found is not None
        raise found from None


@contextmanager
def writing_to(place: Path, fix: str = CHOOSE) -> Iterator[None]:
    """Turn what a full, read-only or forbidden `place` makes of the block into one line that names the place.

    Raises:
        PlaceError: the place cannot be written.
        OutOfMemoryError: memory ran out.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = trouble(error, place, fix)
        if found is None:
            raise
        log.debug("%s", found, exc_info=True)
        raise found from None


def url_of(place: Path | str) -> str | None:
    """The URL that a place is, also where a path was made of it (`s3:/bucket`); None for a path."""
    found = _URL.match(str(place))
    return f"{found[1]}://{str(place)[found.end() :]}" if found else None


def url_fault(place: Path | str) -> str | None:
    """What is wrong with a URL where only a path can be, in words; None for a path."""
    url = url_of(place)
    if url is None:
        return None
    scheme = url.partition("://")[0]
    if scheme.lower() == "file":
        return f"{url}: give the path without {scheme}://"
    return f"{url}: only a local or mounted folder works here, not a URL; give a path"


def require_local(place: Path | str, option: str) -> Path:
    """The path, unless it is a URL: the verbs stage those before they come here (`io.stores.staging`).

    Raises:
        ConfigError: a URL; it would become a folder called `s3:`.
    """
    if fault := url_fault(place):
        raise ConfigError(f"{option}: {fault}")
    return Path(place)


def written_through(path: Path | str, option: str = "--out") -> Path:
    """Where a write to `path` goes: the target of a symbolic link, so that the link stays one.

    Raises:
        ConfigError: a URL.
        PlaceError: a link to nothing, or in a circle.
    """
    path = require_local(path, option)
    with writing_to(path):
        if not path.is_symlink():
            return path
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):
        where = path.readlink()
        raise PlaceError(
            f"{path}: is a symbolic link to {where}, which is not there; make it, or remove the link"
        ) from None
    return target


def _file_of(error: BaseException) -> str | None:
    # A copy names its source first, and a full disk is that of its target.
    names = ("filename2", "filename") if number_of(error) in _WRITES else ("filename",)
    name = next((found for key in names if (found := getattr(error, key, None)) is not None), None)
    name = os.fsdecode(name) if isinstance(name, (str, bytes)) else None
    if name is None and (found := re.search(r"""["'](/[^"']+)["']""", str(error))):
        name = found[1]
    return name


def _lies_in(name: str, place: Path) -> bool:
    """Whether a file is `place`, below it, one of the hidden ones beside it while it is written, or a folder it lies in."""
    file, place = Path(name).resolve(), place.resolve()
    if file == place or place in file.parents or file in place.parents:
        return True
    beside = file.relative_to(place.parent).parts[0] if place.parent in file.parents else ""
    return beside.startswith(f".{place.name}.")


def _fullest() -> str:
    """What to name where an error names nothing: the fuller of the working folder and that of temporary files."""
    import tempfile

    def free(folder: str) -> int:
        found = os.statvfs(folder)
        return found.f_bavail * found.f_frsize

    try:
        return min((tempfile.gettempdir(), str(Path.cwd())), key=free)
    except OSError:
        return "TMPDIR"
