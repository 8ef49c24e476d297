"""What is global about a step: counted by each rank in its own share, added up over ranks ahead of the step.

How often an item occurs in the whole step is added up by the item's owner, a rank that its number chooses: every rank sends
each owner what it counted and gets the sums back. No rank sees more of a step than its own share and what it owns.

Shape suffixes: U distinct items of a share, K rows that an owner receives, R ranks, X numbers of a spare event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

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


DENSE = 16  # places of sums a row, up to which they are not sorted
# All ranks call it once for each step, in the order of steps.
Exchange = Callable[[StepCounts], StepTotals]


def alone(own: StepCounts) -> StepTotals:
    """The totals of a step that one rank takes whole."""
    return StepTotals(own.target_weight, own.positions, len(own.items_U), own.count_U, own.spare_X)


def by_owner(items_U: IntArray, count_U: IntArray, ranks: int) -> tuple[IntArray, IntArray, IntArray]:
    """What each owner is sent: an order that puts its items together, `[U]`, how many each has, `[R]`, and rows of item and count."""
    owner_U = (items_U % ranks).astype(np.uint16)  # NumPy sorts numbers this short by radix
    order_U = np.argsort(owner_U, kind="stable")
    rows_U2 = np.empty((len(items_U), 2), np.int64)
    rows_U2[:, 0], rows_U2[:, 1] = items_U[order_U], count_U[order_U]
    return order_U, np.bincount(owner_U, minlength=ranks), rows_U2


def add_up(items_K: IntArray, count_K: IntArray, ranks: int = 1) -> tuple[IntArray, int]:
    """The sum over all rows of each row's item, `[K]`, and the number of distinct items.

    Args:
        ranks: R, where all items are of one of R owners.
    """
    if not len(items_K):
        return np.zeros(0, np.int64), 0
    place_K = items_K // ranks
    if int(place_K.max()) < DENSE * len(place_K):
        sums = np.bincount(place_K, weights=count_K).astype(np.int64)
        return sums[place_K], int(np.count_nonzero(sums))
    bits = len(items_K).bit_length()
    if int(items_K.max()) >> (62 - bits):  # item and place do not fit into one number
        order_K = np.argsort(items_K)
        sorted_K = items_K[order_K]
    else:  # sorting numbers is several times as fast as sorting places by them
        sorted_K = np.sort(items_K << bits | np.arange(len(items_K)))
        order_K, sorted_K = sorted_K & ((1 << bits) - 1), sorted_K >> bits
    first = np.flatnonzero(np.append(True, sorted_K[1:] != sorted_K[:-1]))
    sums = np.add.reduceat(count_K[order_K], first)
    total_K = np.empty(len(items_K), np.int64)
    total_K[order_K] = np.repeat(sums, np.diff(first, append=len(items_K)))
    return total_K, len(first)
