"""The bundle being served, and its replacement by a newer one without a request dropped."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from intrr_rec.errors import ArtefactError, UserError
from intrr_rec.io.disk.lock import Lock
from intrr_rec.serving.http.backend import Backend
from intrr_rec.serving.http.courtesy import GiveWay
from intrr_rec.serving.http.metrics import Metrics
from intrr_rec.serving.http.schemas import RecommendRequest, RecommendResponse
from intrr_rec.serving.http.workers.team import Team

log = logging.getLogger(__name__)
LOOK_SECONDS = 0.1
RELOAD_SECONDS = 50.0  # that one asks for a reload waits for the other workers; `intrr pipeline` waits a minute
COLLECT_AFTER = (
    10_000,
    5,
    20,
)  # new objects until a pass over the youngest; passes over one generation until one over the next


class Live:
    """Holds the backend that answers; a batch uses the one that was current when it began, to its end.

    Args:
        load: reads the bundle from where it lies and tests it; raises UserError where it is not fit to serve.
        metrics: where reloads are counted.
        prepare: called once in the thread that loads.
        team: the workers that this process is one of, where it is not the only one.
    """

    def __init__(
        self, load: Callable[[], Backend], metrics: Metrics, prepare: Callable[[], None], team: Team | None = None
    ) -> None:
        self._load = load
        self._metrics, self._team = metrics, team
        # Apart from the model's thread: one to look items up while the other reads and tests a newer bundle.
        self.aside = ThreadPoolExecutor(2, "aside", prepare)
        self._reloading = asyncio.Lock()
        self._idle = threading.Event()  # set while no batch is being answered
        self._idle.set()
        self.current = load()
        _settle()
        metrics.serve(self.current.bundle_hash)

    def answer(self, requests: Sequence[RecommendRequest]) -> list[RecommendResponse]:
        """The answers to a batch of requests, all from one bundle."""
        self._idle.clear()
        try:
            return self.current.recommend(requests)
        finally:
            self._idle.set()

    def _load_beside(self) -> Backend:
        with Lock(self._team.turn, wait=True) if self._team else nullcontext(), GiveWay(self._idle):
            return self._load()

    async def reload_all(self) -> bool:
        """`reload` of every worker: first of this one, and of the others where it is fit to serve.

        Raises:
            UserError: also where one of the others refuses it, or has not done it in `RELOAD_SECONDS`.
        """
        changed = await self.reload()
        if (team := self._team) is not None:
            team.report(number := team.ask())
            until = time.monotonic() + RELOAD_SECONDS
            while not team.all_have(number):
                if time.monotonic() > until:
                    raise ArtefactError(
                        f"after {RELOAD_SECONDS:.0f} s not every worker has read the new one; ask again"
                    )
                await asyncio.sleep(LOOK_SECONDS)
        return changed

    async def change(self, to: Callable[[Backend], Backend]) -> None:
        """Answer from another backend of the same bundle, from the next batch on.

        Raises:
            UserError: what `to` raises; the old one goes on.
        """
        async with self._reloading:
            self.current = await asyncio.get_running_loop().run_in_executor(self.aside, to, self.current)

    async def reload(self) -> bool:
        """Read the bundle anew, test it and serve it from the next batch on; returns whether it is another one.

        Raises:
            UserError: it is not fit to serve; the old one goes on.
        """
        async with self._reloading:
            try:
                fresh = await asyncio.get_running_loop().run_in_executor(self.aside, self._load_beside)
            except Exception as error:  # whatever is wrong with the new one, the old one goes on
                self._metrics.reloads.labels("refused").inc()
                log.error("reload refused, bundle %s goes on: %s", self.current.bundle_hash[:12], error)
                raise error if isinstance(error, UserError) else ArtefactError(f"{error!r}; export it again") from error
            changed = fresh.bundle_hash != self.current.bundle_hash
            self.current = fresh
            await asyncio.get_running_loop().run_in_executor(
                self.aside, gc.collect
            )  # of what came after the start: soon done
            self._metrics.reloads.labels("done").inc()
            self._metrics.serve(fresh.bundle_hash)
            log.info("serving bundle %s", fresh.bundle_hash[:12])
            return changed


def _settle() -> None:
    """Take what is alive at the start out of the garbage collector's passes: each would stop every request for a second.

    The thresholds leave thousands of connections to passes that take milliseconds, and a whole pass to a million new objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
