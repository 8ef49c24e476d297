"""Places that are tried before any work: hours of it are not for a folder that cannot be written."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from intrr_rec.errors import PlaceError
from intrr_rec.io.disk.atomic import remove_stale
from intrr_rec.io.disk.places import writing_to, written_through

BLOCK = 4096  # bytes; an empty file can be made on a full disk


def require_writable(path: Path) -> None:
    """Refuse before hours of work a file that cannot be written after them; nothing is made or changed.

    Raises:
        ConfigError: a URL.
        PlaceError: its folder cannot be written or is full, or it is a folder itself.
    """
    path = written_through(path)
    if path.is_dir():
        raise PlaceError(f"{path}: is a folder; name a file")
    require_room(path)


def require_room(path: Path) -> None:
    """Refuse before any work a file or folder beside which nothing can be written, where it would be made.

    What killed writers of that file left beside it is removed.

    Raises:
        ConfigError: a URL.
        PlaceError: the folder it goes to cannot be written, or is full.
    """
    path = written_through(path).absolute()
    with writing_to(path):
        folder = next(at for at in path.parents if at.exists())
        remove_stale(folder / path.name)
        probe = folder / f".{path.name}.tmp-{secrets.token_hex(4)}-{os.getpid()}"
        try:
            with open(probe, "xb") as handle:
                handle.write(bytes(BLOCK))
        finally:
            probe.unlink(missing_ok=True)
