"""Bootstrap over users: how far a mean, or the mean difference of two sides, would move, had other users been drawn.

Shape suffixes: B users, M metrics, C distinct rows, R resamples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 10_000
CHUNK_VALUES = 2**22


@dataclass(frozen=True)
class Interval:
    """A mean difference, the 95 % percentile interval of its bootstrap distribution, and the two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(difference_BM: Floats, *, seed: int, resamples: int = RESAMPLES) -> list[Interval]:
    """Intervals of the mean of each column, users resampled with replacement, all columns by the same users.

    The interval holds the 2.5 % and the 97.5 % quantile of the R resampled means; the p-value is the level at which such an
    interval would touch zero, 2 · min(#(mean ≤ 0), #(mean ≥ 0)) / R with one resample added to either count, at most 1
    (Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13 and 15).

    Args:
        difference_BM: a user's metric under A less that under B.
        seed: of the resampling.
    """
    means_RM = resampled_means(difference_BM, seed, resamples)
    low_M, high_M = np.quantile(means_RM, [0.025, 0.975], axis=0)
    tail_M = np.minimum((means_RM <= 0).sum(0), (means_RM >= 0).sum(0))
    p_M = np.minimum(1.0, 2 * (tail_M + 1) / (resamples + 1))
    columns = zip(difference_BM.mean(0), low_M, high_M, p_M, strict=True)
    return [Interval(*(float(value) for value in column)) for column in columns]


def resampled_means(difference_BM: Floats, seed: int, resamples: int) -> Floats:
    """Means over B users drawn with replacement, `[R, M]`.

    Users with equal rows are exchangeable, and most are equal (missed by both): how many of each of the C distinct rows a
    resample holds is multinomial, so C numbers are drawn a resample instead of B, with the same distribution.
    """
    return _resampled(*_distinct_rows(difference_BM), seed, resamples)


def mean_intervals(row_CM: Floats, count_C: NDArray[np.int64], *, seed: int, resamples: int = RESAMPLES) -> Floats:
    """The 95 % percentile interval of the mean of each column over users, `[M, 2]`.

    Args:
        row_CM: the distinct rows that users have.
        count_C: how many users have each; one at least.
        seed: of the resampling.
    """
    is_there_C = count_C > 0
    means_RM = _resampled(row_CM[is_there_C], count_C[is_there_C], seed, resamples)
    return np.quantile(means_RM, [0.025, 0.975], axis=0).T


def _resampled(row_CM: Floats, count_C: NDArray[np.int64], seed: int, resamples: int) -> Floats:
    """`resampled_means` of users of whom so many have each row."""
    users = count_C.sum()
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_VALUES // len(row_CM))
    parts = [
        rng.multinomial(users, count_C / users, size=min(chunk, resamples - start)) @ row_CM / users
        for start in range(0, resamples, chunk)
    ]
    return np.concatenate(parts)


def _distinct_rows(value_BM: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """As `np.unique` over rows, by sorting numbers instead of rows."""
    group_B = np.zeros(len(value_BM), np.int64)
    for value_B in value_BM.T:
        found, place_B = np.unique(value_B, return_inverse=True)
        _, group_B = np.unique(group_B * len(found) + place_B, return_inverse=True)
    _, first_C, count_C = np.unique(group_B, return_index=True, return_counts=True)
    return value_BM[first_C], count_C
