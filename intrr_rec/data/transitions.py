"""Item-to-item transitions of the training part: how often one item follows another within a few events, in either direction.

Shape suffixes: E events, U users, N entries of a sparse matrix, I items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intrr_rec.config import NeighboursConfig
from intrr_rec.data.loading.windows import IntArray

CHUNK = 1 << 22  # events whose pairs are counted at once


def count_transitions(
    items_E: IntArray,
    offsets: IntArray,
    held_out_U: IntArray,
    n_items: int,
    config: NeighboursConfig,
    is_target_E: NDArray[np.uint8] | None = None,
) -> tuple[IntArray, NDArray[np.float64]]:
    """Weighted counts of the pairs (source, target) that the training part holds.

    A pair g events apart counts `config.gaps[g - 1]` from the earlier item to the later one, and `config.backward` times that
    the other way. What a pair leads to is a target.

    Args:
        items_E: dense item id of every event, users one after the other.
        offsets: `[U+1]`, user u's events are `offsets[u] … offsets[u+1]-1`.
        held_out_U: events at the end of each history that are not counted.
        n_items: I.
        config: gaps, backward.
        is_target_E: 1 of events that are targets, 0 of the others; None: all are.

    Returns:
        `pair_N` = source · I + target, rising and distinct, and `count_N`.
    """
    total_N, sum_N = np.zeros(0, np.int64), np.zeros(0)
    parts: list[tuple[IntArray, NDArray[np.float64]]] = []
    first = 0
    while first < len(offsets) - 1:
        end = max(first + 1, int(np.searchsorted(offsets, offsets[first] + CHUNK, side="right")) - 1)
        parts.append(
            _count_users(items_E, offsets[first : end + 1], held_out_U[first:end], n_items, config, is_target_E)
        )
        first = end
        # Merged when they are as many as what they are merged with, so that each pair is sorted O(log chunks) times.
        if first == len(offsets) - 1 or sum(len(pair_N) for pair_N, _ in parts) > len(total_N):
            total_N, sum_N = _added([(total_N, sum_N), *parts])
            parts = []
    return total_N, sum_N


def _count_users(
    items_E: IntArray,
    offsets: IntArray,
    held_out_U: IntArray,
    n_items: int,
    config: NeighboursConfig,
    is_target_E: NDArray[np.uint8] | None,
) -> tuple[IntArray, NDArray[np.float64]]:
    """The counts of some users alone."""
    span = slice(offsets[0], offsets[-1])
    items_E = np.asarray(items_E[span], np.int64)
    leads_E = np.ones(len(items_E), np.bool_) if is_target_E is None else is_target_E[span] > 0
    offsets = offsets - offsets[0]
    user_E = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    counted_E = np.arange(len(items_E)) < (offsets[1:] - held_out_U)[user_E]
    parts = []
    for gap, weight in enumerate(config.gaps, start=1):
        same = counted_E[gap:] & (user_E[gap:] == user_E[:-gap])
        onward, back = same & leads_E[gap:], same & leads_E[:-gap]
        earlier_E, later_E = items_E[:-gap], items_E[gap:]
        forward_N = earlier_E[onward] * n_items + later_E[onward]
        backward_N = later_E[back] * n_items + earlier_E[back]
        parts.append((forward_N, np.full(len(forward_N), weight, np.float64)))
        parts.append((backward_N, np.full(len(backward_N), weight * config.backward)))
    return _added(parts)


def _added(parts: list[tuple[IntArray, NDArray[np.float64]]]) -> tuple[IntArray, NDArray[np.float64]]:
    """Counts of the same pairs, summed."""
    pair_N, place = np.unique(np.concatenate([pair_N for pair_N, _ in parts]), return_inverse=True)
    weight = np.concatenate([count_N for _, count_N in parts])
    return pair_N, np.bincount(place, weight, len(pair_N)).astype(np.float64, copy=False)


def transition_matrix(
    pair_N: IntArray, count_N: NDArray[np.float64], n_items: int, damping: float
) -> tuple[IntArray, IntArray, NDArray[np.float32]]:
    """P in compressed rows: log(1 + count) over the target's in-degree to the power `damping`, each row's maximum 1.

    The in-degree of an item is the sum of the counts that lead to it. The division holds down popular targets, as in RP3beta
    (Paudel et al. 2017).

    Returns:
        `start_I1` where each row's entries start, `target_N` rising within a row, `value_N`.
    """
    source_N, target_N = np.divmod(pair_N, n_items)
    degree_I = np.bincount(target_N, count_N, n_items)
    value_N = np.log1p(count_N) / degree_I[target_N] ** damping
    start_I1 = np.searchsorted(source_N, np.arange(n_items + 1))
    if len(value_N):
        largest_I = np.zeros(n_items)
        np.maximum.at(largest_I, source_N, value_N)
        value_N = value_N / largest_I[source_N]
    return start_I1, target_N, value_N.astype(np.float32)
