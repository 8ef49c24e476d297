"""Users whom a rank evaluates: the batches of one rank whatever the row groups, and on each rank its own bytes alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from intrr_rec.data.dataset import Dataset
from intrr_rec.data.event_store import EventStore
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.own_users import OwnUsers, stretches
from intrr_rec.data.loading.windows import evaluation_windows
from tests.data.loading.regroup import regroup
from tests.tiny import make_line

WINDOW, BATCH = 6, 7


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_line(tmp_path_factory.mktemp("line")).dataset


@pytest.fixture
def dataset(whole: Path, tmp_path: Path) -> Dataset:
    return Dataset.open(regroup(whole, tmp_path / "regrouped", users_a_group=2))


def own(dataset: Dataset, rank: int = 0, ranks: int = 1) -> OwnUsers:
    windows = evaluation_windows(dataset.offsets, WINDOW, dataset.held_out("test"))
    collate = Collator(np.empty(0, np.int64), WINDOW, None, "items")
    return OwnUsers(dataset, windows, collate, BATCH, rank=rank, ranks=ranks, times=True)


def told(made: OwnUsers, waits: list[int]) -> dict[int, tuple]:
    """What the model is asked of each user: what it reads, with times, the target, and the whole history."""
    found = {}
    for batch, histories in made.batches(lambda: waits.append(1)):
        owner_T, item_T = batch.layout.owner_CN.numpy().ravel(), batch.items_U[batch.slot_T].numpy()
        assert batch.layout.event_time_CN is not None
        time_T = batch.layout.event_time_CN.numpy().ravel()
        before_BM, _ = histories.before_targets(batch.user_S)
        for row, (user, slot) in enumerate(zip(batch.user_S.tolist(), batch.scored_S.tolist(), strict=True)):
            mine = owner_T == owner_T[slot]
            history = before_BM[row][before_BM[row] >= 0].tolist()
            found[user] = (item_T[mine].tolist(), time_T[mine].tolist(), int(batch.target_S[row]), history)
    return found


def test_batches_hold_what_the_dataset_holds(dataset: Dataset, whole: Path) -> None:
    in_memory, found = Dataset.open(whole), told(own(dataset), [])
    assert in_memory.timestamps_E is not None and sorted(found) == list(range(50))
    for user, (items, times, target, history) in found.items():
        first, last = in_memory.offsets[user], in_memory.offsets[user + 1] - 1
        assert history == in_memory.items_E[first:last].tolist()
        assert (items, target) == (history[-WINDOW:], in_memory.items_E[last])
        assert times == in_memory.timestamps_E[first:last].tolist()[-WINDOW:]


@pytest.mark.parametrize("ranks", [4, 5, 60])
def test_ranks_share_the_users_and_the_bytes(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    """25 row groups: with five ranks each reads its fifth; elsewhere a row group on a border is read by both of its ranks."""
    read: list[int] = []
    original = EventStore.read_narrow

    def read_narrow(store: EventStore, group: int, column: str, dtype: np.dtype) -> np.ndarray:
        read.append(size(store, group, column))
        return original(store, group, column, dtype)

    def size(store: EventStore, group: int, column: str) -> int:
        place = store.groups[group]
        with store.folder.open(place.file) as handle:
            metadata = pq.ParquetFile(handle).metadata.row_group(place.number)
            columns = [metadata.column(number) for number in range(metadata.num_columns)]
            return sum(c.total_compressed_size for c in columns if c.path_in_schema.startswith(column))

    expected = told(own(dataset), [])
    monkeypatch.setattr(EventStore, "read_narrow", read_narrow)
    whole = sum(size(dataset.events, group, c) for group in range(25) for c in ("items", "timestamps"))
    largest = max(
        size(dataset.events, group, "items") + size(dataset.events, group, "timestamps") for group in range(25)
    )
    found, counts = {}, []
    for rank in range(ranks):
        read.clear()
        waits: list[int] = []
        part = told(own(dataset, rank, ranks), waits)
        assert not found.keys() & part.keys()
        found |= part
        counts.append(len(waits))
        assert sum(read) <= 1.1 * whole / ranks + (2 * largest if ranks != 5 else 0)
    assert found == expected
    assert len(set(counts)) == 1, "ranks wait for one another equally often"


def test_stretches_end_at_row_groups_that_are_near_and_leave_no_window_out() -> None:
    assert stretches(np.array([100, 98, 103, 99]), 4).tolist() == [0, 100, 198, 301, 400]
    assert stretches(np.array([0, 10, 0, 30, 0]), 2).tolist() == [0, 20, 40]
    assert stretches(np.array([0, 0]), 3).tolist() == [0, 0, 0, 0]


def test_popularity_counted_by_ranks_is_that_of_one(dataset: Dataset, whole: Path) -> None:
    counted = Dataset.open(whole).popularity()
    parts = []
    for rank in range(3):
        dataset._counted.clear()
        dataset.share_popularity(lambda part: part, rank, 3)
        parts.append(dataset.popularity())
    assert (sum(parts) == counted).all() and all((part < counted).any() for part in parts)
