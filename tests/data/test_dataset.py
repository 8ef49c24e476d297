"""The dataset in memory: leave-one-out, popularity, titles, refusal of altered files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ArtefactError

# user → items in time order; items a..d are dense 0..3
HISTORIES = {"u": "abca", "v": "bbd", "w": "caabd"}


def build(tmp_path: Path, content: dict | None = None) -> Dataset:
    events = [(user, item, t) for user, items in HISTORIES.items() for t, item in enumerate(items)]
    users, items, times = zip(*reversed(events), strict=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times}), tmp_path / "x.parquet")
    table = None
    if content:
        table = tmp_path / "items.parquet"
        pq.write_table(pa.table({"item_id": ["a", "b", "c"], **content}), table)
    prepare_dataset([tmp_path / "x.parquet"], table, tmp_path / "ds", PrepareConfig(k_core=1))
    return Dataset.open(tmp_path / "ds")


def test_leave_one_out(tmp_path: Path) -> None:
    dataset = build(tmp_path)
    assert (dataset.n_users, dataset.n_items) == (3, 4)
    assert dataset.items_E.tolist() == ["abcd".index(c) for items in HISTORIES.values() for c in items]
    assert dataset.offsets.tolist() == [0, 4, 7, 12]
    assert {a.dtype for a in (dataset.items_E, dataset.timestamps_E, dataset.offsets)} == {np.dtype(np.int64)}
    assert dataset.items_E[dataset.targets("valid")[1]].tolist() == [2, 1, 1]
    assert dataset.items_E[dataset.targets("test")[1]].tolist() == [0, 3, 3]
    # training parts: ab, b, caa
    assert dataset.popularity().tolist() == [3, 2, 1, 0]
    assert dataset.popularity().dtype == np.int64


def test_titles_fall_back_to_text_and_then_to_the_id(tmp_path: Path) -> None:
    assert build(tmp_path).titles(range(4)) == ["a", "b", "c", "d"]
    assert build(tmp_path, {"text": ["A", None, "C"]}).titles(range(4)) == ["A", "b", "C", "d"]
    content = {"text": ["A", "B", None], "title": ["x", None, None]}
    assert build(tmp_path, content).titles(range(4)) == ["x", "B", "c", "d"]


@pytest.mark.parametrize("name", ["sequences/part-00000.parquet", "items.parquet", "users.parquet", "statistics.json"])
def test_altered_or_missing_files_are_refused(tmp_path: Path, name: str) -> None:
    path = build(tmp_path).path
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArtefactError, match=f"file {name} was altered"):
        Dataset.open(path)
    (path / name).unlink()
    with pytest.raises(ArtefactError, match=f"file {name} is missing"):
        Dataset.open(path)
