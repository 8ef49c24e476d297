"""Where a training step's time goes, part by part: a clock around each, the time of a part inside another counted once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.speed.machine import synchronize
from intrr_rec.training.trainer import Trainer

LOADER, LOOKUP, ITEMS, BACKBONE, USERS = "loader", "lookup", "item-side RAN", "backbone", "user-side RAN"
FORWARD, BACKWARD, OPTIMIZER = "losses and the rest of forward", "backward", "optimizer"
PARTS = (LOADER, LOOKUP, ITEMS, BACKBONE, USERS, FORWARD, BACKWARD, OPTIMIZER)
COLLECTIVES = {"all-to-all": ("all_to_all", "alltoall"), "all-reduce": ("all_reduce", "allreduce")}


class Stopwatch:
    """Exclusive seconds of each part of a step; on CUDA every part waits for the device, so parts do not overlap."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._open: list[list[Any]] = []  # part, when it began or went on

    def start(self, part: str) -> None:
        """From here on time is this part's, until it stops or one inside it starts."""
        now = self._now()
        if self._open:
            self._book(now)
        self._open.append([part, now])

    def stop(self) -> None:
        """The part last started is over."""
        now = self._now()
        self._book(now)
        self._open.pop()
        if self._open:
            self._open[-1][1] = now

    def _book(self, now: float) -> None:
        part, since = self._open[-1]
        self.seconds[part] += now - since

    def _now(self) -> float:
        synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def around(self, part: str) -> Iterator[None]:
        """The block is this part."""
        self.start(part)
        try:
            yield
        finally:
            self.stop()

    def watch(self, owner: Any, method: str, part: str, undo: ExitStack) -> None:
        """Count a method of this object as a part until `undo` closes."""
        call = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.around(part):
                return call(*args, **kwargs)

        setattr(owner, method, timed)
        undo.callback(delattr, owner, method)

    def watch_module(self, module: nn.Module, part: str, undo: ExitStack) -> None:
        """Count the forward pass of this module as a part until `undo` closes."""
        before = module.register_forward_pre_hook(lambda *_: self.start(part))
        after = module.register_forward_hook(lambda *_: self.stop())
        undo.callback(before.remove)
        undo.callback(after.remove)


def breakdown(run: Trainer, steps: int) -> dict[str, float]:
    """Milliseconds of each part of a step, the median of some steps through the loader.

    `optimizer` holds all that is done with finished gradients. Collectives run inside other parts (lookup, backward), so
    theirs stand beside and not among the parts.
    """
    model: Any = run.parallel.model
    found: list[dict[str, float]] = []
    with ExitStack() as undo:
        watch = Stopwatch(run.world.device)
        for name in ("uid", "codebooks", "item_codebooks"):
            if (table := getattr(model, name, None)) is not None:
                watch.watch_module(table, LOOKUP, undo)
        watch.watch_module(model.backbone, BACKBONE, undo)
        watch.watch_module(run.parallel.module, FORWARD, undo)
        if hasattr(model, "ran"):
            watch.watch(model, "items", ITEMS, undo)
            watch.watch(model.ran, "teacher_forced", USERS, undo)
        watch.watch(run.parallel.optimizer, "step", OPTIMIZER, undo)
        batches = chain.from_iterable(run.loader.epoch(1))
        while len(found) < steps:
            watch.seconds = dict.fromkeys(PARTS, 0.0)
            with watch.around(LOADER):
                batch = next(batches, None)
            if batch is None:
                break
            with watch.around(BACKWARD):
                run.step(batch)
            found.append(watch.seconds)
            held = batch
        parts = {part: 1e3 * statistics.median(step[part] for step in found) for part in PARTS}
    return parts | _collectives(lambda: run.step(held))


def _collectives(step: Callable[[], Any]) -> dict[str, float]:
    """Milliseconds a step spends in collectives, by the profiler; overlapped with other work or not."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as trace:
        step()
    milliseconds = dict.fromkeys(COLLECTIVES, 0.0)
    for event in trace.key_averages():
        if not event.key.startswith(("gloo:", "nccl:", "ncclDevKernel", "ncclKernel")):
            continue
        for name, spellings in COLLECTIVES.items():
            if any(spelling in event.key.lower() for spelling in spellings):
                milliseconds[name] += (event.cpu_time_total + event.self_device_time_total) / 1e3
    return milliseconds
