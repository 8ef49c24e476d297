"""Three ranks add a step's counts up as one that sees all shares."""

import multiprocessing
import os
from dataclasses import fields

import numpy as np
import pytest

from intrr_rec.data.loading.counts import StepCounts, StepTotals, alone
from intrr_rec.distributed.step_counts import CountExchange
from intrr_rec.distributed.world import join_world
from tests.distributed.launch import free_port

RANKS, SPARE = 3, 5


def counts(step: int, rank: int) -> StepCounts:
    """Of a step: 0 is usual, in 1 the first rank has no windows, in 2 no items are counted, in 3 items of one owner alone."""
    rng = np.random.default_rng([step, rank])
    if step == 1 and rank == 0:
        none = np.zeros(0, np.int64)
        return StepCounts(0, 0, 0, none, none, np.zeros(SPARE, np.int64))
    items_U = np.unique(rng.integers(0, 40, 25)) * (RANKS if step == 3 else 1)
    items_U = items_U[:0] if step == 2 else items_U
    count_U = rng.integers(1, 9, len(items_U))
    return StepCounts(
        int(rng.integers(1, 9)), 7.25 + rank, 11 * rank, items_U, count_U, np.full(SPARE, 100 * step + rank)
    )


def expected(step: int, rank: int) -> StepTotals:
    shares = [counts(step, each) for each in range(RANKS)]
    items, count = (np.concatenate([getattr(each, name) for each in shares]) for name in ("items_U", "count_U"))
    count_U = np.array([count[items == item].sum() for item in shares[rank].items_U], np.int64)
    spare_X = next(each.spare_X for each in shares if each.windows)
    weight, positions = sum(each.target_weight for each in shares), sum(each.positions for each in shares)
    return StepTotals(weight, positions, len(set(items.tolist())), count_U, spare_X)


def equal(one: StepTotals, two: StepTotals) -> bool:
    return all(np.array_equal(getattr(one, field.name), getattr(two, field.name)) for field in fields(one))


def run_rank(rank: int, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    with join_world() as world:
        exchange = CountExchange(world)
        for step in range(4):
            assert equal(exchange(counts(step, rank)), expected(step, rank)), (step, rank)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_ranks_add_up_what_one_would_that_sees_all():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.distributed.test_step_counts"])
    port = free_port()
    ranks = [context.Process(target=run_rank, args=(rank, port)) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in ranks] == [0] * RANKS


def test_one_rank_is_the_step():
    own = counts(0, 0)
    told = StepTotals(own.target_weight, own.positions, len(own.items_U), own.count_U, own.spare_X)
    assert equal(alone(own), told)
