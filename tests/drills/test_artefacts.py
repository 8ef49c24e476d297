"""Drills on files that were changed, swapped or forged: each is refused in one line or has no effect, and none is a traceback.

The fast suite draws a sample by seed; the slow one takes all bytes of small files, and 300 swaps of each kind.
"""

from __future__ import annotations

import json
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from intrr_rec.data.dataset import Dataset
from intrr_rec.distributed.checkpoint.storage import read_state, verify
from intrr_rec.errors import ArtefactError, UserError
from intrr_rec.evaluation.evaluator import Split
from intrr_rec.evaluation.target_ranks import read_ranks
from intrr_rec.io import artefact
from intrr_rec.io.artefact import MANIFEST, file_hash
from intrr_rec.io.atomic import swap_into_place, write_json
from intrr_rec.io.records import read_sealed, sealed
from intrr_rec.runs.metrics_file import metric_lines
from intrr_rec.runs.parts import recorded_files, require_whole
from intrr_rec.runs.records import read_results
from intrr_rec.runs.run_record import read_recipe, read_run_record
from intrr_rec.semantic_ids.artefact import SemanticIds
from intrr_rec.serving.batch.histories import DatasetSource
from intrr_rec.serving.batch.recommend import Options, recommend_all
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.training.trainer import train
from intrr_rec.vectors.concat import concat_vectors, parse_parts
from intrr_rec.vectors.table import VectorTable
from tests.tiny import make_line, recipe

SMALL = 4096  # bytes of a file all of whose bytes are changed
SAMPLE = 40  # changes of a larger file
SPLITS: tuple[Split, ...] = ("valid", "test")
WORLD: Any = SimpleNamespace(rank=0, size=1)


def of_dataset(path: Path) -> str:
    found = Dataset.open(path)
    return repr((found.manifest, found.items_E.tolist(), found.offsets.tolist(), found.moments))


def of_semantic_ids(path: Path) -> str:
    found = SemanticIds.open(path)
    return repr((found.manifest, found.codes_IL.tolist(), found.quality, found.item_ids.to_pylist()))


def of_bundle(path: Path) -> str:
    found = Bundle.load(path)
    return repr((found.manifest, found.settings, found.codes_IL.tolist(), found.model.rows.values_ID.tolist()))


def of_recommendations(path: Path) -> str:
    return repr(artefact.read(path, "recommendations"))


def of_vectors(path: Path) -> str:
    return repr([(ids_P.tolist(), vectors_PD.tolist()) for ids_P, vectors_PD in VectorTable(path).blocks()])


def of_tables(path: Path) -> str:
    require_whole(path, recorded_files(path))
    return repr([(users.tolist(), rank_B.tolist()) for users, rank_B in (read_ranks(path, split) for split in SPLITS)])


def of_file(name: str, read: Callable[[Path], object]) -> tuple[Callable[[Path], str], tuple[str, ...]]:
    """A file of a run that has a reader of its own."""
    return lambda path: repr(read(path)), (name,)


def of_checkpoint(path: Path) -> str:
    verify(path, WORLD)
    return repr(read_state(path))


