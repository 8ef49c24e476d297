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


# All ranks call it once for each step, in the order of steps.
Exchange = Callable[[StepCounts], StepTotals]


def alone(own: StepCounts) -> StepTotals:
    """The totals of a step that one rank takes whole."""
    return StepTotals(own.target_weight, own.positions, len(own.items_U), own.count_U, own.spare_X)


def by_owner(items_U: IntArray, ranks: int) -> tuple[IntArray, IntArray]:
    """An order that puts the items of each owner together, `[U]`, and how many each has, `[R]`."""
    owner_U = (items_U % ranks).astype(np.uint16)  # NumPy sorts numbers this short by radix
    return np.argsort(owner_U, kind="stable"), np.bincount(owner_U, minlength=ranks)


def add_up(items_K: IntArray, count_K: IntArray) -> tuple[IntArray, int]:
    """The sum over all rows of each row's item, `[K]`, and the number of distinct items."""
    distinct, place_K = np.unique(items_K, return_inverse=True)
    total = np.bincount(place_K.reshape(-1), weights=count_K, minlength=len(distinct)).astype(np.int64)
    return total[place_K.reshape(-1)], len(distinct)
