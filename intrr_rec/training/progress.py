"""What a person sees while an epoch runs: a bar on a terminal, nothing elsewhere (the log line at its end says it all)."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor


class EpochProgress:
    """Counts steps, adds up losses on their device, and shows a bar where someone is looking.

    Args:
        label: at the left of the bar.
        steps: of the epoch.
        shown: False on all ranks but the main one.
    """

    def __init__(self, label: str, steps: int, *, shown: bool) -> None:
        self.steps = steps
        self._sums: dict[str, Tensor] = {}
        self._done = 0
        self._started = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            disable=not (shown and sys.stderr.isatty()),
            transient=True,
        )
        self._task = self._bar.add_task(label, total=steps)

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
        """Since the epoch began."""
        return time.monotonic() - self._started