# Kind → how it is opened, which gives all that was read; and which of its files that reads (None is all).
OPENERS: dict[str, tuple[Callable[[Path], str], tuple[str, ...] | None]] = {
    "dataset": (of_dataset, None),
    "semantic_ids": (of_semantic_ids, None),
    "bundle": (of_bundle, None),
    "recommendations": (of_recommendations, None),
    "vectors": (of_vectors, None),
    "run.json": of_file("run.json", read_run_record),
    "config.yaml": of_file("config.yaml", read_recipe),
    "results.json": of_file("results.json", read_results),
    "metrics.jsonl": of_file("metrics.jsonl", lambda path: metric_lines(path / "metrics.jsonl")),
    "inspection.json": of_file("inspection.json", lambda path: read_sealed(path / "inspection.json", "")),
    "plan.json": of_file("plan.json", lambda path: read_sealed(path / "plan.json", "")),
    "ranks and recommendations": (of_tables, ("ranks/part-00000.parquet", "recommendations/part-00000.parquet")),
    "checkpoint": (of_checkpoint, None),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One artefact of each kind."""
    folder = tmp_path_factory.mktemp("made")
    line = make_line(folder)
    train(recipe("train.epochs=1"), out=folder / "run", **line.inputs())
    write_bundle(folder / "run", folder / "bundle")
    recommend_all(
        Bundle.load(folder / "bundle"), DatasetSource(line.dataset, 0), folder / "recommendations", Options(k=3)
    )
    concat_vectors(line.dataset, folder / "vectors", parse_parts([f"a={line.vectors}"], ()), "float16")
    return dict.fromkeys(OPENERS, folder / "run") | {
        "dataset": line.dataset,
        "semantic_ids": line.semantic_ids,
        "bundle": folder / "bundle",
        "recommendations": folder / "recommendations",
        "vectors": folder / "vectors",
        "checkpoint": folder / "run" / "checkpoints" / "best",
    }


def outcome(open_: Callable[[Path], str], path: Path, whole: str) -> str:
    """`refused`, `effectless`, or what went wrong."""
    try:
        return "effectless" if open_(path) == whole else "read otherwise"
    except UserError as error:
        return "refused" if str(path) in str(error) and "\n" not in str(error) else f"unnamed: {error}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"


def drill_bytes(source: Path, kind: str, folder: Path, small: int, sample: int) -> Counter[str]:
    """Change one byte at a time: of files up to `small` bytes each, of others `sample` by seed."""
    open_, names = OPENERS[kind]
    copy, rng, found = folder / "copy", random.Random(kind), Counter[str]()
    shutil.copytree(source, copy)
    whole = open_(copy)
    files = [copy / name for name in names] if names else sorted(path for path in copy.rglob("*") if path.is_file())
    for file in files:
        before = file.read_bytes()
        # A last line of figures without its end is one that was being written, and left out.
        end = len(before) - (file.name == "metrics.jsonl")
        places = range(end) if end <= small else rng.sample(range(end), min(sample, end))
        for place in places:
            changed = bytearray(before)
            changed[place] ^= 1 << rng.randrange(8)
            file.write_bytes(changed)
            found[outcome(open_, copy, whole)] += 1
        file.write_bytes(before)
    assert open_(copy) == whole
    return found


@pytest.mark.parametrize("kind", OPENERS)
def test_a_changed_byte_is_refused_or_without_effect(made: dict[str, Path], kind: str, tmp_path: Path) -> None:
    found = drill_bytes(made[kind], kind, tmp_path, small=0, sample=8)
    assert set(found) <= {"refused", "effectless"} and found["refused"], found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", OPENERS)
def test_every_changed_byte_is_refused_or_without_effect(made: dict[str, Path], kind: str, tmp_path: Path) -> None:
    found = drill_bytes(made[kind], kind, tmp_path, small=SMALL, sample=SAMPLE)
    print(f"\n{kind}: {sum(found.values())} tried, {dict(found)}")
    assert set(found) <= {"refused", "effectless"}, found


def swap_while_opening(kind: str, one: Path, two: Path, place: Path, loads: int) -> Counter[str]:
    """Open `place` again and again while the two take turns at it."""
    open_ = OPENERS[kind][0]
    wholes = {open_(one): "one", open_(two): "two"}
    assert len(wholes) == 2
    other = place.with_name("other")
    shutil.copytree(one, place)
    shutil.copytree(two, other)
    over, found = threading.Event(), Counter[str]()

    def swap() -> None:
        while not over.wait(0.001):
            swap_into_place(other, place)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(loads):
            found[wholes.get(open_(place), "mixed")] += 1
    finally:
        over.set()
        swapper.join()
    return found


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artefacts of the same sizes, made from other logs."""
    folder = tmp_path_factory.mktemp("others")
    line = make_line(folder, seed=1)
    train(recipe("train.epochs=1", "train.seed=5"), out=folder / "run", **line.inputs())
    write_bundle(folder / "run", folder / "bundle")
    return {"dataset": line.dataset, "semantic_ids": line.semantic_ids, "bundle": folder / "bundle"}


@pytest.mark.parametrize("loads", [20, pytest.param(300, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("kind", ["dataset", "semantic_ids", "bundle"])
def test_what_is_swapped_while_it_is_opened_is_never_mixed(
    made: dict[str, Path], others: dict[str, Path], kind: str, loads: int, tmp_path: Path
) -> None:
    found = swap_while_opening(kind, made[kind], others[kind], tmp_path / "place", loads)
    assert sum(found.values()) == loads and not found["mixed"], found


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
