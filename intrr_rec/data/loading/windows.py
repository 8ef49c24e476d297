"""Which stretch of whose history is one training or evaluation example.

One causal pass over a window supervises each of its positions, so a user is one window, not one sample per prefix. Users
longer than the window are handed out as overlapping windows, each scoring only the positions no earlier one scored.

Shape suffixes: M windows, U users, E events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
LEAVE_ONE_OUT = 2  # events at the end of a history that training does not see: the two targets


@dataclass(frozen=True)
class Windows:
    """Stretches of the flat event array.

    Window m reads events `start[m] … start[m]+length[m]-1`; its position p predicts event `start[m]+p+1`, and is scored
    where `first_scored[m] <= p < length[m]`.
    """

    user_M: IntArray
    start_M: IntArray
    length_M: IntArray
    first_scored_M: IntArray

    def __len__(self) -> int:
        return len(self.user_M)

    @property
    def n_targets(self) -> int:
        """Scored positions over all windows."""
        return int((self.length_M - self.first_scored_M).sum())

    @property
    def n_tokens(self) -> int:
        """Events over all windows."""
        return int(self.length_M.sum())

    @property
    def longest(self) -> int:
        """Events of the longest window; 0 of none."""
        return int(self.length_M.max(initial=0))

    def take(self, index: IntArray) -> Windows:
        """The windows at these positions, in this order."""
        return Windows(self.user_M[index], self.start_M[index], self.length_M[index], self.first_scored_M[index])

    def scored_from(self, event_M: IntArray) -> Windows:
        """Those that predict event `event_M` (counted as `start_M`) or a later one, with no position scored before it."""
        first_scored_M = np.maximum(self.first_scored_M, event_M - 1 - self.start_M)
        return replace(self, first_scored_M=first_scored_M).take(np.flatnonzero(first_scored_M < self.length_M))


def training_windows(offsets: IntArray, window: int, held_out: IntArray | int = LEAVE_ONE_OUT) -> Windows:
    """Windows over each user's training part, every position a target.

    A long history is covered from its end in strides of half a window, so a scored position of a later window sees at
    least `window // 2` events before it.

    Args:
        offsets: `[U+1]`, user u's events are `offsets[u] … offsets[u+1]-1`.
        window: N, events a window may read.
        held_out: events at the end of a history that are not learnt from, the same for all or `[U]`.
    """
    inputs_U = np.diff(offsets) - held_out - 1
    users = np.flatnonzero(inputs_U > 0)
    inputs = inputs_U[users]
    stride = window // 2
    extra = np.maximum(0, -(-(inputs - window) // stride))
    user = np.repeat(users, extra + 1)
    step = np.arange(len(user)) - np.repeat(np.cumsum(extra + 1) - (extra + 1), extra + 1)
    end = np.repeat(inputs, extra + 1) - step * stride
    start = np.maximum(0, end - window)
    is_first = step == np.repeat(extra, extra + 1)
    first_scored = np.where(is_first, 0, end - stride - start)
    return Windows(user, offsets[user] + start, end - start, first_scored)


def prefix_windows(offsets: IntArray, window: int, held_out: IntArray | int = LEAVE_ONE_OUT) -> Windows:
    """One window a training position, only that position scored: for models that read a history in both directions.

    Args:
        offsets, held_out: as in `training_windows`.
        window: N, events a window may read: the last ones.
    """
    inputs_U: IntArray = np.maximum(0, np.diff(offsets) - held_out - 1)
    user = np.repeat(np.arange(len(inputs_U)), inputs_U)
    seen = np.arange(len(user)) - np.repeat(np.cumsum(inputs_U) - inputs_U, inputs_U) + 1
    length = np.minimum(seen, window)
    return Windows(user, offsets[user] + seen - length, length, length - 1)


def evaluation_windows(offsets: IntArray, window: int, held_out: IntArray | int) -> Windows:
    """One window a user: the last `window` events before the held-out one, only the last position scored.

    Args:
        offsets: as in `training_windows`.
        window: N, events a window may read: the last ones.
        held_out: events at the end of a history from the target on (leave-one-out: 2 for validation, 1 for the test), the same
            for all or `[U]`; a user with 0, or with nothing before the target, gets no window.
    """
    held_out_U: IntArray = np.broadcast_to(held_out, len(offsets) - 1)
    history_U = np.diff(offsets) - held_out_U
    user = np.flatnonzero((history_U > 0) & (held_out_U > 0))
    length = np.minimum(history_U[user], window)
    start = offsets[user] + history_U[user] - length
    return Windows(user, start, length, length - 1)
