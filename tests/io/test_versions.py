"""Versions beside an artefact: numbered, linked, found by content, whole whenever a writer dies, and not more than a week of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from intrr_rec.io import artefact, versions
from intrr_rec.io.artefact import Manifest
from intrr_rec.io.versions import KEPT, find_version, keep_version, older, version_of

KIND = "notes"


def write(place: Path, text: str) -> Manifest:
    with artefact.writing(place, KIND, {}, keep_old=True) as draft:
        (draft.path / "text").write_text(text)
    return artefact.read(place, KIND)


def test_versions_are_numbered_and_each_is_an_artefact(tmp_path: Path) -> None:
    place = tmp_path / "notes"
    made = [write(place, f"day {n}") for n in range(1, 4)]
    assert [number for number, _ in older(place)] == [2, 1] and version_of(place) == 3
    assert [artefact.read(tmp_path / f"notes@{n}", KIND) for n in (1, 2)] == made[:2]
    assert [version_of(tmp_path / f"notes@{n}") for n in (1, 2)] == [1, 2]
    wanted = made[0].content_hash
    found = find_version(place, lambda path: artefact.peek(path).content_hash == wanted)
    assert found == tmp_path / "notes@1"
    assert find_version(place, lambda path: False) is None
    write(place, "day 3")  # the same once more is no new version
    assert version_of(place) == 3


def test_no_more_than_a_week_is_kept_and_numbers_go_on(tmp_path: Path) -> None:
    place = tmp_path / "notes"
    for day in range(KEPT + 3):
        write(place, f"day {day}")
    assert [number for number, _ in older(place)] == list(range(KEPT + 2, 2, -1))
    assert version_of(place) == KEPT + 3


def test_what_does_not_change_lies_there_once(tmp_path: Path) -> None:
    place = tmp_path / "notes"
    write(place, "day 1")
    inode = (place / "text").stat().st_ino
    keep_version(place)
    assert (tmp_path / "notes@1" / "text").stat().st_ino == inode


def test_a_writer_that_dies_before_it_replaces_the_name_counts_no_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "notes"
    first = write(place, "day 1")

    def die(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(artefact, "swap_into_place", die)
        with pytest.raises(KeyboardInterrupt):
            write(place, "day 2")
    assert artefact.read(place, KIND) == first and version_of(place) == 1
    write(place, "day 2")
    assert version_of(place) == 2 and [number for number, _ in older(place)] == [1]


def test_a_copy_cut_short_is_no_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "notes"
    write(place, "day 1")

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError):
        patched.setattr(versions, "link_or_copy", full)
        keep_version(place)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["notes"]


def test_other_names_are_no_versions(tmp_path: Path) -> None:
    place = tmp_path / "notes"
    write(place, "day 1")
    for name in ("notes@x", "notes@0", "notes@1.bak", "other@7"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes@9").write_text("a file")
    assert older(place) == [] and version_of(place) == 1
