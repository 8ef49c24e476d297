"""Windows of a dataset too large to hold: row groups are read as they are needed, by the ranks that train on them.

An epoch shuffles the row groups, puts them together in pools of about `pool_events` events, and shuffles the windows of each
row group so that every run of them has long and short ones alike (`balance.py`). A pool hands out the windows of all its row groups
evenly. With R ranks, rank r takes the r-th of R stretches of a pool's row groups that are equal in tokens, and reads no others; of a
row group that lies in two stretches each rank takes its share of the windows. While one pool is handed out the next is read. So at most three pools are in memory (the one left, the one handed
out, the one to come), whatever the dataset's size, and on each rank an R-th of them. Which windows make a step hangs on (seed,
epoch, pool_events) alone: not on the number of ranks, of threads, or on when a file arrives.

Shape suffixes: M windows, E events of the dataset, P events of a pool, S events of a step, G row groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from intrr_rec.data.event_store import EventStore
from intrr_rec.data.features.columns import Column
from intrr_rec.data.features.store import DatasetFeatures
from intrr_rec.data.loading.balance import even_order
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.interleave import Interleaving
from intrr_rec.data.loading.loader import Fetch
from intrr_rec.data.loading.targets import TargetWeights
from intrr_rec.data.loading.windows import IntArray, Windows

GOLDEN = (5**0.5 - 1) / 2
NEAR = 0.01  # of a rank's tokens
BEYOND = 1  # events copied after a window's own: the target of its last position


class Cut(Protocol):
    """Makes windows user by user: `training_windows` or `prefix_windows` with their window given."""

    def __call__(self, offsets: IntArray, *, held_out: IntArray) -> Windows:
        """See `windows.py`."""


@dataclass(frozen=True)
class Pool:
    """A rank's row groups of a pool in memory.

    Attributes:
        windows: of one row group after another, each in the order they are handed out.
    """

    items_P: IntArray
    times_P: IntArray | None
    windows: Windows
    feature_FP: tuple[NDArray[np.integer], ...] = ()
    weight_P: NDArray[np.float32] | None = None


class StreamedWindows:
    """Windows of the training part, read pool by pool.

    Args:
        events: of the dataset.
        held_out_U: events at the end of each history that are not learnt from.
        pool_events: events shuffled together; a pool has at least one row group.
        times: whether to read the times, too.
        readers: threads that read row groups.
        features: columns of events to read, too, and what reads them.
        weights: reads what each event counts as a target; None: all count the same.
        unscored_U: events at the begin of each history that are read only; None: there are none.
    """

    def __init__(
        self,
        events: EventStore,
        held_out_U: IntArray,
        cut: Cut,
        pool_events: int,
        *,
        times: bool,
        readers: int,
        features: tuple[DatasetFeatures, Sequence[Column]] | None = None,
        weights: TargetWeights | None = None,
        unscored_U: IntArray | None = None,
    ) -> None:
        self.features, self.weights, self.unscored_U = features, weights, unscored_U
        self.events, self.held_out_U, self.cut = events, held_out_U, cut
        self.pool_events, self.times, self.readers = pool_events, times, readers
        groups = range(len(events.groups))
        self.windows_G, self.tokens_G = np.zeros(len(groups), np.int64), np.zeros(len(groups), np.int64)
        self.n_targets = self.longest = 0
        for group in groups:
            windows = self.windows_of(group)
            self.windows_G[group] = len(windows)
            self.tokens_G[group] = windows.length_M.sum()
            self.n_targets += windows.n_targets
            self.longest = max(self.longest, windows.longest)
        self.events_G = np.array([end - first for first, end in map(events.events_of, groups)])

    def __len__(self) -> int:
        return int(self.windows_G.sum())

    @property
    def n_tokens(self) -> int:
        """Events over all windows."""
        return int(self.tokens_G.sum())

    def windows_of(self, group: int) -> Windows:
        """The windows of a row group; their starts count from its first event, their users from the dataset's."""
        found = self.events.groups[group]
        offsets = self.events.offsets[found.first_user : found.end_user + 1]
        windows = self.cut(offsets - offsets[0], held_out=self.held_out_U[found.first_user : found.end_user])
        windows = replace(windows, user_M=windows.user_M + found.first_user)
        if self.unscored_U is None:
            return windows
        event_M = self.events.offsets[windows.user_M] - offsets[0] + self.unscored_U[windows.user_M]
        return windows.scored_from(event_M)

    def order(self, collate: Collator, seed: int | None, epoch: int, rank: int, ranks: int) -> StreamedOrder:
        """The order of an epoch for one of so many ranks; what is streamed is always shuffled, by seed 0 for None."""
        seeds = (seed or 0, epoch)
        pools: list[list[int]] = []
        room = 0
        for group in np.random.default_rng(seeds).permutation(len(self.events_G)).tolist():
            if not self.windows_G[group]:  # nothing of it is learnt, and it is not read
                continue
            if room <= 0:
                pools.append([])
                room = self.pool_events
            pools[-1].append(group)
            room -= int(self.events_G[group])
        return StreamedOrder(self, collate, pools, seeds, rank, ranks)

    def load(self, groups: Sequence[int], seeds: Sequence[int]) -> Pool:
        """Read row groups and shuffle the windows of each."""
        ends_G = np.cumsum(self.events_G[list(groups)])
        firsts_G = ends_G - self.events_G[list(groups)]
        items_P = np.empty(ends_G[-1], np.int64)
        times_P = np.empty_like(items_P) if self.times else None
        columns = self.features[1] if self.features else ()
        feature_FP = tuple(np.empty(ends_G[-1], column.dtype) for column in columns)
        weight_P = None if self.weights is None else np.empty(ends_G[-1], np.float32)

        def read(place: int) -> Windows:
            group, span = groups[place], slice(firsts_G[place], ends_G[place])
            items_P[span] = self.events.read(group, "items")
            if times_P is not None:
                times_P[span] = self.events.read(group, "timestamps")
            if weight_P is not None and self.weights is not None:
                weight_P[span] = self.weights.of_group(group)
            for column, values_P in zip(columns, feature_FP, strict=True):
                assert self.features is not None
                values_P[span] = self.features[0].of_group(group, column)
            windows = self.windows_of(group)
            shuffled = windows.take(even_order(windows.length_M, np.random.default_rng([*seeds, group])))
            return replace(shuffled, start_M=shuffled.start_M + firsts_G[place])

        with ThreadPoolExecutor(self.readers, thread_name_prefix="loader-read") as readers:
            windows = _concatenated(list(readers.map(read, range(len(groups)))))
        return Pool(items_P, times_P, windows, feature_FP, weight_P)


