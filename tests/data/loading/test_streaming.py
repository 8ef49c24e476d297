"""Streamed windows: the batches of the same windows in memory, an order that nothing but the seed moves, bounded memory."""

from __future__ import annotations

import gc
import itertools
import weakref
from collections import Counter
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from intrr_rec.data import event_store as events
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.event_store import EventStore
from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.counts import alone
from intrr_rec.data.loading.loader import Loader
from intrr_rec.data.loading.negatives import CandidateSampler
from intrr_rec.data.loading.streaming import Pool, StreamedWindows, Stretch
from intrr_rec.data.loading.windows import Windows, prefix_windows, training_windows
from intrr_rec.errors import ArtefactError
from tests.data.loading.regroup import regroup
from tests.tiny import make_line

WINDOW, BATCH = 6, 7
CUTS = {"causal": training_windows, "prefix": prefix_windows}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_line(tmp_path_factory.mktemp("line")).dataset


@pytest.fixture(scope="module")
def dataset(whole: Path) -> Dataset:
    return Dataset.open(regroup(whole, whole.parent / "regrouped", users_a_group=4))


def streamed(
    dataset: Dataset,
    pool_events: int = 100,
    *,
    cut: str = "causal",
    times: bool = True,
    readers: int = 2,
    unscored_U: np.ndarray | None = None,
) -> StreamedWindows:
    return StreamedWindows(
        dataset.events,
        dataset.held_out("train"),
        partial(CUTS[cut], window=WINDOW),
        pool_events,
        times=times,
        readers=readers,
        unscored_U=unscored_U,
    )


def collator(dataset: Dataset, with_targets: bool = False) -> Collator:
    candidates = CandidateSampler(dataset.n_items, 5, seed=3)
    times_E = None if with_targets else dataset.timestamps_E
    return Collator(dataset.items_E, WINDOW, None, "items", times_E, candidates, with_targets=with_targets)


def load(dataset: Dataset, source: object, with_targets: bool = False, **options: int) -> Loader:
    made = collator(dataset, with_targets)
    return Loader(source, made, BATCH, **{"seed": 0, "rank": 0, "ranks": 1} | options)


def batches(
    dataset: Dataset, source: object, epoch: int = 1, first_step: int = 0, with_targets: bool = False, **options: int
) -> list[Batch]:
    return [batch for (batch,) in load(dataset, source, with_targets, **options).epoch(epoch, first_step)]


def same(one: object, two: object) -> bool:
    if isinstance(one, torch.Tensor | np.ndarray):
        return one.shape == two.shape and bool((one == two).all())
    if hasattr(one, "__dataclass_fields__"):
        return all(same(getattr(one, field.name), getattr(two, field.name)) for field in fields(one))
    return one == two


def test_regrouped_histories_are_the_same(dataset: Dataset, whole: Path) -> None:
    one = Dataset.open(whole)
    assert len(dataset.events.groups) == 13 and len({group.file for group in dataset.events.groups}) == 5
    for name in ("items_E", "timestamps_E", "offsets"):
        assert (getattr(dataset, name) == getattr(one, name)).all()


def stretches(windows: Windows, items_E: np.ndarray) -> list[tuple]:
    """What tells each window from others: user, whether scored, and the items of its events and of the one to predict last."""
    columns = zip(windows.user_M, windows.start_M, windows.length_M, windows.first_scored_M, strict=True)
    return [
        (user, scored, *items_E[start : start + n + 1]) for user, start, n, scored in np.array(list(columns)).tolist()
    ]


def require_batches_of_memory(dataset: Dataset, source: StreamedWindows, in_memory: Windows, **options: int) -> None:
    """Each streamed step is the batch that the same windows make in memory, and all windows come once."""
    with_targets = bool(options.pop("with_targets", False))
    places: dict[tuple, list[int]] = {}
    for place, told in enumerate(stretches(in_memory, dataset.items_E)):
        places.setdefault(told, []).append(place)
    assert (len(source), source.n_targets) == (len(in_memory), in_memory.n_targets)
    whole = collator(dataset, with_targets)
    loader = load(dataset, source, with_targets, **options)
    order = source.order(whole, 0, 1, loader.rank, loader.ranks)
    got = [batch for (batch,) in loader.epoch(1)]
    assert len(got) == loader.steps > 3
    for step, batch in enumerate(got):
        windows, made = order.fetch(step * BATCH, min((step + 1) * BATCH, len(source)))()
        if len(windows):
            own = in_memory.take(np.array([places[told].pop() for told in stretches(windows, made.items_E)]))
            share = whole.share(own, loader.steps + step)
            counts = whole.counts([share])  # a loader without an exchange takes its share for the step
            assert same(batch, whole.weigh([share], alone(counts), counts, loader.ranks)[0])
    order.close()
    if loader.ranks == 1:
        assert not any(places.values())


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("with_targets", [False, True])
@pytest.mark.parametrize("ranks", [1, 3])
def test_every_batch_is_the_one_that_its_windows_make_in_memory(
    dataset: Dataset, cut: str, with_targets: bool, ranks: int
) -> None:
    in_memory = CUTS[cut](dataset.offsets, WINDOW)
    source = streamed(dataset, cut=cut, times=not with_targets)
    require_batches_of_memory(dataset, source, in_memory, with_targets=with_targets, rank=ranks - 1, ranks=ranks)


