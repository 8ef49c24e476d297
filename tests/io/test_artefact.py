"""Artefacts are whole or absent, whatever happens while one is written."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from intrr_rec.errors import ArtefactError, PlaceError
from intrr_rec.io import artefact
from intrr_rec.io.disk import atomic, lock
from intrr_rec.io.disk.atomic import write_text
from intrr_rec.io.stores.storage import Folder


def build(target: Path, text: str = "first", kind: str = "dataset", parents: dict[str, str] | None = None) -> None:
    with artefact.writing(target, kind, {"k": 1}) as draft:
        (draft.path / "data.txt").write_text(text)
        (draft.path / "parts").mkdir()
        (draft.path / "parts" / "0.txt").write_text(text * 2)
        draft.counts["rows"] = len(text)
        draft.parents.update(parents or {})


def siblings(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "dataset"
    build(target, parents={"logs": "abc"})
    manifest = artefact.read(target, "dataset")
    assert manifest.counts == {"rows": 5}
    assert manifest.config == {"k": 1}
    assert manifest.parents == {"logs": "abc"}
    assert set(manifest.files) == {"data.txt", "parts/0.txt"}
    assert siblings(target) == ["dataset"]


def test_equal_content_has_an_equal_hash_wherever_it_lies(tmp_path: Path) -> None:
    hashes = []
    for name, text, parents in [("a", "x", {}), ("b", "x", {}), ("c", "y", {}), ("d", "x", {"logs": "1"})]:
        build(tmp_path / name, text, parents=parents)
        hashes.append(artefact.read(tmp_path / name, "dataset").content_hash)
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_a_replacement_leaves_only_the_new_content(tmp_path: Path) -> None:
    target = tmp_path / "dataset"
    build(target, "first")
    with artefact.writing(target, "dataset", {}) as draft:
        (draft.path / "other.txt").write_text("second")
    assert set(artefact.read(target, "dataset").files) == {"other.txt"}
    assert sorted(path.name for path in target.iterdir()) == ["manifest.json", "other.txt"]
    assert siblings(target) == ["dataset"]


def test_a_replacement_works_where_folders_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_exchange", lambda a, b: False)
    test_a_replacement_leaves_only_the_new_content(tmp_path)


@pytest.mark.parametrize("before", [None, "old"])
def test_an_error_in_the_block_leaves_what_was_there(tmp_path: Path, before: str | None) -> None:
    target = tmp_path / "dataset"
    if before:
        build(target, before)
    with pytest.raises(RuntimeError, match="disk full"), artefact.writing(target, "dataset", {}) as draft:
        (draft.path / "data.txt").write_text("new")
        raise RuntimeError("disk full")
    assert siblings(target) == (["dataset"] if before else [])
    if before:
        artefact.read(target, "dataset")
        assert (target / "data.txt").read_text() == before


@pytest.mark.parametrize("step", ["file_hash", "sync", "write_json", "swap_into_place"])
def test_a_failure_while_publishing_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    target = tmp_path / "dataset"
    build(target, "old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with (
        monkeypatch.context() as patched,
        pytest.raises(PlaceError, match=r"dataset: cannot be written: the disk is full"),
    ):
        patched.setattr(artefact, step, fail)
        build(target, "new")
    artefact.read(target, "dataset")
    assert (target / "data.txt").read_text() == "old"
    assert siblings(target) == ["dataset"]


WRITER = """
import sys, time
from pathlib import Path
from intrr_rec.io import artefact
from intrr_rec.io.disk import atomic
from intrr_rec.io.disk import lock
from intrr_rec.io.disk.atomic import write_json, write_text
from intrr_rec.io.stores.storage import Folder
target, generation = Path(sys.argv[1]), 0
while True:
    generation += 1
    with artefact.writing(target, "dataset", {}) as draft:
        for part in range(8):
            (draft.path / f"{part}.txt").write_text(str(generation) * 5000)
            if sys.argv[2] == "pause" and part == 4:
                print("half-written", flush=True)
                time.sleep(60)
    print(generation, flush=True)
