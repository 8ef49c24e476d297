"""Seeded, world-size-independent order of steps; batches are built ahead in a background thread.

The global step is fixed by (seed, epoch, step) alone; each replica takes every `replicas`-th window of it. All replicas
therefore make the same number of steps, and some may get an empty share of the last one.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

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
        # An unbounded consumer delay must not let the queue grow: it holds a few batches only.
        ready: queue.Queue[Batch | BaseException | None] = queue.Queue(maxsize=PREFETCH)
        stop = threading.Event()

        def put(item: Batch | BaseException | None) -> None:
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    return
                except queue.Full:
                    continue

        def build() -> None:
            try:
                for step in range(first_step, self.steps):
                    chosen = order[step * self.batch_windows : (step + 1) * self.batch_windows]
                    put(self.collate(self.windows.take(chosen), self.rank, self.replicas))
                    if stop.is_set():
                        return
                put(None)
            except BaseException as error:
                put(error)

        worker = threading.Thread(target=build, name="loader", daemon=True)
        worker.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stop.set()
            worker.join()
