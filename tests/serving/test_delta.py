"""A delta over a bundle makes the new bundle byte for byte, and is a small part of it; `test_registry.py` promotes one under load."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from intrr_rec.config import IndexConfig, PrepareConfig
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact
from intrr_rec.semantic_ids.build import build_semantic_ids
from intrr_rec.semantic_ids.extend import extend_semantic_ids
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.deltas.delta import RECORD, _common, apply_delta, write_delta
from intrr_rec.serving.bundle.deltas.export_delta import export_over
from intrr_rec.serving.bundle.deltas.row_patch import Layout, apply_changes, find_changes
from intrr_rec.serving.bundle.export import Grown, write_bundle
from intrr_rec.serving.recommender import Recommender
from intrr_rec.training.trainer import train
from tests import tiny
from tests.promotion.days import make_days

ITEMS, NEW = 6_000, 60
INDEX = IndexConfig(levels=2, codes=64, dedup_codes=64, iterations=3)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Grown]:
    """A run, and the same catalogue with 1 % more items, which no user has had."""
    folder, rng = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    item = np.concatenate([np.arange(ITEMS), rng.integers(0, ITEMS, ITEMS)])
    logs = {"user_id": np.arange(len(item)) % 500, "item_id": item, "timestamp": np.arange(len(item))}
    pq.write_table(pa.table(logs), folder / "logs.parquet")
    vectors = rng.normal(size=(ITEMS + NEW, 8)).astype(np.float32)
    for number in (0, NEW):
        ids = np.arange(ITEMS + number)
        pq.write_table(
            pa.table({"item_id": ids, "embedding": list(vectors[ids])}), folder / f"vectors-{number}.parquet"
        )
    line = tiny.Line(folder / "dataset", folder / "ids", folder / "vectors-0.parquet")
    prepare_dataset([folder / "logs.parquet"], None, line.dataset, PrepareConfig(k_core=1, keep_rows=True))
    build_semantic_ids(line.dataset, line.vectors, line.semantic_ids, INDEX)
    run = folder / "run"
    train(tiny.recipe("train.epochs=1", "train.batch_users=128", "model.hstu.width=32"), out=run, **line.inputs())
    new = {"user_id": np.arange(NEW) % 500, "item_id": ITEMS + np.arange(NEW), "timestamp": 10**6 + np.arange(NEW)}
    pq.write_table(pa.table(new), folder / "more.parquet")
    later = folder / "dataset-2"
    shutil.copytree(line.dataset, later)
    prepare_dataset([folder / "more.parquet"], None, later, PrepareConfig(), append=True)
    extend_semantic_ids(line.semantic_ids, later, folder / f"vectors-{NEW}.parquet", folder / "ids-2", IndexConfig())
    return run, Grown(later, folder / "ids-2", folder / f"vectors-{NEW}.parquet")


def files(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir() if path.name != "manifest.json"}


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["float32", "int8"])
def test_a_delta_of_one_per_cent_more_items_is_small_and_makes_the_bundle(
    shop: tuple[Path, Grown], tmp_path: Path, rows: str
) -> None:
    run, grown = shop
    base, whole, delta, made = (tmp_path / name for name in ("base", "whole", "delta", "made"))
    write_bundle(run, base, rows)  # type: ignore[arg-type]
    write_bundle(run, whole, rows, grown)  # type: ignore[arg-type]
    export_over(base, run, delta, rows, grown)  # type: ignore[arg-type]
    counts = artefact.read(delta, "bundle delta").counts
    assert counts["items"] == ITEMS + NEW and counts["base_items"] == ITEMS
    sizes = [sum(map(len, files(place).values())) for place in (delta, whole)]
    how = {name: each["how"] for name, each in json.loads((delta / RECORD).read_text())["files"].items()}
    parts = {path.name: path.stat().st_size for path in delta.iterdir()}
    print(f"delta {sizes[0]} of {sizes[1]} bytes, {sizes[0] / sizes[1]:.3f}", how, parts)
    assert sizes[0] <= 0.1 * sizes[1], (sizes, how, parts)
    apply_delta(base, delta, made)
    assert files(made) == files(whole)
    assert artefact.read(made, "bundle").content_hash == artefact.peek(whole).content_hash
    histories = [[1, 2, 3], [ITEMS + 5, 7]]
    answers = [Recommender(Bundle.load(place)).recommend(histories, 10) for place in (made, whole)]
    assert answers[0] == answers[1]


def test_a_file_that_begins_as_the_old_one_is_kept_as_its_tail(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(bytes(range(256)) * 8192)
    for new in (a.read_bytes() + b"more", a.read_bytes()[:-5] + b"other", b"x", a.read_bytes()[:100], b""):
        b.write_bytes(new)
        same = _common(a, b)
        assert (new[:same] == a.read_bytes()[:same] and new[: same + 1] != a.read_bytes()[: same + 1]) or same == len(
            new
        )


def patched(tmp_path: Path, old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> int:
    """Bytes of rows that the change takes; the new file comes out as it was."""
    a, b, made = (tmp_path / name for name in ("a", "b", "made"))
    save_file(old, a)
    save_file(new, b)
    changes = find_changes(a, b)
    apply_changes(a, Layout.read(b).text, changes, made)
    assert made.read_bytes() == b.read_bytes()
    return sum(len(each) for name, each in changes.items() if name.endswith(".rows"))


def test_rows_that_changed_were_added_or_removed(tmp_path: Path) -> None:
    x_ID, y_I = torch.randn(1000, 8), torch.arange(1000)
    assert patched(tmp_path, {"x": x_ID, "y": y_I}, {"x": x_ID, "y": y_I}) == 0
    changed_ID = x_ID.clone()
    changed_ID[[3, 4, 700]] += 1
    assert patched(tmp_path, {"x": x_ID, "y": y_I}, {"x": changed_ID, "y": y_I}) == 3 * 32
    grown_ID = torch.cat([changed_ID, torch.randn(10, 8)])
    assert patched(tmp_path, {"x": x_ID}, {"x": grown_ID, "z": y_I}) == 13 * 32 + 8000
    assert patched(tmp_path, {"x": x_ID}, {"x": x_ID[:5]}) == 0
    assert patched(tmp_path, {"x": x_ID}, {"x": x_ID.double()}) == 64_000  # another type
    assert patched(tmp_path, {"x": x_ID}, {"x": x_ID.view(500, 16)}) == 32_000
    assert patched(tmp_path, {"x": torch.zeros(0, 4)}, {"x": torch.ones(2, 4), "s": torch.tensor(3)}) == 40
    close = torch.arange(100, dtype=torch.uint8)
    close[[5, 9, 60]] = 200
    assert patched(tmp_path, {"x": torch.arange(100, dtype=torch.uint8)}, {"x": close}) == 5 + 1  # two runs: 5-9, 60


@pytest.mark.slow
def test_a_delta_that_was_altered_or_does_not_fit_makes_nothing(tmp_path: Path) -> None:
    days = make_days(tmp_path)
    old, new = days.bundles
    delta, made = tmp_path / "delta", tmp_path / "made"
    write_delta(old, new, delta)
    with pytest.raises(ArtefactError, match=r"is over bundle \w+, but"):
        apply_delta(new, delta, made)

    def damage(change: Callable[[Path], None], said: str) -> None:
        there = tmp_path / "damaged"
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(old, there)
        change(there)
        with pytest.raises(ArtefactError, match=said):
            apply_delta(there, delta, made)
        assert not made.exists()

    def flip(name: str) -> Callable[[Path], None]:
        def change(place: Path) -> None:
            data = bytearray((place / name).read_bytes())
            data[-1] ^= 1
            (place / name).write_bytes(bytes(data))

        return change

    same = [name for name, each in json.loads((delta / RECORD).read_text())["files"].items() if each["how"] == "same"]
    if same:
        damage(flip(same[0]), "was altered")
    payload = next(delta.glob("rows-*"), None) or next(delta.glob("whole-*"))
    payload.write_bytes(payload.read_bytes()[:-1])
    with pytest.raises(ArtefactError):
        apply_delta(old, delta, made)
    assert not made.exists()


@pytest.mark.slow
def test_applying_takes_less_than_a_second(shop: tuple[Path, Grown], tmp_path: Path) -> None:
    run, grown = shop
    base, delta = tmp_path / "base", tmp_path / "delta"
    write_bundle(run, base)
    export_over(base, run, delta, grown=grown)
    spent = time.process_time()
    apply_delta(base, delta, tmp_path / "made")
    Bundle.load(tmp_path / "made")
    assert time.process_time() - spent < 1