"""


def start_writer(target: Path, mode: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", WRITER, str(target), mode]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def kill(writer: "subprocess.Popen[str]") -> None:
    writer.send_signal(signal.SIGKILL)
    writer.wait(30)
    assert writer.stdout
    writer.stdout.close()


def test_kill_9_in_mid_write_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "dataset"
    build(target, "old")
    writer = start_writer(target, "pause")
    assert writer.stdout and writer.stdout.readline() == "half-written\n"
    kill(writer)
    artefact.read(target, "dataset")
    assert (target / "data.txt").read_text() == "old"
    assert len(siblings(target)) == 3, "its lock file and what it was writing"
    build(target, "new")
    assert (target / "data.txt").read_text() == "new"
    assert siblings(target) == ["dataset"], "the next writer clears what the killed one left"


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    target = tmp_path / "dataset"
    (tmp_path / ".dataset.tmp-file").write_text("not a folder of ours")
    with artefact.writing(target, "dataset", {}) as draft:
        (draft.path / "data.txt").write_text("outer")
        with pytest.raises(ArtefactError, match="another job is writing there"):
            build(target, "inner")
        assert draft.path.is_dir() and not target.exists()
    assert (target / "data.txt").read_text() == "outer"
    artefact.read(target, "dataset")
    assert siblings(target) == [".dataset.tmp-file", "dataset"]
    build(target, "next")
    assert (target / "data.txt").read_text() == "next"


def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path: Path) -> None:
    target = tmp_path / "dataset"
    writer = start_writer(target, "pause")
    assert writer.stdout and writer.stdout.readline() == "half-written\n"
    with pytest.raises(ArtefactError, match="another job is writing there"):
        build(target)
    kill(writer)
    build(target, "new")
    assert (target / "data.txt").read_text() == "new" and siblings(target) == ["dataset"]


@pytest.mark.parametrize("name", ["notes.txt", "parts/own.csv", ".hidden", "link"])
def test_a_users_file_in_an_artefact_is_never_deleted(tmp_path: Path, name: str) -> None:
    target = tmp_path / "dataset"
    build(target)
    if name == "link":
        (target / name).symlink_to(tmp_path)
    else:
        (target / name).write_text("mine")
    with pytest.raises(ArtefactError, match=rf"holds {name}, not listed in its manifest\.json"):
        build(target, "second")
    assert (target / name).exists() and (target / "data.txt").read_text() == "first"
    assert siblings(target) == ["dataset"]


def test_a_users_file_that_comes_while_a_job_works_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    target = tmp_path / "dataset"
    build(target)
    with artefact.writing(target, "dataset", {}) as draft:
        (draft.path / "data.txt").write_text("second")
        (target / "notes.txt").write_text("mine")
    assert (target / "data.txt").read_text() == "second" and "notes.txt" in caplog.text
    old = next(path for path in tmp_path.iterdir() if path.name.startswith("dataset.old-"))
    assert (old / "notes.txt").read_text() == "mine"


def test_a_link_is_written_through(tmp_path: Path) -> None:
    there, link = tmp_path / "disk" / "dataset", tmp_path / "dataset"
    build(there)
    link.symlink_to(there)
    build(link, "second")
    assert link.is_symlink() and (there / "data.txt").read_text() == "second"
    assert siblings(link) == ["dataset", "disk"] and siblings(there) == ["dataset"]
    page, page_link = tmp_path / "disk" / "page.html", tmp_path / "page.html"
    write_text(page, "old")
    page_link.symlink_to(page)
    write_text(page_link, "new")
    assert page_link.is_symlink() and page.read_text() == "new"


@pytest.mark.parametrize("points_at", ["nowhere", "self"])
def test_a_link_to_nothing_is_refused_in_a_line(tmp_path: Path, points_at: str) -> None:
    link = tmp_path / "out"
    link.symlink_to(link if points_at == "self" else tmp_path / "gone")
    for write in (build, lambda place: write_text(place, "text")):
        with pytest.raises(PlaceError, match=r"is a symbolic link to .*, which is not there"):
            write(link)
    assert siblings(link) == ["out"] and link.is_symlink()


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_modes_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with artefact.writing(tmp_path / "bundle", "bundle", {}) as draft:
            save_file({"x": torch.zeros(1)}, draft.path / "model.safetensors")
            (draft.path / "model.safetensors").chmod(0o600)  # what some writers choose
            (draft.path / "parts").mkdir()
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "bundle", *(tmp_path / "bundle").iterdir())}
    folder, file = 0o777 & ~umask, 0o666 & ~umask
    assert modes == {"bundle": folder, "parts": folder, "model.safetensors": file, "manifest.json": file}


@pytest.mark.parametrize("refusal", [OSError("no locks here"), None])
def test_a_file_system_without_locks_only_keeps_what_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: OSError | None
) -> None:
    target = tmp_path / "dataset"
    (tmp_path / ".dataset.tmp-stale").mkdir()

    def flock(*_: object) -> None:
        if refusal:
            raise refusal

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    build(target, "new")
    assert siblings(target) == ([".dataset.tmp-stale"] if refusal else []) + ["dataset"]


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_one_whole_generation(tmp_path: Path) -> None:
    target = tmp_path / "dataset"
    for attempt in range(25):
        writer = start_writer(target, "run")
        assert writer.stdout
        finished = int(writer.stdout.readline())
        time.sleep(attempt * 0.0016)
        kill(writer)
        manifest = artefact.read(target, "dataset")
        texts = {(target / name).read_text() for name in manifest.files}
        assert len(manifest.files) == 8 and len(texts) == 1, f"a mixture after {finished} generations"


def change_a_byte(target: Path) -> None:
    (target / "data.txt").write_text("FIRST")


def remove_a_file(target: Path) -> None:
    (target / "parts" / "0.txt").unlink()


def remove_the_manifest(target: Path) -> None:
    (target / "manifest.json").unlink()


def cut_the_manifest(target: Path) -> None:
    text = (target / "manifest.json").read_text()
    (target / "manifest.json").write_text(text[: len(text) // 2])


def empty_the_manifest(target: Path) -> None:
    (target / "manifest.json").write_text("{}")


def list_for_a_manifest(target: Path) -> None:
    (target / "manifest.json").write_text("[1, 2]")


def another_schema(target: Path) -> None:
    manifest = json.loads((target / "manifest.json").read_text())
    (target / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 99}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (change_a_byte, r"data\.txt was altered"),
        (remove_a_file, r"parts/0\.txt is missing"),
        (remove_the_manifest, r"has no manifest\.json"),
        (cut_the_manifest, r"manifest\.json: is not JSON"),
        (empty_the_manifest, "has no .sha256."),
        (list_for_a_manifest, "has no .sha256."),
        (another_schema, "schema 99"),
    ],
)
def test_a_damaged_artefact_is_refused(tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    target = tmp_path / "dataset"
    build(target)
    damage(target)
    with pytest.raises(ArtefactError, match=says):
        artefact.read(target, "dataset")


@pytest.mark.parametrize(("local_rank", "hashes"), [(None, True), ("", True), ("0", True), ("1", False), ("7", False)])
def test_of_the_processes_of_a_host_the_first_alone_hashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local_rank: str | None, hashes: bool
) -> None:
    build(tmp_path / "dataset")
    if local_rank is None:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    else:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    hashed: list[str] = []
    original = Folder.hash
    monkeypatch.setattr(Folder, "hash", lambda folder, name: hashed.append(name) or original(folder, name))
    artefact.read(tmp_path / "dataset", "dataset")
    assert sorted(hashed) == (["data.txt", "parts/0.txt"] if hashes else [])
    (tmp_path / "dataset" / "data.txt").unlink()
    with pytest.raises(ArtefactError, match=r"data\.txt is missing"):
        artefact.read(tmp_path / "dataset", "dataset")


def test_another_kind_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    build(tmp_path / "dataset")
    with pytest.raises(ArtefactError, match="is a 'dataset' artefact, but a 'semantic_ids' artefact is needed"):
        artefact.read(tmp_path / "dataset", "semantic_ids")
    with pytest.raises(ArtefactError, match="no such dataset artefact"):
        artefact.read(tmp_path / "gone", "dataset")


def a_users_folder(target: Path) -> None:
    target.mkdir()
    (target / "thesis.tex").write_text("years of work")


def a_users_file(target: Path) -> None:
    target.write_text("years of work")


def another_artefact(target: Path) -> None:
    build(target, kind="semantic_ids")


@pytest.mark.parametrize("occupy", [a_users_folder, a_users_file, another_artefact])
def test_what_is_not_ours_is_never_overwritten(tmp_path: Path, occupy: Callable[[Path], None]) -> None:
    target = tmp_path / "target"
    occupy(target)
    before = [(path, path.read_bytes()) for path in sorted([target, *target.rglob("*")]) if path.is_file()]
    with pytest.raises(ArtefactError, match="exists and is not a 'dataset' artefact"):
        build(target)
    assert [(path, path.read_bytes()) for path, _ in before] == before
    assert siblings(target) == ["target"]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    build(tmp_path / "dataset")
    artefact.read(tmp_path / "dataset", "dataset")


def test_an_artefact_built_from_something_else_is_refused(tmp_path: Path) -> None:
    for name, text in (("one", "x"), ("two", "y")):
        build(tmp_path / name, text)
    one, two = (artefact.read(tmp_path / name, "dataset") for name in ("one", "two"))
    build(tmp_path / "ids", kind="semantic_ids", parents={"dataset": one.content_hash})
    ids = artefact.read(tmp_path / "ids", "semantic_ids")
    artefact.require_parent(tmp_path / "ids", ids, "dataset", tmp_path / "one", one)
    with pytest.raises(ArtefactError, match=f"was built from dataset {one.content_hash[:12]}"):
        artefact.require_parent(tmp_path / "ids", ids, "dataset", tmp_path / "two", two)
    with pytest.raises(ArtefactError, match="was built from vectors nothing"):
        artefact.require_parent(tmp_path / "ids", ids, "vectors", tmp_path / "two", two)
