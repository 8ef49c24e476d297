"""Returns to items that a user had: which of them are due at a step, by how often and how long ago each was consumed.

New items and those of the history compete: an item of intensity w is the next one with probability w / (1 + the sum of all
intensities). What the intensities are is the kind of log:

* soon: high at first and forgotten within a day, as songs of a session are;
* often: what was consumed twice and more, however long ago, as favourites are;
* periodic: around the item's own period of 4, 8 or 16 days, as what is used up is;
* late: 150, 700 or 2,000 events after it, give or take a few: each item has one of these distances;
* mixed: each item is of one of the first three kinds or, one in four, never consumed again.

Shape suffixes: B users, T steps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from intrr_rec.data.synthetic.draws import Floats, Ints, Keys, counter, hashed, uniform

RETURNS = ("soon", "often", "periodic", "late", "mixed")
_DAY = 86_400
_PERIODS = np.array([4, 8, 16]) * _DAY
_SPREAD = 0.2  # of the logarithm of a period
_DISTANCES = np.array([150, 700, 2000])  # events
_EVENTS = 4.0  # that a distance is off by


class Returns:
    """What users may come back to.

    Args:
        kind: of `RETURNS`.
        item_key: of the generator's stream that items draw their kinds and periods from.
        time_BT: seconds of each step.
    """

    def __init__(self, kind: str, item_key: Keys, time_BT: Ints) -> None:
        self.kind, self.item_key, self.time_BT = kind, item_key, time_BT
        self.count_BT = np.zeros(time_BT.shape, np.int64)
        self.is_newest_BT = np.zeros(time_BT.shape, np.bool_)

    def note(self, position_BT: Ints, step: int, users: int) -> None:
        """Count what the first `users` users consumed at a step."""
        same_BT = position_BT[:users, :step] == position_BT[:users, step, None]
        self.count_BT[:users, step] = 1 + same_BT.sum(axis=1)
        self.is_newest_BT[:users, :step] &= ~same_BT
        self.is_newest_BT[:users, step] = True

    def choose(self, key_B: Keys, position_BT: Ints, step: int) -> Ints:
        """Position [B] of what each of the first users returns to at a step; -1 where it is a new item."""
        users = len(key_B)
        past_BT = position_BT[:users, :step]
        intensity_BT = self._intensity(past_BT, step) * self.is_newest_BT[:users, :step]
        total_BT = np.cumsum(intensity_BT, axis=1)
        drawn_B = uniform(hashed(key_B, counter(step, 1, 0))) * (1 + total_BT[:, -1])
        place_B = (total_BT <= drawn_B[:, None]).sum(axis=1)
        returns_B = place_B < step
        return np.where(returns_B, past_BT[np.arange(users), np.minimum(place_B, step - 1)], -1)

    def _intensity(self, past_BT: Ints, step: int) -> Floats:
        users = len(past_BT)
        draw_BT = hashed(self.item_key, past_BT)
        which_of_3_BT = (draw_BT % np.uint64(3)).astype(np.int64)
        if self.kind == "late":
            off_BT = np.arange(step, 0, -1) - _DISTANCES[which_of_3_BT]
            return 0.3 * np.exp(-np.square(off_BT / _EVENTS) / 2)
        elapsed_BT = self.time_BT[:users, step, None] - self.time_BT[:users, :step]
        period_BT = _PERIODS[which_of_3_BT]
        by_kind = {
            "soon": 0.8 * np.exp(-elapsed_BT / (_DAY / 8)),
            "often": 0.25 * (self.count_BT[:users, :step] - 0.8),
            "periodic": 3 * np.exp(-np.square(np.log(np.maximum(elapsed_BT, 1) / period_BT) / _SPREAD) / 2),
        }
        if self.kind != "mixed":
            return by_kind[self.kind]
        which_BT: NDArray[np.int64] = (draw_BT >> np.uint64(32)).astype(np.int64) % (len(by_kind) + 1)
        return np.select([which_BT == place for place in range(len(by_kind))], list(by_kind.values()), 0.0)
