"""Disks for tests to fill: a tmpfs of so many kilobytes, mounted by the test itself, which needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount {' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """An empty disk of that size at `place`; the test is skipped where it cannot be mounted."""
    if sys.platform != "linux" or os.geteuid():
        pytest.skip("mounting a disk needs root on Linux")
    place.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> None:
    """Leave no room there."""
    with open(place / "filler", "wb", buffering=0) as handle, contextlib.suppress(OSError):
        while True:
            handle.write(bytes(4096))


def lock_up(place: Path) -> None:
    """Make the disk read-only."""
    _mount("-o", "remount,ro", str(place))
