"""Dynamic batching: requests that arrive while the model works are answered together by its next pass.

The model's work runs in one thread of its own, off the event loop. While it computes, requests gather; so batches grow
with the load by themselves, and a lone request waits no longer than a few milliseconds for company.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from intrr_rec.config.serving import ServeConfig

Q = TypeVar("Q")
A = TypeVar("A")

# Weight of the newest batch in the running mean of a batch's time, from which Retry-After is reckoned.
_NEWEST = 0.2


class Overloaded(Exception):
    """The queue is full.

    Attributes:
        retry_after: whole seconds in which the queue should have emptied, at least 1.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass
class Waiting(Generic[Q, A]):
    """A question in the queue, and where its answer goes."""

    question: Q
    answer: asyncio.Future[A]
    since: float = field(default_factory=time.perf_counter)


class Batcher(Generic[Q, A]):
    """Answers questions in batches, first come, first served.

    Args:
        work: answers a batch, one answer a question, in order; called in the worker thread.
        settings: batch size, waiting time, length of the queue.
        prepare: called once in the worker thread before anything else.
        observe: called after each batch with its size, the seconds its first question waited and the seconds of work.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Q]], Sequence[A]],
        settings: ServeConfig,
        prepare: Callable[[], None],
        observe: Callable[[int, float, float], None],
    ) -> None:
        self._work = work
        self._settings = settings
        self._observe = observe
        self._queue: deque[Waiting[Q, A]] = deque()
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._batch_seconds = 0.0
        self._closing = False
        self._thread = ThreadPoolExecutor(1, "model", prepare)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work; call it in the event loop."""
        self._task = asyncio.create_task(self._run())

    @property
    def waiting(self) -> int:
        """Questions in the queue."""
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """Whether it works."""
        return self._task is not None and not self._task.done()

    def require_room(self) -> None:
        """Raises Overloaded where the queue is full."""
        if len(self._queue) >= self._settings.max_queue:
            batches = len(self._queue) / self._settings.max_batch
            raise Overloaded(max(1, math.ceil(batches * self._batch_seconds)))

    async def submit(self, question: Q) -> A:
        """The answer to a question.

        Raises:
            Overloaded: the queue is full.
        """
        self.require_room()
        entry: Waiting[Q, A] = Waiting(question, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        self._arrived.set()
        if len(self._queue) >= self._settings.max_batch:
            self._full.set()
        return await entry.answer

    async def close(self) -> None:
        """Answer what is in the queue, then end."""
        self._closing = True
        self._arrived.set()
        self._full.set()
        if self._task is not None:
            await self._task
        self._thread.shutdown()

    async def _run(self) -> None:
        while True:
            if not self._queue:
                if self._closing:
                    return
                await self._arrived.wait()
                await self._gather()
            self._arrived.clear()
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._settings.max_batch))]
            batch = [entry for entry in batch if not entry.answer.done()]  # its client may be gone
            if batch:
                await self._answer(batch)

    async def _gather(self) -> None:
        """Wait for a full batch, but not for long."""
        if self._closing or len(self._queue) >= self._settings.max_batch:
            return
        self._full.clear()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._full.wait(), self._settings.batch_wait_ms / 1e3)

    async def _answer(self, batch: list[Waiting[Q, A]]) -> None:
        started = time.perf_counter()
        try:
            answers = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._work, [entry.question for entry in batch]
            )
        except Exception as error:
            for entry in batch:
                if not entry.answer.done():
                    entry.answer.set_exception(error)
            return
        seconds = time.perf_counter() - started
        self._batch_seconds += _NEWEST * (seconds - self._batch_seconds)
        self._observe(len(batch), started - batch[0].since, seconds)
        for entry, answer in zip(batch, answers, strict=True):
            if not entry.answer.done():
                entry.answer.set_result(answer)
