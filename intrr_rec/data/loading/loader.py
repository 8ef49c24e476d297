"""Seeded, world-size-independent order of steps; batches are built ahead by threads.

The global step is fixed by (seed, epoch, step) alone; each replica takes every `replicas`-th window of it. All replicas
therefore make the same number of steps, and some may get an empty share of the last one. How many threads build batches, or
how far ahead they are, changes nothing either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np

from intrr_rec.data.loading.batch import Batch, Collator
from intrr_rec.data.loading.windows import Windows

PREFETCH = 4

Fetch = Callable[[], tuple[Windows, Collator]]


class Order(Protocol):
    """The windows of one epoch, in order."""

    def fetch(self, first: int, end: int) -> Fetch:
        """How to get the windows at places `first … end-1`, and a collator over their events; calls go forward."""

    def close(self) -> None:
        """Stop what reads ahead."""


class Source(Protocol):
    """Windows that a `Loader` draws from, in memory or read as they are needed (`stream.py`)."""

    def __len__(self) -> int: ...

    @property
    def n_targets(self) -> int:
        """Scored positions over all windows."""

    def order(self, collate: Collator, seed: int | None, epoch: int) -> Order:
        """The order of an epoch; seed None keeps that of the dataset."""


class Loader:
    """Batches of one rank.

    Args:
        windows: all windows, of all replicas.
        collate: builds a replica's batch from the windows of a step.
        batch_windows: windows a step over all replicas.
        seed: of the shuffling; None keeps the order (evaluation).
        workers: threads that build batches.
    """

    def __init__(
        self,
        windows: Windows | Source,
        collate: Collator,
        batch_windows: int,
        *,
        seed: int | None,
        rank: int,
        replicas: int,
        workers: int = 1,
    ) -> None:
        self.windows = windows
        self.collate = collate
        self.batch_windows = batch_windows
        self.seed = seed
        self.rank = rank
        self.replicas = replicas
        self.workers = workers

    @property
    def steps(self) -> int:
        """Steps an epoch, the same on every rank."""
        return -(-len(self.windows) // self.batch_windows)

    def epoch(self, epoch: int = 0, first_step: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from `first_step` on, built ahead by threads (NumPy and Arrow release the interpreter lock)."""
        order = self._order(epoch)

        def build(fetch: Fetch, step: int) -> Batch:
            windows, collate = fetch()
            return collate(windows, self.rank, self.replicas, epoch * self.steps + step)

        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="loader")
        ahead: deque[Future[Batch]] = deque()
        try:
            for step in range(first_step, self.steps):
                first = step * self.batch_windows
                fetch = order.fetch(first, min(first + self.batch_windows, len(self.windows)))
                ahead.append(pool.submit(build, fetch, step))
                if len(ahead) >= PREFETCH + self.workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            order.close()
            pool.shutdown(cancel_futures=True)

    def _order(self, epoch: int) -> Order:
        if isinstance(self.windows, Windows):
            return _InMemory(self.windows, self.collate, self.seed, epoch)
        return self.windows.order(self.collate, self.seed, epoch)


class _InMemory:
    """A permutation of all windows."""

    def __init__(self, windows: Windows, collate: Collator, seed: int | None, epoch: int) -> None:
        self.windows, self.collate = windows, collate
        self.order_M = np.arange(len(windows))
        if seed is not None:
            self.order_M = np.random.default_rng([seed, epoch]).permutation(self.order_M)

    def fetch(self, first: int, end: int) -> Fetch:
        return partial(self._take, first, end)

    def _take(self, first: int, end: int) -> tuple[Windows, Collator]:
        return self.windows.take(self.order_M[first:end]), self.collate

    def close(self) -> None:
        pass