class StreamedOrder:
    """One epoch of one rank: its part of a pool is loaded while the pool before is handed out."""

    def __init__(
        self,
        source: StreamedWindows,
        collate: Collator,
        pools: list[list[int]],
        seeds: tuple[int, int],
        rank: int,
        ranks: int,
    ) -> None:
        self.source, self.collate, self.pools, self.seeds = source, collate, pools, seeds
        self.orders = [Interleaving(source.windows_G[pool]) for pool in pools]
        self.ends = np.cumsum([order.total for order in self.orders])
        self.stretches = [Stretch(source.tokens_G[pool], rank, ranks) for pool in pools]
        self._loading: dict[int, Future[Pool]] = {}
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="loader-pool")

    def fetch(self, first: int, end: int) -> Fetch:
        """How to get the rank's windows among places `first … end-1`, over copies of their events alone."""
        begin = int(np.searchsorted(self.ends, first, side="right"))
        last = int(np.searchsorted(self.ends, end - 1, side="right"))
        for passed in [number for number in self._loading if number < begin]:
            del self._loading[passed]
        parts = []
        for number in range(begin, min(last + 2, len(self.pools))):
            if number not in self._loading:
                groups = [self.pools[number][place] for place in self.stretches[number].groups]
                self._loading[number] = self._ahead.submit(self.source.load, groups, self.seeds)
            if number <= last:
                start = int(self.ends[number]) - self.orders[number].total
                span = slice(max(first - start, 0), min(end - start, self.orders[number].total))
                parts.append((number, self._loading[number], span))
        return partial(self._gather, parts)

    def within(self, tokens_T: IntArray) -> IntArray:
        """As `Order.within`, about: all runs of windows of a pool are taken to hold events in proportion."""
        tokens = np.cumsum([0, *(self.source.tokens_G[pool].sum() for pool in self.pools)])
        return np.interp(tokens_T, tokens, [0, *self.ends]).astype(np.int64)

    def close(self) -> None:
        """Stop reading ahead."""
        self._ahead.shutdown(cancel_futures=True)
        self._loading.clear()

    def _gather(self, parts: Sequence[tuple[int, Future[Pool], slice]]) -> tuple[Windows, Collator]:
        """The windows, starting in a copy of their own stretches of events."""
        windows, items, times, features, total = [], [], [], list[list[NDArray[np.integer]]](), 0
        weights = []
        for number, loading, span in parts:
            pool, order = loading.result(), self.orders[number]
            chosen = pool.windows.take(self.stretches[number].own(order, span.start, span.stop))
            length_M = chosen.length_M + BEYOND
            begin_M = np.cumsum(length_M) - length_M
            event_S = np.repeat(chosen.start_M - begin_M, length_M) + np.arange(int(length_M.sum()))
            items.append(pool.items_P[event_S])
            if pool.times_P is not None:
                times.append(pool.times_P[event_S])
            if pool.weight_P is not None:
                weights.append(pool.weight_P[event_S])
            features.append([values_P[event_S] for values_P in pool.feature_FP])
            windows.append(replace(chosen, start_M=begin_M + total))
            total += len(event_S)
        times_S = np.concatenate(times) if times else None
        feature_FS = [np.concatenate(column) for column in zip(*features, strict=True)]
        weight_S = np.concatenate(weights) if weights else None
        return _concatenated(windows), self.collate.over(np.concatenate(items), times_S, feature_FS, weight_S)


