"""The dataset in memory: leave-one-out, popularity, titles, refusal of altered files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import KIND, SEQUENCE_SCHEMA, Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact

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


@pytest.mark.parametrize("timed", [True, False])
def test_opening_reads_the_lengths_and_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timed: bool) -> None:
    path = build(tmp_path).path
    if not timed:
        rewrite(
            path, lambda table: table.set_column(2, SEQUENCE_SCHEMA.field(2), pa.nulls(3, SEQUENCE_SCHEMA.types[2]))
        )
    read: list[str] = []
    original = pq.ParquetFile.read_row_group

    def tell(file: pq.ParquetFile, number: int, columns: list[str]) -> pa.Table:
        read.extend(columns)
        return original(file, number, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", tell)
    dataset = Dataset.open(path)
    assert read == ["length"] and dataset.has_times == timed
    assert dataset.offsets.tolist() == [0, 4, 7, 12]
    assert len(dataset.items_E) == 12 and read == ["length", "items"]


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Another content of the sequences, under hashes that fit."""
    manifest = artefact.read(path, KIND)
    others = {name: (path / name).read_bytes() for name in manifest.files}
    table = change(pq.read_table(path / "sequences"))
    with artefact.writing(path, KIND, manifest.config) as draft:
        draft.counts.update(manifest.counts)
        (draft.path / "sequences").mkdir()
        for name, content in others.items():
            (draft.path / name).write_bytes(content)
        pq.write_table(table, draft.path / "sequences" / "part-00000.parquet")


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("length", [4, 4, 4], "row group 0 cannot be read any more"),
        ("length", [4, 3, 9], "holds more events than the dataset has"),
        ("length", [4, 3, 3], "has 10 interactions"),
        ("length", [4, 0, 8], "holds a history without events"),
        ("length", [4, None, 5], "holds a history without events"),
        ("items", [[0, 1, 2, 0], [1, 1, 3], [2, 0, 0, 1, 4]], "holds an item that is none"),
        ("items", [[0, 1, 2, 0], [1, 1, -1], [2, 0, 0, 1, 3]], "holds an item that is none"),
    ],
)
def test_lengths_and_items_that_are_none_are_refused(tmp_path: Path, column: str, values: list, says: str) -> None:
    path, field = build(tmp_path).path, SEQUENCE_SCHEMA.field(column)
    place = SEQUENCE_SCHEMA.names.index(column)
    rewrite(path, lambda table: table.set_column(place, field, pa.array(values, field.type)))
    with pytest.raises(ArtefactError, match=says):
        _ = Dataset.open(path).items_E


def test_a_dataset_of_an_older_version_is_to_be_prepared_again(tmp_path: Path) -> None:
    path = build(tmp_path).path
    rewrite(path, lambda table: table.drop_columns("length"))
    with pytest.raises(ArtefactError, match="tells no lengths of histories; prepare the logs again"):
        Dataset.open(path)
