"""A file that is written anew is the old one or the new one."""

import errno
import json
import os
from pathlib import Path

import pytest

from intrr_rec.errors import PlaceError
from intrr_rec.io.disk.atomic import write_json


def test_a_text_file_survives_a_failed_rewrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"recall": 1})

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched, pytest.raises(PlaceError, match="disk is full"):
        patched.setattr(os, "replace", fail)
        write_json(path, {"recall": 2})
    assert json.loads(path.read_text()) == {"recall": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["metrics.json"]
