"""Batches of the users whom one rank evaluates: it reads the row groups of its own users alone, one after another.

Windows are in the order of users. Rank r of R takes the r-th of R stretches with about equally many windows; a stretch that would
end near a border of two row groups ends there. All ranks make the same number of batches.

Shape suffixes: M windows, E events of a row group, S events of a batch, B users of a batch, G row groups.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from intrr_rec.data.dataset import Events, UserEvents
from intrr_rec.data.features.columns import Column
from intrr_rec.data.loading.batch import Batch, positions_of
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.streaming import border_at
from intrr_rec.data.loading.windows import IntArray, Windows

AHEAD = 4  # batches made before they are asked for
NEAR = 0.05  # of a rank's users


@dataclass(frozen=True)
class Histories:
    """The whole histories of a batch's users, oldest event first, user after user.

    Attributes:
        users_B: rising.
        offsets: `[B+1]`; user b's events are `items_S[offsets[b] … offsets[b+1]-1]`, the last of them his target.
    """

    users_B: IntArray
    items_S: IntArray
    offsets: IntArray

    def before_targets(self, users_B: IntArray) -> tuple[IntArray, IntArray]:
        """All events of these users before their targets, `[B, longest]` with -1 where there are no more, and how many, `[B]`."""
        place_B = np.searchsorted(self.users_B, users_B)
        first_B, length_B = self.offsets[place_B], np.diff(self.offsets)[place_B] - 1
        event_BM = np.arange(int(length_B.max(initial=0))) + first_B[:, None]
        is_there_BM = event_BM < (first_B + length_B)[:, None]
        return np.where(is_there_BM, self.items_S[np.where(is_there_BM, event_BM, 0)], -1), length_B


class OwnUsers:
    """One rank's batches.

    Args:
        users: their events.
        windows: one a user, of all ranks, in the order of users; the event after each is its target.
        collate: builds batches from events that are handed in.
        batch_users: users of a batch over all ranks.
        times: whether to read times, where they are known.
        features: columns of events to read.
    """

    def __init__(
        self,
        users: UserEvents,
        windows: Windows,
        collate: Collator,
        batch_users: int,
        *,
        rank: int,
        ranks: int,
        times: bool = False,
        features: Sequence[Column] = (),
    ) -> None:
        self.users, self.collate, self.features = users, collate, features
        self.times = times and users.has_times
        self.group_M = np.searchsorted(users.first_users, windows.user_M, side="right") - 1
        ends = stretches(np.bincount(self.group_M, minlength=len(users.first_users)), ranks)
        self.a_batch = -(-batch_users // ranks)
        self.steps = -(-int(np.diff(ends).max()) // self.a_batch)
        own = slice(*ends[rank : rank + 2].tolist())
        self.windows, self.group_M = windows.take(np.arange(len(windows))[own]), self.group_M[own]
        self._held: tuple[int, Events] | None = None

    def batches(self, between: Callable[[], None]) -> Iterator[tuple[Batch, Histories]]:
        """All of them; a thread makes them ahead.

        Args:
            between: called before each, as often on every rank.
        """
        builder = ThreadPoolExecutor(1, thread_name_prefix="own-users")
        ahead: deque[Future[tuple[Batch, Histories]]] = deque()
        try:
            for step in range(self.steps + AHEAD):
                if step < self.steps:
                    ahead.append(builder.submit(self._batch, step))
                if step >= AHEAD:
                    between()
                    yield ahead.popleft().result()
        finally:
            builder.shutdown(cancel_futures=True)

    def _batch(self, step: int) -> tuple[Batch, Histories]:
        chosen = np.arange(len(self.windows))[step * self.a_batch : (step + 1) * self.a_batch]
        windows, group_M = self.windows.take(chosen), self.group_M[chosen]
        first_M = self.users.offsets[windows.user_M]
        length_M = windows.start_M + windows.length_M + 1 - first_M  # the target is the last
        parts = [
            self._events(int(group), first_M[group_M == group], length_M[group_M == group])
            for group in np.unique(group_M)
        ]
        none = np.zeros(0, np.int64)  # a share without users has columns, too
        items_S = np.concatenate([none, *(part.items_E for part in parts)])
        times_S = (
            np.concatenate([none, *(part.times_E for part in parts if part.times_E is not None)])
            if self.times
            else None
        )
        feature_FS = [
            np.concatenate([np.zeros(0, column.dtype), *(part.feature_FE[number] for part in parts)])
            for number, column in enumerate(self.features)
        ]
        offsets = np.concatenate([[0], np.cumsum(length_M)])
        compact = Windows(
            windows.user_M, windows.start_M - first_M + offsets[:-1], windows.length_M, windows.first_scored_M
        )
        return self.collate.over(items_S, times_S, feature_FS)(compact), Histories(windows.user_M, items_S, offsets)

    def _events(self, group: int, first_M: IntArray, length_M: IntArray) -> Events:
        """A copy of stretches of a row group's events."""
        if self._held is None or self._held[0] != group:
            self._held = None
            self._held = group, self.users.read(group, times=self.times, features=self.features)
        events, group_first = self._held[1], self.users.offsets[self.users.first_users[group]]
        event_S = np.repeat(first_M - group_first, length_M) + positions_of(length_M)
        return Events(
            events.items_E[event_S],
            None if events.times_E is None else events.times_E[event_S],
            [values_E[event_S] for values_E in events.feature_FE],
        )


def stretches(windows_G: IntArray, ranks: int) -> IntArray:
    """Where the stretch of each rank begins among the windows, and the end of the last, `[R+1]`."""
    ends = np.concatenate([[0], np.cumsum(windows_G)])
    share = ends[-1] / ranks
    places = [border_at(ends, share * number, NEAR * share) for number in range(ranks + 1)]
    return np.interp(places, np.arange(len(ends)), ends).astype(np.int64)
