"""What an epoch has come to so far: sums of its losses, and a bar for a person at a terminal.

Shape suffixes: R ranks.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from intrr_rec.distributed.world import World
from intrr_rec.io.console import shows_bars


class EpochProgress:
    """Counts steps, adds up losses on their device, and shows a bar where someone is looking.

    Args:
        label: at the left of the bar.
        steps: of the epoch.
        world: this rank among its peers; the main one shows the bar.
        done: steps of the epoch before this process.
        saved: what `saved` gave after them.
    """

    def __init__(
        self, label: str, steps: int, world: World, done: int = 0, saved: dict[str, Any] | None = None
    ) -> None:
        self.steps = steps
        self.world = world
        self._done = done
        saved = saved or {"seconds": 0.0, "sums": {}}
        self._sums = {name: self._own(torch.tensor(sums)) for name, sums in saved["sums"].items()}
        self._started = time.monotonic() - saved["seconds"]
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            disable=not (world.is_main and shows_bars()),
            transient=True,
        )
        self._task = self._bar.add_task(label, total=steps, completed=done)

    def __enter__(self) -> EpochProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, losses: dict[str, Tensor]) -> None:
        """One step done."""
        for name, value in losses.items():
            value = value.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value.clone()
        self._done += 1
        self._bar.advance(self._task)

    def mean_losses(self) -> dict[str, Tensor]:
        """Means over the steps so far."""
        return {name: total / self._done for name, total in self._sums.items()}

    @property
    def seconds(self) -> float:
        """Spent on the epoch."""
        return time.monotonic() - self._started

    def saved(self) -> dict[str, Any]:
        """What to go on from, the same on every rank: each rank's own sums, so that as many ranks go on to the last digit."""
        sums = {name: self.world.gather_rows(total[None]).tolist() for name, total in self._sums.items()}
        return {"seconds": self.seconds, "sums": sums}

    def _own(self, sums_R: Tensor) -> Tensor:
        """This rank's part of the sums of all; another number of ranks has the main one carry all, at the same mean."""
        ranks, world = len(sums_R), self.world
        if ranks == world.size:
            mine = sums_R[world.rank]
        else:
            mine = sums_R.sum(0) * (world.size / ranks if world.is_main else 0.0)
        return mine.to(world.device)
