"""Seeded, world-size-independent order of steps; batches are built ahead in a background thread.

The global step is fixed by (seed, epoch, step) alone; each replica takes every `replicas`-th window of it. All replicas
therefore make the same number of steps, and some may get an empty share of the last one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from intrr_rec.data.batch import Batch, Collator
from intrr_rec.data.windows import Windows

PREFETCH = 4


class Loader:
    """Batches of one rank.

    Args:
        windows: all windows, of all replicas.
        collate: builds a replica's batch from the windows of a step.
        batch_windows: windows a step over all replicas.
        seed: of the shuffling; None keeps the order (evaluation).
    """

    def __init__(
        self, windows: Windows, collate: Collator, batch_windows: int, *, seed: int | None, rank: int, replicas: int
    ) -> None:
        self.windows = windows
        self.collate = collate
        self.batch_windows = batch_windows
        self.seed = seed
        self.rank = rank
        self.replicas = replicas

    @property
    def steps(self) -> int:
        """Steps an epoch, the same on every rank."""
        return -(-len(self.windows) // self.batch_windows)

    def epoch(self, epoch: int = 0, first_step: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from `first_step` on, built ahead by a thread (NumPy releases the interpreter lock)."""
        order = np.arange(len(self.windows))
        if self.seed is not None:
            order = np.random.default_rng([self.seed, epoch]).permutation(order)

        def build(step: int) -> Batch:
            chosen = order[step * self.batch_windows : (step + 1) * self.batch_windows]
            return self.collate(self.windows.take(chosen), self.rank, self.replicas, epoch * self.steps + step)

        pool = ThreadPoolExecutor(1, thread_name_prefix="loader")
        ahead: deque[Future[Batch]] = deque()
        try:
            for step in range(first_step, self.steps):
                ahead.append(pool.submit(build, step))
                if len(ahead) > PREFETCH:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
