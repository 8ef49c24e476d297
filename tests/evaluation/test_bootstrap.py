"""The bootstrap against resampling users one by one, the closed-form standard error, and what must hold of any interval."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.evaluation.bootstrap import mean_intervals, paired_bootstrap, resampled_means


def gains(users=2_000, shift=0.0, seed=0):
    """Differences of hits at two cut-offs: mostly 0, now and then ±1, more often +1 by `shift`."""
    rng = np.random.default_rng(seed)
    first = rng.choice([-1.0, 0.0, 1.0], users, p=[0.05, 0.9 - shift, 0.05 + shift])
    return np.stack([first, first * (rng.random(users) < 0.6)], axis=1)


def test_spread_equals_the_standard_error_of_a_mean():
    difference_BM = np.stack([gains(600)[:, 0], np.random.default_rng(1).normal(0.3, 2.0, 600)], axis=1)
    means_RM = resampled_means(difference_BM, seed=0, resamples=10_000)
    error_M = difference_BM.std(0) / np.sqrt(len(difference_BM))
    np.testing.assert_allclose(means_RM.std(0), error_M, rtol=0.03)
    assert (abs(means_RM.mean(0) - difference_BM.mean(0)) < 0.05 * error_M).all()
    for interval, mean, error in zip(
        paired_bootstrap(difference_BM, seed=0), difference_BM.mean(0), error_M, strict=True
    ):
        assert interval.difference == pytest.approx(mean)
        assert interval.low == pytest.approx(mean - 1.96 * error, abs=0.08 * error)
        assert interval.high == pytest.approx(mean + 1.96 * error, abs=0.08 * error)


def test_the_interval_of_a_mean_holds_the_mean_of_all_users_nineteen_times_in_twenty():
    """Over samples of them, of hits at two cut-offs, counted by distinct row; one row that nobody has changes nothing."""
    row_CM, share_C = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [5.0, 5.0]]), np.array([0.7, 0.2, 0.1, 0.0])
    rng = np.random.default_rng(0)
    intervals = np.array(
        [
            mean_intervals(row_CM, rng.multinomial(500, share_C), seed=seed, resamples=1_000).T.flatten()
            for seed in range(400)
        ]
    )
    held = (intervals[:, :2] <= share_C @ row_CM) & (share_C @ row_CM <= intervals[:, 2:])
    assert (held.mean(0) > 0.92).all() and (held.mean(0) < 0.98).all()


def test_same_distribution_as_drawing_users_one_by_one():
    difference_BM = gains(users=60)
    rng = np.random.default_rng(7)
    one_by_one_RM = np.stack([difference_BM[rng.integers(0, 60, 60)].mean(0) for _ in range(8_000)])
    means_RM = resampled_means(difference_BM, seed=0, resamples=8_000)
    np.testing.assert_allclose(np.cov(means_RM.T), np.cov(one_by_one_RM.T), rtol=0.08)
    levels = [0.1, 0.25, 0.5, 0.75, 0.9]
    np.testing.assert_allclose(
        np.quantile(means_RM, levels, axis=0), np.quantile(one_by_one_RM, levels, axis=0), atol=1 / 60 + 1e-9
    )


def test_identical_runs_do_not_differ():
    for interval in paired_bootstrap(np.zeros((500, 4)), seed=0):
        assert (interval.difference, interval.low, interval.high, interval.p_value) == (0, 0, 0, 1)


def test_a_known_shift_is_found_and_none_is_not():
    for interval in paired_bootstrap(gains(users=5_000, shift=0.05), seed=0):
        assert 0 < interval.low < interval.difference < interval.high and interval.p_value < 0.001
    balanced = np.concatenate([gains(), -gains()])
    for interval in paired_bootstrap(balanced, seed=0):
        assert interval.low < 0 < interval.high and interval.p_value > 0.9


def test_a_true_null_is_rejected_about_one_time_in_twenty():
    found = [
        paired_bootstrap(gains(users=400, seed=seed), seed=seed, resamples=1_000)[0].p_value for seed in range(400)
    ]
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.09


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), users=st.integers(1, 300), shift=st.sampled_from([0.0, 0.1, 0.5]))
def test_sides_may_be_swapped_and_the_p_value_tells_what_the_interval_does(seed, users, shift):
    difference_BM = gains(users, shift, seed)
    for one, other in zip(
        paired_bootstrap(difference_BM, seed=seed, resamples=2_000),
        paired_bootstrap(-difference_BM[::-1], seed=seed + 1, resamples=2_000),
        strict=True,
    ):
        assert one.difference == pytest.approx(-other.difference)
        assert one.low <= one.high and 0 < one.p_value <= 1
        assert abs(one.p_value - other.p_value) < 0.2
        if one.p_value < 0.045:
            assert one.low > 0 or one.high < 0
        if one.p_value > 0.055:
            assert one.low <= 0 <= one.high


def test_the_seed_decides_and_memory_is_bounded(monkeypatch):
    difference_BM = np.random.default_rng(0).normal(size=(300, 2))
    whole = resampled_means(difference_BM, 3, 500)
    np.testing.assert_array_equal(resampled_means(difference_BM, 3, 500), whole)
    assert not np.array_equal(resampled_means(difference_BM, 4, 500), whole)
    monkeypatch.setattr("intrr_rec.evaluation.bootstrap.CHUNK_VALUES", 2_100)
    np.testing.assert_allclose(resampled_means(difference_BM, 3, 500), whole)
