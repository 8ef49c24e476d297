"""Item-to-item transitions of the training part: how often one item follows another within a few events, in either direction.

Shape suffixes: E events, U users, N entries of a sparse matrix, I items.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intrr_rec.config import NeighboursConfig
from intrr_rec.data.loading.windows import IntArray


def count_transitions(
    items_E: IntArray, offsets: IntArray, held_out_U: IntArray, n_items: int, config: NeighboursConfig
) -> tuple[IntArray, NDArray[np.float64]]:
    """Weighted counts of the pairs (source, target) that the training part holds.

    A pair g events apart counts `config.gaps[g - 1]` from the earlier item to the later one, and `config.backward` times that
    the other way.

    Args:
        items_E: dense item id of every event, users one after the other.
        offsets: `[U+1]`, user u's events are `offsets[u] … offsets[u+1]-1`.
        held_out_U: events at the end of each history that are not counted.
        n_items: I.
        config: gaps, backward.

    Returns:
        `pair_N` = source · I + target, rising and distinct, and `count_N`.
    """
    user_E = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    counted_E = np.arange(len(items_E)) < (offsets[1:] - held_out_U)[user_E]
    pairs, weights = [], []
    for gap, weight in enumerate(config.gaps, start=1):
        same = counted_E[gap:] & (user_E[gap:] == user_E[:-gap])
        earlier, later = items_E[:-gap][same], items_E[gap:][same]
        pairs += [earlier * n_items + later, later * n_items + earlier]
        weights += [np.full(len(earlier), weight), np.full(len(earlier), weight * config.backward)]
    pair_N, place = np.unique(np.concatenate(pairs), return_inverse=True)
    return pair_N, np.bincount(place, np.concatenate(weights), len(pair_N)).astype(np.float64, copy=False)


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
