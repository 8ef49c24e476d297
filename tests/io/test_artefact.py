"""Artefacts are whole or absent, whatever happens while one is written."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact


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
    monkeypatch.setattr(artefact, "_exchange", lambda a, b: False)
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
        raise OSError("no space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr(artefact, step, fail)
        build(target, "new")
    artefact.read(target, "dataset")
    assert (target / "data.txt").read_text() == "old"
    assert siblings(target) == ["dataset"]


WRITER = """
import sys, time
from pathlib import Path
from intrr_rec.io import artefact
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
    assert len(siblings(target)) == 2
    build(target, "new")
    assert (target / "data.txt").read_text() == "new"
    assert siblings(target) == ["dataset"], "the next writer clears what the killed one left"


def test_a_writer_leaves_a_living_one_alone(tmp_path: Path) -> None:
    target = tmp_path / "dataset"
    (tmp_path / ".dataset.tmp-file").write_text("not a folder of ours")
    with artefact.writing(target, "dataset", {}) as draft:
        (draft.path / "data.txt").write_text("outer")
        build(target, "inner")
        assert (target / "data.txt").read_text() == "inner" and draft.path.is_dir()
    assert (target / "data.txt").read_text() == "outer"
    artefact.read(target, "dataset")
    assert siblings(target) == [".dataset.tmp-file", "dataset"]


@pytest.mark.parametrize("refusal", [OSError("no locks here"), None])
def test_a_file_system_without_locks_only_keeps_what_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: OSError | None
) -> None:
    target = tmp_path / "dataset"
    (tmp_path / ".dataset.tmp-stale").mkdir()

    def flock(*_: object) -> None:
        if refusal:
            raise refusal

    monkeypatch.setattr(artefact.fcntl, "flock", flock)
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
        (cut_the_manifest, "cannot be read"),
        (empty_the_manifest, "cannot be read"),
        (list_for_a_manifest, "cannot be read"),
        (another_schema, "schema 99"),
    ],
)
def test_a_damaged_artefact_is_refused(tmp_path: Path, damage: Callable[[Path], None], says: str) -> None:
    target = tmp_path / "dataset"
    build(target)
    damage(target)
    with pytest.raises(ArtefactError, match=says):
        artefact.read(target, "dataset")


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


def test_a_text_file_survives_a_failed_rewrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    artefact.write_json(path, {"recall": 1})

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="no space"):
        patched.setattr(os, "replace", fail)
        artefact.write_json(path, {"recall": 2})
    assert json.loads(path.read_text()) == {"recall": 1}
    assert siblings(path) == ["metrics.json"]


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=3_000_000))
def test_the_file_hash_is_the_files(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("hash") / "file"
    path.write_bytes(content)
    assert artefact.file_hash(path) == hashlib.sha256(content).hexdigest()
