"""What is global about a step: counted by each rank in its own share, added up over ranks ahead of the step.

How often an item occurs in the whole step is added up by the item's owner, a rank that its number chooses: every rank sends
each owner what it counted and gets the sums back. No rank sees more of a step than its own share and what it owns.

Shape suffixes: U distinct items of a share, K rows that an owner receives, R ranks, X numbers of a spare event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from intrr_rec.data.loading.windows import IntArray


@dataclass(frozen=True)
class StepCounts:
    """Counts of one rank's share of a step.

    Attributes:
        windows: how many.
        target_weight: what their targets count together; their number where all count the same.
        positions: slots that hold an event.
        items_U: distinct items of those slots, rising; empty where none are to be counted.
        count_U: slots that hold each of them.
        spare_X: an event of the share, from which ranks without windows make a batch (`Collator.weigh`).
    """

    windows: int
    target_weight: float
    positions: int
    items_U: IntArray
    count_U: IntArray
    spare_X: IntArray


@dataclass(frozen=True)
class StepTotals:
    """Counts of a whole step, as one rank needs them.

    Attributes:
        target_weight, positions, distinct_items: of all shares.
        count_U: slots of all shares that hold each of the rank's own items (`StepCounts.items_U`).
        spare_X: an event of the first share that has windows.
    """

    target_weight: float
    positions: int
    distinct_items: int
    count_U: IntArray
    spare_X: IntArray


COUNT_BITS = 24  # of a number that holds an item, below 2^39, and how often a share has it
DENSE = 16  # places of sums a row, up to which they are not sorted
# All ranks call it once for each step, in the order of steps.
Exchange = Callable[[StepCounts], StepTotals]


def alone(own: StepCounts) -> StepTotals:
    """The totals of a step that one rank takes whole."""
    return StepTotals(own.target_weight, own.positions, len(own.items_U), own.count_U, own.spare_X)


def by_owner(items_U: IntArray, count_U: IntArray, ranks: int) -> tuple[IntArray, IntArray, IntArray]:
    """What each owner is sent: an order that puts its items together, `[U]`, how many each has, `[R]`, and item and count in one number."""
    owner_U = (items_U % ranks).astype(np.uint16)  # NumPy sorts numbers this short by radix
    order_U = np.argsort(owner_U, kind="stable")
    return order_U, np.bincount(owner_U, minlength=ranks), (items_U << COUNT_BITS | count_U)[order_U]


def add_up(row_K: IntArray, ranks: int = 1) -> tuple[NDArray[np.int32], int]:
    """The sum over all rows of each row's item, `[K]`, and the number of distinct items.

    Args:
        row_K: items and counts as `by_owner` gives them.
        ranks: R, where all items are of one of R owners.
    """
    if not len(row_K):
        return np.zeros(0, np.int32), 0
    place_K, count_K = (row_K >> COUNT_BITS) // ranks, row_K & (1 << COUNT_BITS) - 1
    if int(place_K.max()) < DENSE * len(place_K):
        sums = np.bincount(place_K, weights=count_K).astype(np.int32)
        return sums[place_K], int(np.count_nonzero(sums))
    items, place_K = distinct(place_K)
    return np.bincount(place_K, weights=count_K).astype(np.int32)[place_K], len(items)


def distinct(item_N: IntArray) -> tuple[IntArray, IntArray]:
    """The distinct ones of some dense ids, rising, and which of them each is: `numpy.unique`, several times as fast.

    Sorting numbers is faster than sorting places by them, so a place travels in the low bits of its number.
    """
    bits = len(item_N).bit_length()
    if not len(item_N) or int(item_N.max()) >> (62 - bits):  # item and place do not fit into one number
        return np.unique(item_N, return_inverse=True)
    sorted_N = np.sort(item_N << bits | np.arange(len(item_N)))
    place_N, sorted_N = sorted_N & ((1 << bits) - 1), sorted_N >> bits
    is_first_N = np.append(True, sorted_N[1:] != sorted_N[:-1])
    inverse_N = np.empty(len(item_N), np.int64)
    inverse_N[place_N] = np.cumsum(is_first_N) - 1
    return sorted_N[is_first_N], inverse_N
