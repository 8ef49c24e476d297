"""Windows of a dataset too large to hold: row groups are read as they are needed, a few at a time.

An epoch shuffles the row groups, puts them together in pools of about `pool_events` events, and shuffles the windows of each
pool. While one pool is handed out the next is read. So at most three pools are in memory (the one left, the one handed out,
the one to come), whatever the dataset's size, and the order hangs on (seed, epoch, pool_events) alone: not on the number of
replicas, of threads, or on when a file arrives.

Shape suffixes: M windows, E events of the dataset, P events of a pool, S events of a step, G row groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from intrr_rec.data.event_store import EventStore
from intrr_rec.data.features.columns import Column
from intrr_rec.data.features.store import DatasetFeatures
from intrr_rec.data.loading.batch import Collator
from intrr_rec.data.loading.loader import Fetch
from intrr_rec.data.loading.targets import TargetWeights
from intrr_rec.data.loading.windows import IntArray, Windows

BEYOND = 1  # events copied after a window's own: the target of its last position


class Cut(Protocol):
    """Makes windows user by user: `training_windows` or `prefix_windows` with their window given."""

    def __call__(self, offsets: IntArray, *, held_out: IntArray) -> Windows:
        """See `windows.py`."""


@dataclass(frozen=True)
class Pool:
    """Row groups in memory, and their windows in the order they are handed out."""

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
    ) -> None:
        self.features, self.weights = features, weights
        self.events, self.held_out_U, self.cut = events, held_out_U, cut
        self.pool_events, self.times, self.readers = pool_events, times, readers
        found = [self.windows_of(group) for group in range(len(events.groups))]
        self.windows_G = np.array([len(windows) for windows in found])
        self.events_G = np.array([end - first for first, end in map(events.events_of, range(len(events.groups)))])
        self.n_targets = sum(windows.n_targets for windows in found)
        # Loaders that go through an epoch side by side (the parts of an accumulated step) share its pools.
        self.shared: WeakValueDictionary[tuple[int, ...], Future[Pool]] = WeakValueDictionary()

    def __len__(self) -> int:
        return int(self.windows_G.sum())

    def windows_of(self, group: int) -> Windows:
        """The windows of a row group; their starts count from its first event, their users from the dataset's."""
        found = self.events.groups[group]
        offsets = self.events.offsets[found.first_user : found.end_user + 1]
        windows = self.cut(offsets - offsets[0], held_out=self.held_out_U[found.first_user : found.end_user])
        return Windows(windows.user_M + found.first_user, windows.start_M, windows.length_M, windows.first_scored_M)

    def order(self, collate: Collator, seed: int | None, epoch: int) -> StreamedOrder:
        """The order of an epoch; seed None keeps that of the dataset."""
        groups_G = np.arange(len(self.events_G))
        if seed is not None:
            groups_G = np.random.default_rng([seed, epoch]).permutation(groups_G)
        pools: list[list[int]] = []
        room = 0
        for group in groups_G.tolist():
            if room <= 0:
                pools.append([])
                room = self.pool_events
            pools[-1].append(group)
            room -= int(self.events_G[group])
        return StreamedOrder(self, collate, pools, None if seed is None else (seed, epoch))

    def load(self, groups: Sequence[int], seeds: Sequence[int] | None) -> Pool:
        """Read row groups and shuffle their windows together; without seeds they keep their order."""
        ends_G = np.cumsum(self.events_G[list(groups)])
        items_P = np.empty(ends_G[-1], np.int64)
        times_P = np.empty_like(items_P) if self.times else None
        columns = self.features[1] if self.features else ()
        feature_FP = tuple(np.empty(ends_G[-1], column.dtype) for column in columns)
        weight_P = None if self.weights is None else np.empty(ends_G[-1], np.float32)

        def read(place: int) -> None:
            span = slice(ends_G[place] - self.events_G[groups[place]], ends_G[place])
            items_P[span] = self.events.read(groups[place], "items")
            if times_P is not None:
                times_P[span] = self.events.read(groups[place], "timestamps")
            if weight_P is not None and self.weights is not None:
                weight_P[span] = self.weights.of_group(groups[place])
            for column, values_P in zip(columns, feature_FP, strict=True):
                assert self.features is not None
                values_P[span] = self.features[0].of_group(groups[place], column)

        with ThreadPoolExecutor(self.readers, thread_name_prefix="loader-read") as readers:
            list(readers.map(read, range(len(groups))))
        parts = [self.windows_of(group) for group in groups]
        firsts = ends_G - self.events_G[list(groups)]
        windows = _concatenated(parts, firsts.tolist())
        if seeds is not None:
            windows = windows.take(np.random.default_rng(seeds).permutation(len(windows)))
        return Pool(items_P, times_P, windows, feature_FP, weight_P)


