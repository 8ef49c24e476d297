"""Versions of an artefact that is replaced day by day: the newest has the name, those before are kept beside it as NAME@1, NAME@2, …

A version is kept by hard links just before the next one takes its name, so it costs what the two do not share, and a crash leaves
the name with the old one or the new one. What was made from an older version finds it by its content.
"""

from __future__ import annotations

import errno
import glob
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.atomic import remove_tree, sync
from intrr_rec.io.manifest import MANIFEST

log = logging.getLogger(__name__)
KEPT = 7  # versions beside the newest: a week of days
_OF_TARGET = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
_NUMBERED = re.compile(r"^(.+)@([1-9][0-9]{0,8})$")


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A second name of a file; a copy where that is not to be had.

    Raises:
        OSError: names the target where that cannot be written, the source where that cannot be read.
    """
    try:
        os.link(source, target)
    except OSError:
        try:
            shutil.copy2(source, target)
        except OSError as error:
            if error.errno in _OF_TARGET:  # what copies names the source alone
                raise OSError(error.errno, error.strerror, str(target)) from None
            raise


def link_tree(source: Path, target: Path) -> None:
    """A folder with second names of all files of another; the first file that cannot be made ends it.

    Raises:
        OSError: which, by its number.
    """
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*")):
        if path.is_dir():
            (target / path.relative_to(source)).mkdir()
        else:
            link_or_copy(path, target / path.relative_to(source))


def older(place: Path) -> list[tuple[int, Path]]:
    """The versions that are kept beside an artefact, by number, the newest first."""
    place = place.resolve()
    found = []
    for path in place.parent.glob(f"{glob.escape(place.name)}@*"):
        match = _NUMBERED.match(path.name)
        if match and match[1] == place.name and path.is_dir():
            found.append((int(match[2]), path))
    return sorted(found, reverse=True)


def version_of(place: Path) -> int:
    """The number of a version: that in its name, or, of the newest, one more than the highest that is kept beside it."""
    if match := _NUMBERED.match(place.resolve().name):
        return int(match[2])
    kept = older(place)
    if not kept:
        return 1
    number, newest = kept[0]
    return (
        number if _manifest(newest) == _manifest(place) else number + 1
    )  # equal: a job died before it replaced the name


def keep_version(place: Path) -> None:
    """Keep the artefact that has the name `place`, unless it is kept already; the oldest but `KEPT` are removed."""
    kept = older(place)
    if kept and _manifest(kept[0][1]) == _manifest(place):
        return
    target = place.with_name(f"{place.name}@{version_of(place)}")
    for stale in place.parent.glob(f".{glob.escape(place.name)}@*.tmp-*"):
        remove_tree(stale)
    staging = place.with_name(f".{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        link_tree(place, staging)
        os.rename(staging, target)
        sync(place.parent)
    finally:
        remove_tree(staging)
    for _, path in kept[KEPT - 1 :]:
        remove_tree(path)
    log.info("%s: the version before is kept as %s", place, target)


def find_version(place: Path, is_wanted: Callable[[Path], bool]) -> Path | None:
    """The artefact at `place`, or the newest kept version of it, that is the one wanted; None where none is.

    Args:
        is_wanted: whether an artefact is; one that cannot be read is not.
    """

    def fits(path: Path) -> bool:
        try:
            return path.exists() and is_wanted(path)
        except ArtefactError:
            return False

    return next((path for path in (place, *(path for _, path in older(place))) if fits(path)), None)


def _manifest(path: Path) -> bytes | None:
    try:
        return (path / MANIFEST).read_bytes()
    except OSError:
        return None
