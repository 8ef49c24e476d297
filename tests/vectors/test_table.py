"""Item vectors: alignment to dense ids, every accepted type, every complaint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ArtefactError, DataError
from intrr_rec.io import artefact
from intrr_rec.vectors import table as vectors
from intrr_rec.vectors.table import VectorTable, read_vectors, vectors_hash

N, D = 9, 4
VECTORS = np.random.default_rng(0).normal(size=(N, D)).astype(np.float16)
SHUFFLED = np.random.default_rng(1).permutation(N)


def build(folder: Path, as_id: Callable[[int], int | str]) -> Dataset:
    folder.mkdir(exist_ok=True)
    columns = {"user_id": [0] * N, "item_id": [as_id(i) for i in range(N)], "timestamp": list(range(N))}
    pq.write_table(pa.table(columns), folder / "x.parquet")
    prepare_dataset([folder / "x.parquet"], None, folder / "ds", PrepareConfig(k_core=1))
    return Dataset.open(folder / "ds")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(tmp_path_factory.mktemp("vectors"), lambda i: 10 + i)


def table(rows: Sequence[Any], type_: pa.DataType | None = None, ids: Any = None) -> pa.Table:
    type_ = type_ or pa.list_(pa.float32(), D)
    ids = [10 + int(i) for i in SHUFFLED] if ids is None else ids
    return pa.table({"item_id": ids, "embedding": pa.array(rows, type_)})


def rows_of() -> list[Any]:
    return [list(VECTORS[i]) for i in SHUFFLED]


def lists(value: pa.DataType) -> list[pa.DataType]:
    return [pa.list_(value, D), pa.list_(value), pa.large_list(value)]


@pytest.mark.parametrize("type_", [t for v in (pa.float16(), pa.float32(), pa.float64()) for t in lists(v)], ids=str)
def test_vectors_come_in_dense_order(
    tmp_path: Path, dataset: Dataset, type_: pa.DataType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_BATCH_ROWS", 4)
    pq.write_table(table(rows_of(), type_), tmp_path / "v.parquet")
    vectors_ID = read_vectors(tmp_path / "v.parquet", dataset)
    assert vectors_ID.dtype == np.float32
    np.testing.assert_array_equal(vectors_ID, VECTORS.astype(np.float32))


def test_shards_string_ids_and_foreign_items(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    dataset = build(tmp_path / "s", lambda i: f"item é{i}")
    ids = pa.array([f"item é{i}" for i in SHUFFLED] + ["other"]).dictionary_encode()
    whole = table([*rows_of(), [0.0] * D], ids=ids)
    (tmp_path / "v").mkdir()
    pq.write_table(whole.slice(0, 4), tmp_path / "v" / "part-0.parquet")
    pq.write_table(whole.slice(4), tmp_path / "v" / "part-1.parquet")
    np.testing.assert_array_equal(read_vectors(tmp_path / "v", dataset), VECTORS.astype(np.float32))
    assert "1 vectors belong to no item" in caplog.text


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_text_ids_of_every_type(tmp_path: Path, kind: pa.DataType) -> None:
    dataset = build(tmp_path / "s", lambda i: f"item é{i}")
    pq.write_table(table(rows_of(), ids=pa.array([f"item é{i}" for i in SHUFFLED], kind)), tmp_path / "v.parquet")
    np.testing.assert_array_equal(read_vectors(tmp_path / "v.parquet", dataset), VECTORS.astype(np.float32))


def test_hash_follows_content_and_not_names(tmp_path: Path) -> None:
    for folder, cut in (("a", 4), ("b", 4), ("c", 5)):
        (tmp_path / folder).mkdir()
        pq.write_table(table(rows_of()).slice(0, cut), tmp_path / folder / f"{folder}-0.parquet")
        pq.write_table(table(rows_of()).slice(cut), tmp_path / folder / f"{folder}-1.parquet")
    a, b, c = (vectors_hash(tmp_path / folder) for folder in "abc")
    assert a == b != c


def changed(row: int, value: Any) -> list:
    rows = rows_of()
    rows[row] = value
    return rows


LOOSE = pa.list_(pa.float64())
IDS = [10 + int(i) for i in SHUFFLED]
BROKEN = {
    "no ids": (pa.table({"item": [1], "embedding": [[1.0]]}), r"no column 'item_id'; it has item, embedding"),
    "no embedding": (pa.table({"item_id": [1], "vector": [[1.0]]}), r"no column 'embedding'; it has item_id, vector"),
    "string ids": (table(rows_of(), ids=[str(i) for i in IDS]), r"'item_id' has type string, .* ids are integers"),
    "null id": (table(rows_of(), ids=[*IDS[:3], None, *IDS[4:]]), r"column 'item_id', row 4: the id is missing"),
    "duplicate": (table(rows_of(), ids=[*IDS[:6], IDS[2], *IDS[7:]]), rf"row 7: item {IDS[2]} has a vector already"),
    "absent": (table(rows_of()[2:], ids=IDS[2:]), rf"2 of the dataset's 9 items have no .* item {min(IDS[:2])}"),
    "other ids": (
        table([[1.0] * D], ids=pa.array([1000])),
        r"has a vector of none of the dataset's 9 items: their ids are such as \S+, those of column 'item_id' such as 1000",
    ),
    "no rows": (table([], ids=pa.array([], pa.int64())), r"9 of the dataset's 9 items have no vector"),
    "short": (table(changed(5, [1.0] * 3), LOOSE), r"row 6: has 3 values where the rows before have 4"),
    "short, first of a batch": (table(changed(4, [1.0] * 3), LOOSE), r"row 5: has 3 values where the rows before"),
    # pyarrow 25, Python 3.10's, cannot read it at all.
    "missing": (table(changed(6, None)), rf"row 7, item {IDS[6]}: the vector is missing|cannot be read as parquet"),
    "nan": (table(changed(1, [1.0, float("nan"), 0, 0])), rf"column 'embedding', row 2, item {IDS[1]}: holds nan"),
    "inf": (table(changed(8, [1.0, float("-inf"), 0, 0])), rf"row 9, item {IDS[8]}: holds -inf"),
    "null inside": (table(changed(7, [1.0, None, 0, 0])), rf"row 8, item {IDS[7]}: holds nan"),
    "too large for float32": (table(changed(7, [1e300, 0, 0, 0]), LOOSE), rf"row 8, item {IDS[7]}: holds inf"),
    "zero": (table(changed(7, [0.0] * D)), rf"row 8, item {IDS[7]}: the vector is zero; embed the item again"),
    "zeros": (table([[0.0] * D] * N), r"row 1, item \d+: the vector is zero \(and 3 more"),
    "zero in float32": (table(changed(7, [1e-200] * D), LOOSE), rf"row 8, item {IDS[7]}: the vector is zero"),
    "length beyond float32": (table(changed(7, [1e30] * D)), rf"item {IDS[7]}: the vector has values up to 1e\+30"),
    "length below float32": (table(changed(7, [1e-30] * D)), rf"item {IDS[7]}: the vector has values up to 1e-30"),
    "no values": (table([[]] * N, LOOSE), r"row 1: the vector has no values"),
    "integers": (table([[1] * D] * N, pa.list_(pa.int64())), r"'embedding' has type list<.*int64>; write a fixed-size"),
    "numbers": (pa.table({"item_id": IDS, "embedding": [0.5] * N}), r"'embedding' has type double"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_vectors_are_refused_in_one_line(
    tmp_path: Path, dataset: Dataset, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors, "_BATCH_ROWS", 4)
    broken, message = BROKEN[case]
    pq.write_table(broken, tmp_path / "v.parquet")
    with pytest.raises(DataError, match=message) as error:
        read_vectors(tmp_path / "v.parquet", dataset)
    assert "v.parquet" in str(error.value) and "\n" not in str(error.value)


def test_shards_name_the_file_and_its_own_row(tmp_path: Path, dataset: Dataset) -> None:
    pq.write_table(table(rows_of()).slice(0, 4), tmp_path / "0.parquet")
    for rows, ids, message in [
        (changed(5, [1.0, float("nan"), 0, 0]), IDS, rf"1\.parquet: column 'embedding', row 2, item {IDS[5]}"),
        (rows_of(), [*IDS[:6], IDS[2], *IDS[7:]], r"1\.parquet: column 'item_id', row 3: item"),
    ]:
        pq.write_table(table(rows, ids=ids).slice(4), tmp_path / "1.parquet")
        with pytest.raises(DataError, match=message):
            read_vectors(tmp_path, dataset)


def test_ids_beyond_int64_are_of_no_item(tmp_path: Path, dataset: Dataset) -> None:
    ids = pa.array([*IDS, (1 << 63) + 5], pa.uint64())
    pq.write_table(table([*rows_of(), [9.0] * D], ids=ids), tmp_path / "v.parquet")
    np.testing.assert_array_equal(read_vectors(tmp_path / "v.parquet", dataset), VECTORS.astype(np.float32))


def test_unreadable_files_are_refused(tmp_path: Path, dataset: Dataset) -> None:
    (tmp_path / "v.npy").write_text("x")
    (tmp_path / "v.parquet").write_text("x")
    for name, message in [("v.npy", "read from Parquet"), ("v.parquet", "cannot be read"), ("w", "no such file")]:
        with pytest.raises(DataError, match=message):
            read_vectors(tmp_path / name, dataset)
    pq.write_table(table(rows_of()), tmp_path / "v.parquet")
    whole = bytearray((tmp_path / "v.parquet").read_bytes())
    whole[4:200] = bytes(196)
    (tmp_path / "v.parquet").write_bytes(whole)
    with pytest.raises(DataError, match=r"v\.parquet: cannot be read as parquet"):
        read_vectors(tmp_path / "v.parquet", dataset)


def test_an_altered_artefact_of_vectors_is_refused(tmp_path):
    with artefact.writing(tmp_path / "vectors", "vectors", {}) as draft:
        pq.write_table(pa.table({"item_id": [1], "embedding": [[1.0, 2.0]]}), draft.path / "part-00000.parquet")
    assert VectorTable(tmp_path / "vectors").n_items == 1
    pq.write_table(pa.table({"item_id": [1], "embedding": [[1.0, 3.0]]}), tmp_path / "vectors" / "part-00000.parquet")
    with pytest.raises(ArtefactError, match=r"part-00000\.parquet was altered"):
        VectorTable(tmp_path / "vectors")
