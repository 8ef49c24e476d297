"""Streamed windows: the batches of the same windows in memory, an order that nothing but the seed moves, bounded memory."""

from __future__ import annotations

import gc
import itertools
from collections import Counter
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from intrr_rec.data import event_store as events
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.loading.batch import Batch, Collator
from intrr_rec.data.loading.loader import Loader
from intrr_rec.data.loading.negatives import CandidateSampler
from intrr_rec.data.loading.streaming import Pool, StreamedWindows
from intrr_rec.data.loading.windows import prefix_windows, training_windows
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
    dataset: Dataset, pool_events: int = 100, *, cut: str = "causal", times: bool = True, readers: int = 2
) -> StreamedWindows:
    return StreamedWindows(
        dataset.events,
        dataset.held_out("train"),
        partial(CUTS[cut], window=WINDOW),
        pool_events,
        times=times,
        readers=readers,
    )


def collator(dataset: Dataset, with_targets: bool = False) -> Collator:
    candidates = CandidateSampler(dataset.n_items, 5, seed=3)
    times_E = None if with_targets else dataset.timestamps_E
    return Collator(dataset.items_E, WINDOW, None, "items", times_E, candidates, with_targets=with_targets)


def batches(
    dataset: Dataset,
    source: object,
    seed: int | None = 0,
    epoch: int = 1,
    first_step: int = 0,
    with_targets: bool = False,
    **loader: int,
) -> list[Batch]:
    options = {"rank": 0, "replicas": 1} | loader
    made = Loader(source, collator(dataset, with_targets), BATCH, seed=seed, **options)
    return list(made.epoch(epoch, first_step))


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


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("with_targets", [False, True])
@pytest.mark.parametrize("replicas", [1, 2])
def test_in_the_datasets_order_every_batch_is_the_one_made_in_memory(
    dataset: Dataset, cut: str, with_targets: bool, replicas: int
) -> None:
    in_memory = CUTS[cut](dataset.offsets, WINDOW)
    source = streamed(dataset, cut=cut, times=not with_targets)
    assert (len(source), source.n_targets) == (len(in_memory), in_memory.n_targets)
    options = {"seed": None, "with_targets": with_targets, "rank": replicas - 1, "replicas": replicas}
    got, expected = batches(dataset, source, **options), batches(dataset, in_memory, **options)
    assert len(got) == len(expected) > 5
    assert all(same(one, two) for one, two in zip(got, expected, strict=True))


def test_a_split_in_time_is_streamed_as_it_is_held_in_memory(dataset: Dataset) -> None:
    """Each user's held-out part is another; some have nothing to learn from."""
    by_time = replace(dataset, moments=(7, 9))
    held_out_U = by_time.held_out("train")
    assert len(set(held_out_U.tolist())) > 3
    in_memory = training_windows(dataset.offsets, WINDOW, held_out_U)
    got, expected = (batches(dataset, source, seed=None) for source in (streamed(by_time), in_memory))
    assert len(got) == len(expected) > 3 and all(same(one, two) for one, two in zip(got, expected, strict=True))


def test_shuffled_every_window_comes_once_with_its_own_events(dataset: Dataset) -> None:
    def told(made: list[Batch]) -> Counter:
        targets = [zip(b.user_S.tolist(), b.target_S.tolist(), strict=True) for b in made]
        return Counter(itertools.chain.from_iterable(targets))

    shuffled = batches(dataset, streamed(dataset))
    assert told(shuffled) == told(batches(dataset, training_windows(dataset.offsets, WINDOW)))
    users = [sorted(set(b.user_S.tolist())) for b in shuffled]
    assert users != [sorted(set(b.user_S.tolist())) for b in batches(dataset, streamed(dataset), seed=None)]
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


@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_share_the_steps_of_one(dataset: Dataset, replicas: int) -> None:
    shares = [batches(dataset, streamed(dataset), rank=rank, replicas=replicas) for rank in range(replicas)]
    for whole_step, *parts in zip(batches(dataset, streamed(dataset)), *shares, strict=True):
        targets = [(u, t) for part in parts for u, t in zip(part.user_S.tolist(), part.target_S.tolist(), strict=True)]
        assert sorted(targets) == sorted(zip(whole_step.user_S.tolist(), whole_step.target_S.tolist(), strict=True))


def test_at_most_three_pools_are_in_memory(dataset: Dataset) -> None:
    loader = Loader(streamed(dataset, 40), collator(dataset), BATCH, seed=0, rank=0, replicas=1)
    assert len(loader.windows.order(loader.collate, 0, 1).pools) > 6
    gc.collect()
    held = [sum(type(each) is Pool for each in gc.get_objects()) for _ in loader.epoch()]
    assert 0 < max(held) <= 3
    gc.collect()
    assert not any(type(each) is Pool for each in gc.get_objects())


def test_loaders_side_by_side_share_what_is_read(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    source, read = streamed(dataset, 120), []
    load = source.load
    monkeypatch.setattr(source, "load", lambda *given: read.append(given) or load(*given))
    parts = [Loader(source, collator(dataset), 1, seed=0, rank=part, replicas=2).epoch() for part in range(2)]
    assert len(list(zip(*parts, strict=True))) == len(source)
    assert len(read) == len(source.order(collator(dataset), 0, 0).pools) > 2


def test_leaving_early_ends_the_threads(dataset: Dataset) -> None:
    import threading

    made = Loader(streamed(dataset, 40), collator(dataset), BATCH, seed=0, rank=0, replicas=1).epoch()
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