def test_a_split_in_time_is_streamed_as_it_is_held_in_memory(dataset: Dataset) -> None:
    """Each user's held-out part is another; some have nothing to learn from."""
    by_time = replace(dataset, moments=(7, 9))
    held_out_U = by_time.held_out("train")
    assert len(set(held_out_U.tolist())) > 3
    in_memory = training_windows(dataset.offsets, WINDOW, held_out_U)
    require_batches_of_memory(dataset, streamed(by_time), in_memory)
    # Of a range of time, the events before it are read alone, and a row group with nothing to learn is not read.
    unscored_U = np.diff(dataset.offsets) - dataset.events.count_from(3)
    unscored_U[: dataset.events.groups[1].end_user] = 100
    source = streamed(by_time, unscored_U=unscored_U)
    assert source.windows_G.tolist()[:2] == [0, 0] and source.windows_G[2:].all()
    ranged = in_memory.scored_from((dataset.offsets[:-1] + unscored_U)[in_memory.user_M])
    assert 0 < ranged.n_targets < in_memory.n_targets / 2
    require_batches_of_memory(dataset, source, ranged)


def test_shuffled_every_window_comes_once_with_its_own_events(dataset: Dataset) -> None:
    def told(made: list[Batch]) -> Counter:
        targets = [zip(b.user_S.tolist(), b.target_S.tolist(), strict=True) for b in made]
        return Counter(itertools.chain.from_iterable(targets))

    shuffled = batches(dataset, streamed(dataset))
    assert told(shuffled) == told(batches(dataset, training_windows(dataset.offsets, WINDOW)))
    users = [sorted(set(b.user_S.tolist())) for b in shuffled]
    assert max(users[0]) - min(users[0]) > 8, "a step mixes the users of several row groups"


@pytest.mark.parametrize("change", [{"workers": 3}, {"readers": 5}, {"first_step": 4}])
def test_the_order_hangs_on_seed_epoch_and_pool_alone(dataset: Dataset, change: dict[str, int]) -> None:
    readers = change.pop("readers", 1)
    got = batches(dataset, streamed(dataset, readers=readers), **change)
    expected = batches(dataset, streamed(dataset))[change.get("first_step", 0) :]
    assert len(got) == len(expected) and all(same(one, two) for one, two in zip(got, expected, strict=True))


def test_another_seed_epoch_or_pool_gives_another_order(dataset: Dataset) -> None:
    orders = [
        [b.user_S.tolist() for b in batches(dataset, streamed(dataset, pool), seed=seed, epoch=epoch)]
        for pool, seed, epoch in [(100, 0, 1), (100, 1, 1), (100, 0, 2), (30, 0, 1)]
    ]
    assert len({str(order) for order in orders}) == 4


@pytest.mark.parametrize("ranks", [2, 3, 30])
def test_ranks_share_the_steps_of_one(dataset: Dataset, ranks: int) -> None:
    shares = [batches(dataset, streamed(dataset), rank=rank, ranks=ranks) for rank in range(ranks)]
    for whole_step, *parts in zip(batches(dataset, streamed(dataset)), *shares, strict=True):
        targets = [(u, t) for part in parts for u, t in zip(part.user_S.tolist(), part.target_S.tolist(), strict=True)]
        assert sorted(targets) == sorted(zip(whole_step.user_S.tolist(), whole_step.target_S.tolist(), strict=True))