class Stretch:
    """What one of R ranks takes of the row groups of a pool: the r-th of R stretches that are equal in tokens.

    A stretch that would end next to a border of two row groups ends there, so that row groups of equal tokens are read once.

    Args:
        tokens_G: of each row group of the pool.
        rank, ranks: r and R.

    Attributes:
        first, end: places in the pool where it begins and ends; their fractions are shares of a row group.
        groups: places in the pool of the row groups that it reads.
    """

    def __init__(self, tokens_G: IntArray, rank: int, ranks: int) -> None:
        ends = np.concatenate([[0], np.cumsum(np.maximum(tokens_G, 1))])  # one without windows has a place too
        share = ends[-1] / ranks
        self.first, self.end = (border_at(ends, share * number, NEAR * share) for number in (rank, rank + 1))
        self.groups = range(math.floor(self.first), math.ceil(self.end))

    def own(self, order: Interleaving, first: int, end: int) -> IntArray:
        """The rank's windows among places `first … end-1` of the pool's order, counted over the windows of its row groups."""
        group_G = np.asarray(self.groups)
        from_G, to_G = (order.first(count)[group_G] for count in (first, end))
        count_G, length_G = to_G - from_G, order.length_G[group_G]
        group_M = np.repeat(group_G, count_G)
        in_group_M = np.arange(len(group_M)) + np.repeat(from_G - np.cumsum(count_G) + count_G, count_G)
        spread_M = (
            group_M + in_group_M * GOLDEN % 1.0
        )  # of any run of windows, as many lie in the stretch as its part is large
        is_own_M = (spread_M >= self.first) & (spread_M < self.end)
        begin_M = np.repeat(np.cumsum(length_G) - length_G, count_G)
        return (begin_M + in_group_M)[is_own_M]


def border_at(ends: IntArray, tokens: float, near: float) -> float:
    """The place of the row groups that end at these tokens where so many have passed: whole at a border that is near."""
    border = int(np.abs(ends - tokens).argmin())
    if abs(ends[border] - tokens) <= near:
        return float(border)
    return float(np.interp(tokens, ends, np.arange(len(ends))))


def _concatenated(parts: Sequence[Windows]) -> Windows:
    columns = ("user_M", "start_M", "length_M", "first_scored_M")
    return Windows(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))
