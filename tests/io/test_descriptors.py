"""Files held open by their numbers."""

import os
from pathlib import Path

import pytest

from intrr_rec.io.stores.storage import Descriptors


def test_what_is_held_is_closed_with_its_holder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    held = Descriptors()
    held.hold("file", str(tmp_path / "file"))
    held.hold("none", str(tmp_path / "none"))
    (number,) = held.numbers.values()
    assert os.fstat(number).st_size == 1
    del held
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_holder_that_was_interrupted_while_it_was_made_ends_in_silence() -> None:
    Descriptors.__new__(Descriptors).__del__()
