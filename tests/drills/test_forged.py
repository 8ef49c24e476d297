"""Artefacts that somebody made who means to deceive: the hashes are right, the content is not. Each is one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact
from intrr_rec.io import misfit as reading
from intrr_rec.io.artefact import MANIFEST, file_hash
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.formats.records import sealed
from intrr_rec.io.misfit import misfit, note_read
from intrr_rec.serving.bundle.bundle import Bundle
from tests.drills.openers import OPENERS


def change_settings(**change: Any) -> Callable[[Path], None]:
    def forge(path: Path) -> None:
        settings = json.loads((path / "settings.json").read_text())
        for key, value in change.items():
            section, _, name = key.rpartition("__")
            inner = settings
            for part in section.split("__") if section else ():
                inner = inner[part]
            inner[name] = value
        (path / "settings.json").write_text(json.dumps(settings))

    return forge


def content(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes(data) and None  # type: ignore[func-returns-value]


def half(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[:-100]) and None  # type: ignore[func-returns-value]


TENSORS = (
    "model.safetensors",
    "codes.safetensors",
    "trie.safetensors",
    "item_embeddings.safetensors",
    "guidance.safetensors",
)
HUGE = (2**62).to_bytes(8, "little") + b"{}"
NESTED = b"[" * 100_000
WIDE = b'{"values":{"dtype":"F32","shape":[1000000000000,1000000],"data_offsets":[0,8]}}'
FORGED: list[tuple[str, Callable[[Path], None]]] = [
    *((f"{name}: {what}", content(name, data)) for name in TENSORS for what, data in (
        ("empty", b""), ("no header", b"\0" * 8), ("a header beyond the file", HUGE), ("text", b"hello" * 100),
        ("a shape beyond the file", len(WIDE).to_bytes(8, "little") + WIDE + b"\0" * 8),
        ("nested", len(NESTED).to_bytes(8, "little") + NESTED),
    )),
    *((f"{name}: cut", half(name)) for name in TENSORS),
    *((f"settings.json: {what}", content("settings.json", data)) for what, data in (
        ("a list", b"[]"), ("text", b'"x"'), ("null", b"null"), ("empty", b""), ("nested", NESTED), ("no UTF-8", b"\xff\xfe"),
        ("NaN", b'{"bundle_schema": NaN}'), ("a long number", b'{"bundle_schema": ' + b"9" * 5000 + b"}"),
    )),
    ("beam=1e9", change_settings(evaluate__beam=10**9)),
    ("beam=0", change_settings(evaluate__beam=0)),
    ("layers=1e8", change_settings(model__hstu__layers=10**8)),
    ("layers=3", change_settings(model__hstu__layers=3)),
    ("width=1e9", change_settings(model__hstu__width=10**9)),
    ("window=1e12", change_settings(model__window=10**12)),
    ("hidden=1e12", change_settings(model__ran__hidden=10**12)),
    ("codes=1e12", change_settings(codes_per_level=[10**12, 5, 8])),
    ("no levels", change_settings(codes_per_level=[])),
    ("rows of another type", change_settings(rows="int8")),
    ("items.parquet: empty", content("items.parquet", b"")),
    ("items.parquet: text", content("items.parquet", b"PAR1" * 50)),
    ("items.parquet: cut", half("items.parquet")),
    ("NaN weights", lambda path: save_file({"values": torch.full((30, 16), torch.nan)}, path / "item_embeddings.safetensors")),
    ("codes of another shape", lambda path: save_file({"codes": torch.zeros(3, 3, dtype=torch.uint8)}, path / "codes.safetensors")),
    ("no trie", lambda path: save_file({"codes": torch.zeros(3, 3, dtype=torch.uint8)}, path / "trie.safetensors")),
]  # fmt: skip


@pytest.mark.parametrize(("what", "forge"), FORGED, ids=[what for what, _ in FORGED])
@pytest.mark.timeout(60)
def test_a_forged_bundle_is_one_line(
    made: dict[str, Path], what: str, forge: Callable[[Path], None], tmp_path: Path
) -> None:
    """Whose hashes are right: what somebody would make who means to deceive."""
    path = tmp_path / "forged"
    shutil.copytree(made["bundle"], path)
    manifest = artefact.peek(path)
    forge(path)
    files = {name: file_hash(path / name) for name in manifest.files}
    write_json(path / MANIFEST, manifest.model_copy(update={"files": files}).document())
    with pytest.raises(ArtefactError) as refusal:
        Bundle.load(path)
    assert str(path) in str(refusal.value) and len(str(refusal.value)) < 1000


@pytest.mark.parametrize(
    "change",
    [
        {"files": {}},
        {"files": {"../escape": "a" * 64}},
        {"files": {"items.parquet": 3}},
        {"counts": {"items": -1}},
        {"counts": {"items": 10**30}},
        {"counts": {"items": "30"}},
        {"counts": {}},
        {"config": []},
        {"parents": {"dataset": 1}},
        {"kind": 7},
        {"schema_version": "2"},
        {"unheard_of": 1},
    ],
)
@pytest.mark.parametrize("kind", ["dataset", "semantic_ids", "bundle"])
def test_a_forged_manifest_is_one_line(
    made: dict[str, Path], kind: str, change: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "forged"
    shutil.copytree(made[kind], path)
    body = {key: value for key, value in json.loads((path / MANIFEST).read_text()).items() if key != "sha256"}
    write_json(path / MANIFEST, sealed(body | change))
    with pytest.raises(ArtefactError) as refusal:
        OPENERS[kind][0](path)
    assert str(path) in str(refusal.value) and len(str(refusal.value)) < 1000


def test_what_nobody_foresaw_of_content_with_right_hashes_is_one_line(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A verb that read an artefact names it; one that read none is at fault itself, and shows a traceback."""
    monkeypatch.setattr(reading, "_read", [])
    assert misfit(KeyError("codebook.0")) is None
    artefact.read(made["bundle"], "bundle")
    note_read(made["bundle"])
    said = str(misfit(KeyError("codebook.0")))
    assert said.startswith(f"{made['bundle']}: the hashes are right, but then: KeyError: 'codebook.0'")


