"""Order by (seed, epoch) alone, the same steps for any number of replicas, and a thread that always ends."""

import threading
import time

import numpy as np
import pytest

from intrr_rec.data.loading.loader import Loader
from intrr_rec.data.loading.windows import training_windows

WINDOWS = training_windows(np.arange(24, dtype=np.int64) * 6, 8)  # 23 users, one window each


def collate(windows, rank, replicas, step):
    return windows.user_M[rank::replicas].tolist()


def steps(rank=0, replicas=1, epoch=1, seed=0, first_step=0, batch=5):
    loader = Loader(WINDOWS, collate, batch, seed=seed, rank=rank, replicas=replicas)
    return list(loader.epoch(epoch, first_step))


def test_steps_are_numbered_through_all_epochs_whatever_the_rank_or_the_start():
    def numbers(epoch, rank=0, replicas=1, first_step=0):
        loader = Loader(WINDOWS, lambda windows, rank, replicas, step: step, 5, seed=0, rank=rank, replicas=replicas)
        return list(loader.epoch(epoch, first_step))

    assert numbers(1) + numbers(2) == list(range(5, 15))
    assert numbers(2, rank=1, replicas=3, first_step=3) == [13, 14]


@pytest.mark.parametrize("replicas", [1, 2, 3, 7])
def test_replicas_make_the_same_steps_between_them(replicas):
    shares = [steps(rank, replicas) for rank in range(replicas)]
    assert {len(share) for share in shares} == {5}
    for whole, *parts in zip(steps(), *shares, strict=True):
        assert sorted(user for part in parts for user in part) == sorted(whole)
    assert sorted(user for step in steps() for user in step) == list(range(23))


def test_order_depends_on_seed_and_epoch():
    assert steps() == steps()
    assert len({str(steps(epoch=e, seed=s)) for e in (1, 2) for s in (0, 1)}) == 4


def test_without_a_seed_the_order_is_kept():
    assert [user for step in steps(seed=None) for user in step] == list(range(23))


def test_resumes_at_a_step():
    assert steps(first_step=2) == steps()[2:]
    assert steps(first_step=5) == []


def test_step_count_rounds_up():
    assert [Loader(WINDOWS, collate, n, seed=0, rank=0, replicas=1).steps for n in (22, 23, 24)] == [2, 1, 1]


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("bad_step", [0, 3])
def test_a_fault_in_the_collator_surfaces(bad_step):
    done = []

    def faulty(windows, rank, replicas, step):
        if len(done) == bad_step:
            raise ZeroDivisionError("in the collator")
        done.append(1)
        return len(done)

    received = []
    with pytest.raises(ZeroDivisionError, match="in the collator"):
        received.extend(Loader(WINDOWS, faulty, 5, seed=0, rank=0, replicas=1).epoch())
    assert received == list(range(1, bad_step + 1))
    assert loader_threads() == []


@pytest.mark.timeout(20)
def test_leaving_early_ends_the_thread():
    batches = Loader(WINDOWS, collate, 1, seed=0, rank=0, replicas=1).epoch()
    next(batches)
    time.sleep(0.2)  # the queue is full by now and the thread waits to put
    assert len(loader_threads()) == 1
    batches.close()
    assert loader_threads() == []


@pytest.mark.timeout(20)
def test_an_error_in_the_consumer_ends_the_thread():
    def consume():
        for _ in Loader(WINDOWS, collate, 1, seed=0, rank=0, replicas=1).epoch():
            raise KeyError

    with pytest.raises(KeyError):
        consume()
    assert loader_threads() == []


@pytest.mark.timeout(20)
def test_only_a_few_batches_are_built_ahead():
    built = []

    def counting(windows, rank, replicas, step):
        built.append(1)
        return 0

    batches = Loader(WINDOWS, counting, 1, seed=0, rank=0, replicas=1).epoch()
    next(batches)
    time.sleep(0.3)
    assert len(built) <= 7
    batches.close()
