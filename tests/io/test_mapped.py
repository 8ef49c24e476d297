"""Arrays on disk have all their room before they are written to: a full disk is an error, never a signal."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from intrr_rec.errors import PlaceError
from intrr_rec.io.formats import mapped
from intrr_rec.io.formats.mapped import mapped_file, mapped_spool
from tests.drills.mounts import disk


def not_supported(*_: object) -> None:
    raise OSError(95, "Operation not supported")


@pytest.fixture(params=["fallocate", "zeros"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "zeros":
        monkeypatch.setattr(os, "posix_fallocate", not_supported)
        monkeypatch.setattr(mapped, "BLOCK", 1000)


@pytest.mark.usefixtures("way")
def test_an_array_is_zeros_and_keeps_what_is_written(tmp_path: Path) -> None:
    for x_ID in (mapped_file(tmp_path / "x", np.float32, (301, 7)), mapped_spool(np.float32, (301, 7))):
        assert x_ID.shape == (301, 7) and not x_ID.any()
        x_ID[:] = np.arange(7)
        assert (x_ID.sum(0) == 301 * np.arange(7)).all()
    assert (tmp_path / "x").stat().st_blocks * 512 >= 301 * 7 * 4
    assert mapped_file(tmp_path / "none", np.int64, (0, 3)).shape == (0, 3)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("make", [mapped_file, mapped_spool])
def test_a_disk_without_the_room_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any]
) -> None:
    with disk(tmp_path / "disk", 200) as place:
        monkeypatch.setattr(tempfile, "tempdir", str(place))
        first = (place / "x",) if make is mapped_file else ()
        with pytest.raises(PlaceError, match=f"^{place}.*the disk is full.*; (choose another --out|set TMPDIR)"):
            make(*first, np.float64, (100_000,))
        assert make is mapped_file or not any(place.iterdir())
