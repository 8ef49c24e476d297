"""A run folder while a job trains in it: claimed, and its figures and plan written. What lies in it is told by `run_files`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from intrr_rec.distributed.world import World
from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.atomic import write_json, write_text
from intrr_rec.io.disk.lock import Lock, Taken
from intrr_rec.io.disk.places import writing_to
from intrr_rec.io.formats.records import sealed, sealed_text
from intrr_rec.runs.metrics_file import metric_line, metric_lines
from intrr_rec.runs.run_files import METRICS, PLAN, PLAN_FIGURES


@contextmanager
def claimed(run: Path, world: World) -> Iterator[None]:
    """The run folder is this job's for the length of the block; the system lets go of it when the main rank dies.

    Raises:
        ArtefactError: another job has it; on every rank.
        PlaceError: it cannot be made; on every rank.
    """
    held: list[Lock] = []

    def claim() -> None:
        if not world.is_main:
            return
        with writing_to(run):
            run.mkdir(parents=True, exist_ok=True)
            try:
                held.append(Lock(run))
            except Taken:
                raise ArtefactError(
                    f"{run}: another job is training there; wait for it, or choose another --out"
                ) from None

    try:
        world.agree(claim)
        yield
    finally:
        for lock in held:
            lock.release()


def write_plan(run: Path, text: str, figures: dict[str, Any]) -> None:
    """Write the sharding plan, for people and for programs."""
    write_text(run / PLAN, sealed_text(f"{text}\n"))
    write_json(run / PLAN_FIGURES, sealed(figures))


class MetricsLog:
    """Every figure to JSON lines and TensorBoard; used by the main rank only.

    Args:
        run: the run folder.
        lines: how many to keep of those that are there: what came after will be measured again.
        step: up to which TensorBoard keeps its figures.
        seconds: training time before this process.

    Raises:
        ArtefactError: a line that is there was altered.
    """

    def __init__(self, run: Path, lines: int, step: int, seconds: float) -> None:
        self.path = run / METRICS
        there = metric_lines(self.path)
        write_text(self.path, "".join(f"{metric_line(line)}\n" for line in there[:lines]))
        self.lines = min(lines, len(there))
        self.board = SummaryWriter(run / "tensorboard", purge_step=step + 1)
        self.started = time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        """Training time so far, earlier processes included."""
        return time.monotonic() - self.started

    def write(self, split: str, step: int, epoch: float, figures: dict[str, float]) -> None:
        """Append one line; a NaN is written as null."""
        record: dict[str, Any] = {"split": split, "step": step, "epoch": epoch, "seconds": round(self.seconds, 3)}
        record |= figures
        with writing_to(self.path.parent):
            with open(self.path, "a", encoding="utf-8") as handle:
                handle.write(metric_line(record) + "\n")
                handle.flush()
                os.fsync(handle.fileno())  # a checkpoint counts on the lines before it
            self.lines += 1
            for name, value in figures.items():
                self.board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        """Flush and close."""
        self.board.close()
