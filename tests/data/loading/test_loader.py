"""Order by (seed, epoch) alone, the same steps for any number of ranks, and threads that always end."""

import threading
import time
from itertools import chain

import numpy as np
import pytest

from intrr_rec.data.loading.counts import StepCounts, StepTotals, alone
from intrr_rec.data.loading.loader import Loader
from intrr_rec.data.loading.windows import training_windows

WINDOWS = training_windows(np.arange(24, dtype=np.int64) * 6, 8)  # 23 users, one window each
NONE = np.zeros(0, np.int64)


def told_users(windows, step):
    return windows.user_M.tolist()


class Teller:
    """In the place of a collator: a batch is what it tells of its windows."""

    def __init__(self, tell=told_users):
        self.share = tell

    def counts(self, shares):
        return StepCounts(len(shares), 0, 0, NONE, NONE, NONE)

    def weigh(self, shares, totals, own, replicas):
        return shares


def load(collate, batch=5, **options):
    return Loader(WINDOWS, collate, batch, **{"seed": 0, "rank": 0, "ranks": 1} | options)


def steps(rank=0, ranks=1, epoch=1, seed=0, first_step=0, batch=5, parts=1):
    loader = load(Teller(), batch, seed=seed, rank=rank, ranks=ranks, micro_batches=parts)
    return [list(chain.from_iterable(batches)) for batches in loader.epoch(epoch, first_step)]


def test_steps_are_numbered_through_all_epochs_whatever_the_rank_or_the_start():
    def numbers(epoch, first_step=0, **options):
        return [number for (number,) in load(Teller(lambda _, step: step), **options).epoch(epoch, first_step)]

    assert numbers(1) + numbers(2) == list(range(5, 15))
    assert numbers(2, rank=1, ranks=3, first_step=3) == [13, 14]


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
def test_ranks_make_the_same_steps_between_them(ranks):
    shares = [steps(rank, ranks) for rank in range(ranks)]
    assert {len(share) for share in shares} == {5}
    for whole, *parts in zip(steps(), *shares, strict=True):
        assert sorted(user for part in parts for user in part) == sorted(whole)
    assert sorted(user for step in steps() for user in step) == list(range(23))


def test_parts_of_a_rank_make_its_share_between_them():
    for rank in range(2):
        parts = list(load(Teller(), rank=rank, ranks=2, micro_batches=3).epoch(1))
        assert [sorted(chain.from_iterable(step)) for step in parts] == [sorted(own) for own in steps(rank, 2)]
        assert all(max(map(len, step)) - min(map(len, step)) <= 1 for step in parts)


def test_ranks_and_their_parts_get_equal_tokens():
    """The first five users have long histories: two ranks of two parts get one each, and one part another one."""
    lengths = np.repeat([12, 4], [5, 35])
    windows = training_windows(np.concatenate([[0], np.cumsum(lengths)]), 8)
    long = windows.length_M == 8
    assert long.sum() >= 5
    for rank in range(2):
        loader = Loader(windows, Teller(), len(windows), seed=0, rank=rank, ranks=2, micro_batches=2)
        ((one, two),) = loader.epoch(1)
        counts = [int(long[np.isin(windows.user_M, part)].sum()) for part in (one, two)]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("budget", [32, 40, 57, 1_000])
@pytest.mark.parametrize("epoch", [1, 2])
def test_a_budget_of_tokens_is_kept_and_filled(budget, epoch):
    lengths = np.random.default_rng(0).integers(4, 20, 60)
    windows = training_windows(np.concatenate([[0], np.cumsum(lengths)]), 8)
    tokens = Loader(windows, Teller(lambda one, _: one.n_tokens), 5, batch_tokens=budget, seed=0, rank=0, ranks=1)
    found = [tokens_of for (tokens_of,) in tokens.epoch(epoch)]
    assert len(found) == tokens.steps and sum(found) == windows.n_tokens
    assert 0 < min(found) <= max(found) <= budget
    if len(found) > 1:
        assert np.mean(found) > (budget - 8) * (len(found) - 1) / len(found)
    again = Loader(windows, Teller(lambda one, _: one.n_tokens), 5, batch_tokens=budget, seed=0, rank=0, ranks=1)
    assert [told for (told,) in again.epoch(epoch, 1)] == found[1:]


def test_order_depends_on_seed_and_epoch():
    assert steps() == steps()
    assert len({str(steps(epoch=e, seed=s)) for e in (1, 2) for s in (0, 1)}) == 4


def test_without_a_seed_the_order_is_kept():
    assert [user for step in steps(seed=None) for user in step] == list(range(23))


def test_resumes_at_a_step():
    assert steps(first_step=2) == steps()[2:]
    assert steps(first_step=5) == []


def test_step_count_rounds_up():
    assert [load(Teller(), n).steps for n in (22, 23, 24)] == [2, 1, 1]


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader")]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("bad_step", [0, 3])
def test_a_fault_in_the_collator_surfaces_and_nothing_is_exchanged_after_it(bad_step):
    done, exchanged = [], []

    def faulty(windows, step):
        if len(done) == bad_step:
            raise ZeroDivisionError("in the collator")
        done.append(1)
        return len(done)

    def exchange(own):
        exchanged.append(1)
        return alone(own)

    received = []
    with pytest.raises(ZeroDivisionError, match="in the collator"):
        received.extend(load(Teller(faulty), exchange=exchange).epoch())
    assert received == [(number,) for number in range(1, bad_step + 1)]
    assert len(exchanged) == bad_step
    assert loader_threads() == []


@pytest.mark.timeout(20)
def test_leaving_early_ends_the_threads():
    batches = load(Teller(), 1).epoch()
    next(batches)
    time.sleep(0.2)  # the queue is full by now and the threads wait
    assert len(loader_threads()) == 2
    batches.close()
    assert loader_threads() == []


@pytest.mark.timeout(20)
def test_ranks_that_leave_after_one_step_have_exchanged_the_same_steps():
    """One rank is slower: what both have begun is exchanged, so that neither waits for an exchange that never comes."""
    meeting, rounds = threading.Barrier(2, timeout=10), [[], []]

    def leave(rank):
        def exchange(own):
            meeting.wait()
            rounds[rank].append(own)
            return StepTotals(0, 0, 0, NONE, NONE)

        def slow(windows, step):
            time.sleep(0.02 * rank)
            return step

        made = load(Teller(slow), 1, rank=rank, ranks=2, exchange=exchange).epoch()
        for _ in range(3):
            next(made)
        made.close()

    threads = [threading.Thread(target=leave, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rounds[0]) == len(rounds[1]) > 3 and not meeting.broken


@pytest.mark.timeout(20)
def test_an_error_in_the_consumer_ends_the_threads():
    def consume():
        for _ in load(Teller(), 1).epoch():
            raise KeyError

    with pytest.raises(KeyError):
        consume()
    assert loader_threads() == []


@pytest.mark.timeout(20)
def test_only_a_few_batches_are_built_ahead():
    built = []

    def counting(windows, step):
        built.append(1)
        return 0

    batches = load(Teller(counting), 1).epoch()
    next(batches)
    time.sleep(0.3)
    assert len(built) <= 7
    batches.close()
