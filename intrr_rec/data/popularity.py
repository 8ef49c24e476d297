"""Items in the order of their popularity, some of them looked at at a time: memory does not grow with the catalogue.

Shape suffixes: I items, R items looked at together, V distinct counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intrr_rec.io.formats.mapped import roomy

CHUNK = 1 << 18


def falling_order(count_I: NDArray[np.int64]) -> NDArray[np.int64]:
    """Items with the highest counts first, of equal counts the lower id first, `[I]`; by counting, in O(I)."""
    n_items = len(count_I)
    value_V, size_V = np.empty(0, np.int64), np.empty(0, np.int64)
    for first in range(0, n_items, CHUNK):
        found, size = np.unique(count_I[first : first + CHUNK], return_counts=True)
        merged, place = np.unique(np.concatenate([value_V, found]), return_inverse=True)
        total = np.zeros(len(merged), np.int64)
        np.add.at(total, place, np.concatenate([size_V, size]))
        value_V, size_V = merged, total
    next_V = np.cumsum(size_V[::-1])[::-1] - size_V  # where items of each count begin, the largest count first
    order_I = roomy(np.int64, (n_items,))
    for first in range(0, n_items, CHUNK):
        value_R = np.searchsorted(value_V, count_I[first : first + CHUNK])
        sorted_R = np.argsort(value_R, kind="stable")
        value_R = value_R[sorted_R]
        start_R = np.searchsorted(value_R, value_R)
        order_I[next_V[value_R] + np.arange(len(value_R)) - start_R] = first + sorted_R
        next_V += np.bincount(value_R, minlength=len(value_V))
    return order_I
