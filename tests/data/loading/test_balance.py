"""Takers get equal windows and tokens; every run of an even order has lengths as all have."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intrr_rec.data.loading.balance import deal, even_order


def lognormal(count, window, seed=0):
    """Histories as `python -m benchmarks.speed ranks` draws them."""
    return np.exp(np.random.default_rng(seed).normal(np.log(window / 2), 1.0, count)).astype(np.int64).clip(1, window)


@given(st.lists(st.integers(1, 70_000), max_size=60), st.integers(1, 7))
def test_takers_get_as_many_windows_and_tokens_that_differ_by_less_than_two_windows(lengths, takers):
    length_M = np.array(lengths, np.int64)
    taker_M = deal(length_M, takers)
    assert set(taker_M.tolist()) <= set(range(takers))
    windows_R = np.bincount(taker_M, minlength=takers)
    tokens_R = np.bincount(taker_M, weights=length_M, minlength=takers)
    assert windows_R.max() - windows_R.min() <= 1
    assert tokens_R.max() - tokens_R.min() <= 2 * max(lengths, default=0)


@pytest.mark.parametrize(("window", "windows"), [(30, 512), (1_024, 64)])
def test_sixty_four_takers_get_equal_tokens_and_pairs(window, windows):
    length_M = lognormal(64 * windows, window)
    for weight_M in (length_M, length_M**2):
        total_R = np.bincount(deal(length_M, 64), weights=weight_M)
        assert total_R.max() / total_R.mean() < 1.005


@given(st.lists(st.integers(1, 9), max_size=70), st.integers(0, 9))
def test_an_order_has_every_window_once(lengths, seed):
    order_M = even_order(np.array(lengths, np.int64), np.random.default_rng(seed))
    assert sorted(order_M.tolist()) == list(range(len(lengths)))


@pytest.mark.parametrize("first", [0, 64, 37])
def test_every_run_of_an_order_has_lengths_as_all_have(first):
    """A fifth of what a run of as many windows drawn at random differs by."""
    length_M = lognormal(3_001, 1_024)
    runs = np.array(
        [length_M[even_order(length_M, np.random.default_rng(s))][first : first + 64].sum() for s in range(40)]
    )
    drawn = np.array([np.random.default_rng(s).permutation(length_M)[:64].sum() for s in range(40)])
    assert runs.mean() == pytest.approx(64 * length_M.mean(), rel=0.02)
    assert runs.std() < drawn.std() / 5


def test_orders_are_random():
    """Windows of one length come in any order; a window comes anywhere."""
    length_M = np.repeat([3, 5, 8], 40)
    orders = np.array([even_order(length_M, np.random.default_rng(seed)) for seed in range(200)])
    where_M = np.argsort(orders, axis=1)
    assert where_M.std(0) == pytest.approx(np.full(120, 120 / 12**0.5), rel=0.25)
    together = (abs(where_M[:, :1] - where_M[:, 1:]) < 8).mean(0)  # of the first window and each other one
    assert together.min() > 0.02 and together.max() < 0.35
