"""Streams of vectors: every row once over the ranks, the same rows every time, whatever the files look like."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.data.dataset import Dataset
from intrr_rec.errors import DataError
from intrr_rec.semantic_ids.source import ParquetSource, draw_samples
from intrr_rec.vectors.table import read_vectors
from tests import tiny


class Place:
    def __init__(self, rank, size):
        self.rank, self.size = rank, size


def write(folder, ids, vectors, cuts, group):
    folder.mkdir(exist_ok=True)
    table = pa.table({"item_id": ids, "embedding": pa.array(list(vectors), pa.list_(pa.float32(), vectors.shape[1]))})
    for part, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(ids)], strict=True)):
        pq.write_table(table.slice(start, end - start), folder / f"{part}.parquet", row_group_size=group)


def gathered(source):
    blocks = list(source.blocks())
    return torch.cat([ids_P for ids_P, _ in blocks]), torch.cat([x_PD for _, x_PD in blocks])


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 60),
    size=st.integers(1, 5),
    group=st.integers(1, 20),
    cuts=st.lists(st.integers(0, 60), max_size=3),
)
def test_every_row_belongs_to_one_rank(tmp_path_factory, rows, size, group, cuts):
    folder = tmp_path_factory.mktemp("vectors")
    vectors = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    write(folder, np.arange(rows), vectors, sorted(min(cut, rows) for cut in cuts), group)
    found = torch.full((rows, 3), torch.nan)
    for rank in range(size):
        for ids_P, x_PD in ParquetSource(folder, peers=Place(rank, size)).blocks():
            assert found[ids_P].isnan().all() and len(ids_P)
            found[ids_P] = x_PD
    assert torch.equal(found, torch.from_numpy(vectors))


@pytest.mark.parametrize("size", [1, 2, 3])
def test_samples_are_the_same_whoever_reads_the_rows(tmp_path, size):
    rows = 4000
    vectors = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
    write(tmp_path, np.arange(rows), vectors, [1500], 100)

    def drawn(ranks, seed):
        each = [
            draw_samples(ParquetSource(tmp_path, peers=Place(rank, ranks)), [1000, 300], seed) for rank in range(ranks)
        ]
        return [torch.cat([of_rank[sample].ids_R for of_rank in each]).sort().values for sample in range(2)], each

    (fitted, measured), each = drawn(size, 0)
    assert all(torch.equal(ours, one) for ours, one in zip((fitted, measured), drawn(1, 0)[0], strict=True))
    assert not torch.equal(fitted, drawn(1, 1)[0][0])
    assert abs(len(fitted) - 1000) < 100 and abs(len(measured) - 300) < 60
    assert not set(fitted.tolist()) & set(measured.tolist())
    assert all(torch.equal(of_rank[0].x_RD[:, 0], 2.0 * of_rank[0].ids_R) for of_rank in each)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"))


@pytest.mark.parametrize("shuffled", [False, True])
def test_ids_are_the_datasets_in_its_order_or_not(line, tmp_path, shuffled):
    dataset = Dataset.open(line.dataset)
    order = np.random.default_rng(0).permutation(tiny.N_ITEMS) if shuffled else np.arange(tiny.N_ITEMS)
    vectors = np.random.default_rng(1).normal(size=(tiny.N_ITEMS, 4)).astype(np.float32)
    write(tmp_path / "v", order, vectors[order], [11, 12], 5)
    source = ParquetSource(tmp_path / "v", dataset)
    assert (source.n_items, source.width) == (tiny.N_ITEMS, 4)
    for _ in range(2):  # as often as wanted
        ids_I, x_ID = gathered(source)
        assert torch.equal(ids_I, torch.from_numpy(order))
        assert torch.equal(x_ID, torch.from_numpy(read_vectors(tmp_path / "v", dataset))[ids_I])


def test_vectors_of_other_items_are_left_out(line, tmp_path):
    ids = np.arange(tiny.N_ITEMS + 20) - 10
    write(tmp_path / "v", ids, np.ones((len(ids), 2), np.float32), [15], 10)
    ids_I, _ = gathered(ParquetSource(tmp_path / "v", Dataset.open(line.dataset)))
    assert ids_I.tolist() == list(range(tiny.N_ITEMS))


def test_faults_are_named_by_the_rank_that_reads_them(tmp_path):
    vectors = np.ones((6, 2), np.float32)
    vectors[4, 1] = np.nan
    write(tmp_path / "v", np.arange(6), vectors, [], 3)
    gathered(ParquetSource(tmp_path / "v", peers=Place(0, 2)))
    with pytest.raises(DataError, match="row 5, item 4: holds nan"):
        gathered(ParquetSource(tmp_path / "v", peers=Place(1, 2)))


def test_a_folder_without_rows_is_refused(tmp_path):
    write(tmp_path / "v", np.arange(0), np.ones((0, 2), np.float32), [], 3)
    with pytest.raises(DataError, match="holds no vectors"):
        ParquetSource(tmp_path / "v")