class StreamedOrder:
    """One epoch: pools are loaded one ahead of the one that is handed out."""

    def __init__(
        self, source: StreamedWindows, collate: Collator, pools: list[list[int]], seeds: tuple[int, int] | None
    ) -> None:
        self.source, self.collate, self.pools, self.seeds = source, collate, pools, seeds
        self.ends = np.cumsum([source.windows_G[pool].sum() for pool in pools])
        self._loading: dict[int, Future[Pool]] = {}
        self._ahead = ThreadPoolExecutor(1, thread_name_prefix="loader-pool")

    def fetch(self, first: int, end: int) -> Fetch:
        """How to get the windows at places `first … end-1`, over copies of their events alone."""
        begin = int(np.searchsorted(self.ends, first, side="right"))
        last = int(np.searchsorted(self.ends, end - 1, side="right"))
        for passed in [number for number in self._loading if number < begin]:
            del self._loading[passed]
        parts = []
        for number in range(begin, min(last + 2, len(self.pools))):
            if number not in self._loading:
                self._loading[number] = self._load(number)
            start = int(self.ends[number]) - int(self.source.windows_G[self.pools[number]].sum())
            if number <= last:
                span = slice(max(first - start, 0), min(end, int(self.ends[number])) - start)
                parts.append((self._loading[number], span))
        return partial(self._gather, parts)

    def _load(self, number: int) -> Future[Pool]:
        seeds = None if self.seeds is None else (*self.seeds, number)
        loading = self.source.shared.get(seeds or (number,))
        if loading is None:
            loading = self._ahead.submit(self.source.load, self.pools[number], seeds)
            self.source.shared[seeds or (number,)] = loading
        return loading

    def close(self) -> None:
        """Stop reading ahead."""
        self._ahead.shutdown(cancel_futures=True)
        self._loading.clear()

    def _gather(self, parts: Sequence[tuple[Future[Pool], slice]]) -> tuple[Windows, Collator]:
        """The windows, starting in a copy of their own stretches of events."""
        windows, items, times, features, firsts, total = [], [], [], list[list[NDArray[np.integer]]](), [], 0
        weights = []
        for loading, span in parts:
            pool = loading.result()
            chosen = pool.windows.take(np.arange(span.start, span.stop))
            length_M = chosen.length_M + BEYOND
            begin_M = np.cumsum(length_M) - length_M
            event_S = np.repeat(chosen.start_M - begin_M, length_M) + np.arange(int(length_M.sum()))
            items.append(pool.items_P[event_S])
            if pool.times_P is not None:
                times.append(pool.times_P[event_S])
            if pool.weight_P is not None:
                weights.append(pool.weight_P[event_S])
            features.append([values_P[event_S] for values_P in pool.feature_FP])
            windows.append(Windows(chosen.user_M, begin_M, chosen.length_M, chosen.first_scored_M))
            firsts.append(total)
            total += len(event_S)
        times_S = np.concatenate(times) if times else None
        feature_FS = [np.concatenate(column) for column in zip(*features, strict=True)]
        weight_S = np.concatenate(weights) if weights else None
        return _concatenated(windows, firsts), self.collate.over(np.concatenate(items), times_S, feature_FS, weight_S)


def _concatenated(parts: Sequence[Windows], firsts: Sequence[int]) -> Windows:
    """Windows over stretches of events that lie one after another, each from its own first event on."""
    return Windows(
        np.concatenate([part.user_M for part in parts]),
        np.concatenate([part.start_M + first for part, first in zip(parts, firsts, strict=True)]),
        np.concatenate([part.length_M for part in parts]),
        np.concatenate([part.first_scored_M for part in parts]),
    )
