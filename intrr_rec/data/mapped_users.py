"""Test users of one dataset in the item numbers of another catalogue, so that models of several days rank the same people.

Shape suffixes: I items of the dataset, T test users, E events, U users of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from intrr_rec.data.dataset import Dataset, Events, Part
from intrr_rec.data.features.columns import Column
from intrr_rec.data.loading.windows import IntArray


@dataclass(frozen=True, eq=False)
class MappedUsers:
    """The known events before each user's test target, then the target; what the catalogue does not know is left out.

    Attributes:
        offsets: `[U+1]`.
        items_E: item numbers of the other catalogue; a target that it does not know is 0.
        timestamps_E: seconds since 1970; None where the logs have no times.
        place_U: which of the users asked for each is; those of whom nothing is known are left out.
        dropped_U: known items of each user's events before the target that preparation dropped; None where there are none.
    """

    offsets: IntArray
    items_E: IntArray
    timestamps_E: IntArray | None
    place_U: IntArray
    dropped_U: list[IntArray] | None = None

    @property
    def first_users(self) -> IntArray:
        """All of them are one group."""
        return np.zeros(1, np.int64)

    @property
    def has_times(self) -> bool:
        """Whether times are known."""
        return self.timestamps_E is not None

    def read(self, group: int, *, times: bool, features: Sequence[Column] = ()) -> Events:
        """All events; features are not known."""
        return Events(self.items_E, self.timestamps_E if times else None)

    def held_out(self, part: Part) -> IntArray:
        """The target of each user, whatever the part."""
        return np.ones(len(self.offsets) - 1, np.int64)

    def dropped(self, users_B: IntArray, length_B: IntArray) -> list[IntArray] | None:
        """Before the target, whatever the length."""
        return None if self.dropped_U is None else [self.dropped_U[user] for user in users_B.tolist()]


def map_users(dataset: Dataset, users_T: IntArray, event_T: IntArray, place_I: IntArray) -> MappedUsers:
    """Users of a dataset in other item numbers.

    Args:
        users_T, event_T: users and the numbers of their targets' events, of `Dataset.targets`.
        place_I: number of each item of the dataset in the other catalogue; -1 where it is not known there.
    """
    first_T = dataset.offsets[users_T]
    length_T = event_T - first_T + 1
    end_T = np.cumsum(length_T)
    event_E = np.arange(int(end_T[-1]) if len(end_T) else 0) + np.repeat(first_T - (end_T - length_T), length_T)
    item_E = place_I[dataset.items_E[event_E]]
    is_target_E = np.zeros(len(event_E), np.bool_)
    is_target_E[end_T - 1] = True
    is_known_E = (item_E >= 0) & ~is_target_E
    known_T = np.bincount(np.repeat(np.arange(len(users_T)), length_T)[is_known_E], minlength=len(users_T))
    has_history_T = known_T > 0
    kept_E = (is_known_E | is_target_E) & np.repeat(has_history_T, length_T)
    offsets = np.concatenate([[0], np.cumsum(known_T[has_history_T] + 1)])
    times_E = None if dataset.timestamps_E is None else dataset.timestamps_E[event_E[kept_E]]
    asked_U = np.flatnonzero(has_history_T)
    dropped_U = dataset.dropped(users_T[asked_U], length_T[asked_U] - 1)
    if dropped_U is not None:
        dropped_U = [numbers[numbers >= 0] for numbers in (place_I[items] for items in dropped_U)]
    return MappedUsers(offsets, np.maximum(item_E[kept_E], 0), times_E, asked_U, dropped_U)