@pytest.mark.parametrize("ranks", [4, 5])
def test_a_rank_reads_its_own_row_groups_alone(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    """Twelve row groups and a short one in one pool: each rank reads its tokens, and at most two row groups that others read too."""
    read: list[tuple] = []
    original = EventStore.read
    monkeypatch.setattr(EventStore, "read", lambda store, *told: read.append(told) or original(store, *told))
    groups = []
    for rank in range(ranks):
        batches(dataset, streamed(dataset, 10_000, times=False), rank=rank, ranks=ranks)
        assert {told[1] for told in read} == {"items"}
        groups.append([told[0] for told in read])
        read.clear()
    assert {group for found in groups for group in found} == set(range(len(dataset.events.groups)))
    tokens_G = streamed(dataset, 10_000).tokens_G
    for found in groups:
        assert len(found) == len(set(found))
        assert tokens_G[found].sum() <= 1.02 * tokens_G.sum() / ranks + 2 * tokens_G.max()


def test_stretches_are_equal_in_tokens_and_leave_no_row_group_out() -> None:
    tokens_G = np.array([100, 0, 7, 900, 900, 3, 90])
    found = [Stretch(tokens_G, rank, 4) for rank in range(4)]
    assert (found[0].first, found[-1].end) == (0, 7)
    assert [one.end for one in found[:-1]] == [two.first for two in found[1:]]
    near = [Stretch(np.array([1_000, 1_003, 998, 1_001]), rank, 2).groups for rank in range(2)]
    assert near == [range(2), range(2, 4)], "no row group is read twice where a border is near"
    for stretch in found:
        share_G = np.clip(stretch.end - np.arange(7), 0, 1) - np.clip(stretch.first - np.arange(7), 0, 1)
        assert share_G @ tokens_G == pytest.approx(2_000 / 4, abs=1)
        assert [place for place, share in enumerate(share_G) if share > 0] == list(stretch.groups)


def test_ranks_have_about_as_many_windows_of_each_step(dataset: Dataset) -> None:
    source = streamed(dataset, 10_000)
    orders = [source.order(collator(dataset), 0, 1, rank, 4) for rank in range(4)]
    for first in range(0, len(source) - 24, 24):
        taken = [len(order.fetch(first, first + 24)()[0]) for order in orders]
        assert sum(taken) == 24 and max(taken) <= 10
    for order in orders:
        order.close()


@pytest.mark.parametrize("pool", [100, 10_000])
def test_steps_of_a_budget_of_tokens_have_about_as_many(dataset: Dataset, pool: int) -> None:
    source = streamed(dataset, pool)
    loader = load(dataset, source, batch_tokens=60)
    order = source.order(loader.collate, 0, 1, 0, 1)
    ends = loader._ends(order).tolist()
    tokens = [int(order.fetch(*pair)()[0].length_M.sum()) for pair in itertools.pairwise(ends)]
    order.close()
    assert (len(tokens), sum(tokens), ends[-1]) == (loader.steps, source.n_tokens, len(source))
    assert min(tokens) > 30 and max(tokens) < 75
    halves = [batches(dataset, streamed(dataset, pool), rank=rank, ranks=2, batch_tokens=60) for rank in range(2)]
    assert [len(half) for half in halves] == [loader.steps] * 2


def test_at_most_three_pools_are_in_memory(dataset: Dataset) -> None:
    loader = load(dataset, streamed(dataset, 40))
    order = loader.windows.order(loader.collate, 0, 1, 0, 1)
    assert len(order.pools) > 6
    order.close()
    read: list[weakref.ref[Pool]] = []
    original = loader.windows.load

    def load_and_tell(*told: object) -> Pool:
        pool = original(*told)
        read.append(weakref.ref(pool))
        return pool

    loader.windows.load = load_and_tell
    held = [sum(pool() is not None for pool in read) for _ in loader.epoch()]
    assert len(read) > 6 and 0 < max(held) <= 3
    gc.collect()
    assert all(pool() is None for pool in read)


def test_leaving_early_ends_the_threads(dataset: Dataset) -> None:
    import threading

    made = load(dataset, streamed(dataset, 40)).epoch()
    next(made)
    made.close()
    assert [thread for thread in threading.enumerate() if thread.name.startswith("loader")] == []


def test_a_file_that_goes_while_it_is_read_is_one_line(whole: Path, tmp_path: Path) -> None:
    opened = Dataset.open(regroup(whole, tmp_path / "gone", users_a_group=4))
    source = streamed(opened)
    (tmp_path / "gone" / "sequences" / "part-00002.parquet").write_bytes(b"PAR1 no more PAR1")
    with pytest.raises(ArtefactError, match=r"part-00002\.parquet: row group \d cannot be read any more"):
        batches(opened, source)


def test_more_events_than_memory_should_hold_are_mapped(
    whole: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "RESIDENT_EVENTS", 10)
    mapped = Dataset.open(dataset.path)
    for name in ("items_E", "timestamps_E"):
        assert isinstance(getattr(mapped, name), np.memmap)
        assert (getattr(mapped, name) == getattr(dataset, name)).all()
