"""Seeded, world-size-independent order of steps; batches are built ahead by threads.

The global step is fixed by (seed, epoch, step) alone; each rank takes its share of it, and builds nothing else. All ranks
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

from intrr_rec.data.loading.balance import deal
from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.collator import Collator, Share
from intrr_rec.data.loading.counts import Exchange, alone
from intrr_rec.data.loading.windows import IntArray, Windows

PREFETCH = 4

Fetch = Callable[[], tuple[Windows, Collator]]


class Order(Protocol):
    """The windows of one epoch that one rank takes, in order."""

    def fetch(self, first: int, end: int) -> Fetch:
        """How to get the rank's windows among places `first … end-1` of the epoch, and a collator over their events; calls go forward."""

    def within(self, tokens_T: IntArray) -> IntArray:
        """How many windows, from the first of the epoch on and of all ranks, hold no more than so many events; `[T]` numbers, rising."""

    def close(self) -> None:
        """Stop what reads ahead."""


class Source(Protocol):
    """Windows that a `Loader` draws from, in memory or read as they are needed (`streaming.py`)."""

    def __len__(self) -> int: ...

    @property
    def n_targets(self) -> int:
        """Scored positions over all windows."""

    @property
    def n_tokens(self) -> int:
        """Events over all windows."""

    @property
    def longest(self) -> int:
        """Events of the longest window."""

    def order(self, collate: Collator, seed: int | None, epoch: int, rank: int, ranks: int) -> Order:
        """The order of an epoch for one of so many ranks; seed None keeps that of the dataset."""


class Loader:
    """Batches of one rank.

    Args:
        windows: all windows, of all ranks.
        collate: builds a share of a step from its windows.
        batch_windows: windows a step over all ranks.
        batch_tokens: events a step over all ranks, in place of that many windows.
        seed: of the shuffling; None keeps the order (evaluation).
        micro_batches: of this rank, per step.
        workers: threads that build batches.
        exchange: adds the counts of a step up over ranks. Left out, batches are weighed as if the rank's share were the whole step.
    """

    def __init__(
        self,
        windows: Windows | Source,
        collate: Collator,
        batch_windows: int,
        *,
        batch_tokens: int | None = None,
        seed: int | None,
        rank: int,
        ranks: int,
        micro_batches: int = 1,
        workers: int = 1,
        exchange: Exchange = alone,
    ) -> None:
        self.windows = windows
        self.collate = collate
        self.batch_windows = batch_windows
        self.batch_tokens = batch_tokens
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self.micro_batches = micro_batches
        self.workers = workers
        self.exchange = exchange

    @property
    def steps(self) -> int:
        """Steps an epoch, the same on every rank and in every epoch."""
        if self.batch_tokens is None:
            return -(-len(self.windows) // self.batch_windows)
        # A step ends at a window, so it may hold one window more than its share of the epoch.
        return -(-self.windows.n_tokens // (self.batch_tokens - self.windows.longest))

    def _ends(self, order: Order) -> IntArray:
        """How many windows of the epoch the steps up to each have taken, `[steps + 1]`, from 0 on."""
        steps = np.arange(self.steps + 1)
        if self.batch_tokens is None:
            return np.minimum(steps * self.batch_windows, len(self.windows))
        return order.within(steps * self.windows.n_tokens // max(1, self.steps))

    def epoch(self, epoch: int = 0, first_step: int = 0) -> Iterator[tuple[Batch, ...]]:
        """This rank's micro-batches of each step of one epoch, from `first_step` on.

        Threads build them ahead (NumPy and Arrow release the interpreter lock), and one more weighs them in the order of steps. All
        ranks are asked for the same steps, and leave an epoch after the same step: what has begun by then is weighed on all of them.
        """
        order = self._order(epoch)
        ends = self._ends(order).tolist()
        broken = False

        def build(fetch: Fetch, step: int) -> tuple[Collator, list[Share]]:
            windows, collate = fetch()
            taker_M, number = deal(windows.length_M, self.micro_batches), epoch * self.steps + step
            dealt = (windows.take(np.flatnonzero(taker_M == taker)) for taker in range(self.micro_batches))
            return collate, [collate.share(own, number) for own in dealt]

        def weigh(building: Future[tuple[Collator, list[Share]]]) -> tuple[Batch, ...]:
            nonlocal broken
            if broken:  # the error of an earlier step is raised; the exchanges of other ranks would be off by a step
                raise RuntimeError("a step could not be built")
            broken = True
            collate, shares = building.result()
            own = collate.counts(shares)
            batches = collate.weigh(shares, self.exchange(own), own, self.micro_batches * self.ranks)
            broken = False
            return tuple(batches)

        builders = ThreadPoolExecutor(self.workers, thread_name_prefix="loader")
        weigher = ThreadPoolExecutor(1, thread_name_prefix="loader-weigh")
        ahead: deque[Future[tuple[Batch, ...]]] = deque()
        try:
            for step in range(first_step, self.steps):
                fetch = order.fetch(*ends[step : step + 2])
                ahead.append(weigher.submit(weigh, builders.submit(build, fetch, step)))
                if len(ahead) >= PREFETCH + self.workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            is_alone = self.exchange is alone
            builders.shutdown(cancel_futures=is_alone)
            weigher.shutdown(cancel_futures=is_alone)
            order.close()

    def _order(self, epoch: int) -> Order:
        if isinstance(self.windows, Windows):
            return _InMemory(self, self.windows, epoch)
        return self.windows.order(self.collate, self.seed, epoch, self.rank, self.ranks)


class _InMemory:
    """A permutation of all windows; those of a step are dealt to the ranks by length."""

    def __init__(self, loader: Loader, windows: Windows, epoch: int) -> None:
        self.loader, self.windows = loader, windows
        self.order_M = np.arange(len(windows))
        if loader.seed is not None:
            self.order_M = np.random.default_rng([loader.seed, epoch]).permutation(self.order_M)

    def fetch(self, first: int, end: int) -> Fetch:
        return partial(self._take, first, end)

    def _take(self, first: int, end: int) -> tuple[Windows, Collator]:
        step_M = self.order_M[first:end]
        taker_M = deal(self.windows.length_M[step_M], self.loader.ranks)
        return self.windows.take(step_M[taker_M == self.loader.rank]), self.loader.collate

    def within(self, tokens_T: IntArray) -> IntArray:
        return np.searchsorted(np.cumsum(self.windows.length_M[self.order_M]), tokens_T, side="right")

    def close(self) -> None:
        pass