LATE: dict[str, tuple[str, Callable[[Path], None], tuple[str, ...]]] = {
    "quality of another type": (
        "semantic_ids",
        lambda path: write_json(path / "quality.json", {"levels": [{"codes": "x"}]}),
        ("report", "--semantic-ids", "{forged}", "--dataset", "{dataset}"),
    ),
    "a quantizer without codebooks": (
        "semantic_ids",
        lambda path: save_file({"x": torch.zeros(1)}, path / "quantizer.safetensors"),
        ("index", "--extend", "{forged}", "--dataset", "{dataset}", "--vectors", "{vectors}", "--out", "{out}"),
    ),
    "popularity of an item that is none": (
        "bundle",
        lambda path: change_tensor(path / "items.safetensors", "by_popularity"),
        ("recommend", "--bundle", "{forged}", "--dataset", "{dataset}", "--out", "{out}"),
    ),
}


def change_tensor(path: Path, name: str) -> None:
    tensors = load_file(path)
    tensors[name][-1] = 2**62
    save_file(tensors, path)


@pytest.mark.slow
@pytest.mark.parametrize("what", LATE)
def test_forged_content_that_is_read_late_is_one_line(made: dict[str, Path], what: str, tmp_path: Path) -> None:
    kind, forge, words = LATE[what]
    path = tmp_path / "forged"
    shutil.copytree(made[kind], path)
    manifest = artefact.peek(path)
    forge(path)
    files = {name: file_hash(path / name) for name in manifest.files}
    write_json(path / MANIFEST, manifest.model_copy(update={"files": files}).document())
    places = {"forged": path, "out": tmp_path / "out", "dataset": made["dataset"]}
    places["vectors"] = made["dataset"].with_name("vectors.parquet")
    done = subprocess.run(
        [sys.executable, "-m", "intrr_rec", *(word.format(**places) for word in words)],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("intrr: ")]
    assert done.returncode == 2 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert str(path) in lines[0] and not (tmp_path / "out").exists()
