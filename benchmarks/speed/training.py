"""`python -m benchmarks.speed training`: the paper's Table 2 on this machine, IntRR against its flattened twin, in one run.

Every backbone is trained in both kinds and both forms of a sample: the whole history of a user, every position a target; and
the paper's, a prefix with one target. All of them take a step in turn, round after round, with the machine's matrix-product
peak measured in each round, so that a machine whose speed drifts is as slow for each; figures are medians over rounds.
Memory is measured apart, each in a process of its own.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import Enum
from itertools import chain, count, islice
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.machine import Gemm, describe, memory_gb, peak_memory_gb, quiet, synchronize
from benchmarks.speed.page import write_section
from benchmarks.speed.stopwatch import breakdown
from benchmarks.speed.training_page import section, tables
from intrr_rec.config import Recipe
from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.windows import Windows, prefix_windows, training_windows
from intrr_rec.distributed.world import World, join_world
from intrr_rec.errors import ConfigError
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.models.base import CodeRecommender
from intrr_rec.runs.inputs import Inputs, open_inputs
from intrr_rec.training.trainer import Trainer
from intrr_rec.vectors.precision import computes_bf16


class Backbone(str, Enum):
    """A backbone of the paper's table."""

    T5 = "t5"
    HSTU = "hstu"


Form = Literal["every position", "prefixes"]
FORMS: tuple[Form, ...] = ("every position", "prefixes")
KINDS = ("intrr", "flattened")
WARM_UP = 3
MEMORY_STEPS = 4
BROKEN_DOWN = 10  # steps
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    backbone: Backbone
    kind: str
    form: Form

    @property
    def name(self) -> str:
        """Such as `t5, intrr, prefixes`."""
        return f"{self.backbone.value}, {self.kind}, {self.form}"

    def recipe(self, recipe: Recipe) -> Recipe:
        """The given one, of this backbone and kind."""
        tree = recipe.model_dump()
        tree["model"] |= {"kind": self.kind, "backbone": self.backbone.value}
        return Recipe.model_validate(tree)

    def windows(self, inputs: Inputs) -> Windows:
        """What a run of this form learns from."""
        cut = training_windows if self.form == "every position" else prefix_windows
        return cut(inputs.dataset.offsets, inputs.recipe.model.window, inputs.dataset.held_out("train"))


@dataclass(frozen=True)
class Paths:
    """Where the inputs lie."""

    dataset: Path
    semantic_ids: Path
    vectors: Path | None


def bench_training(
    recipe: Recipe,
    *,
    dataset: Path,
    semantic_ids: Path,
    vectors: Path | None,
    out: Path,
    steps: int = 30,
    backbones: Sequence[Backbone] = tuple(Backbone),
    page: Path | None = None,
) -> dict[str, Any]:
    """Measure, print the table, write all figures to `out` (JSON) and, where asked for, their section of a page.

    Args:
        recipe: of IntRR; kind and backbone are set case by case. Its `train.batch_users` are the samples of a step.
        steps: rounds measured after the warm-up.
        page: Markdown with a `training` section to write anew.

    Raises:
        ArtefactError, ConfigError, DataError: as `intrr train`; or the page has no such section.
    """
    cases = [Case(backbone, kind, form) for backbone in backbones for kind in KINDS for form in FORMS]
    paths = Paths(dataset, semantic_ids, vectors)
    with join_world() as world, tempfile.TemporaryDirectory() as scratch:
        lines = _time(cases, recipe, paths, steps, Path(scratch), world)
        machine = describe(world.device)
        is_main = world.is_main
    if not is_main:
        return {}
    for case in cases:
        lines[case.name] |= _memory(case, recipe, paths)
    figures = {"machine": machine, "recipe": recipe.model_dump(mode="json"), "steps": steps, "cases": lines}
    figures["ratios"] = _ratios(lines, backbones)
    write_json(out, figures)
    if page:
        write_section(page, "training", section(figures))
    _print(figures)
    return figures


def parse_backbones(names: Sequence[str] | None) -> tuple[Backbone, ...]:
    """Those named, or both.

    Raises:
        ConfigError: a name that is neither.
    """
    known = {backbone.value: backbone for backbone in Backbone}
    for name in names or ():
        if name not in known:
            raise ConfigError(f"--backbone {name}: must be one of {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names or known))


@contextmanager
def _open(case: Case, recipe: Recipe, paths: Paths, scratch: Path, world: World) -> Iterator[Trainer]:
    """A fresh run of the case, in training mode."""
    inputs = open_inputs(case.recipe(recipe), paths.dataset, paths.semantic_ids, paths.vectors)
    run = Trainer(inputs, scratch / case.name, world)
    run.loader.windows = case.windows(inputs)
    run.parallel.module.train()
    try:
        yield run
    finally:
        if run.figures:
            run.figures.close()


def _full_batches(run: Trainer) -> Iterator[Batch]:
    """Batches of the run's own loader, epoch after epoch, but for the short last one of an epoch."""
    whole = max(1, len(run.loader.windows) // run.loader.batch_windows)
    for epoch in count(1):
        yield from chain.from_iterable(islice(run.loader.epoch(epoch), whole))


def _time(
    cases: Sequence[Case], recipe: Recipe, paths: Paths, steps: int, scratch: Path, world: World
) -> dict[str, dict[str, Any]]:
    """Figures of every case but memory."""
    device = world.device
    fp32 = Gemm(device)
    with ExitStack() as stack:
        runs = {case: stack.enter_context(_open(case, recipe, paths, scratch, world)) for case in cases}
        feeds = {case: _full_batches(run) for case, run in runs.items()}
        flops = {case: _flops(run, next(feeds[case])) for case, run in runs.items()}
        rounds: dict[Case, list[_Step]] = {case: [] for case in cases}
        for step in range(WARM_UP + steps):
            for case, run in runs.items():
                batch, before = next(feeds[case]), fp32.rate()
                seconds = _seconds(run, batch, device)
                peak = (before + fp32.rate()) / 2
                if step >= WARM_UP:
                    rounds[case].append(
                        _Step(seconds, peak, len(batch.target_S), _tokens(run, batch), flops[case](batch))
                    )
            log.info("round %d of %d", step + 1, WARM_UP + steps)
        bf16_peak = None
        if computes_bf16(device):
            bf16 = Gemm(device, torch.bfloat16)
            bf16_peak = statistics.median(bf16.rate() for _ in range(5))
        return {case.name: _line(rounds[case], runs[case], steps, bf16_peak) for case in cases}


@dataclass(frozen=True)
class _Step:
    seconds: float
    peak: float
    targets: int
    tokens: int
    flop: float


def _line(taken: Sequence[_Step], run: Trainer, steps: int, bf16_peak: float | None) -> dict[str, Any]:
    """Medians over the steps; nothing of bf16 where the processor only emulates it."""

    def median(figure: Callable[[_Step], float]) -> float:
        return statistics.median(map(figure, taken))

    return {
        "step_ms": 1e3 * median(lambda step: step.seconds),
        "targets_per_second": median(lambda step: step.targets / step.seconds),
        "windows_per_second": median(lambda step: run.loader.batch_windows / run.world.size / step.seconds),
        "tokens_per_second": median(lambda step: step.tokens / step.seconds),
        "gflop": median(lambda step: step.flop) / 1e9,
        "gemm_peak_gflops": median(lambda step: step.peak) / 1e9,
        "share_of_gemm_peak": median(lambda step: step.flop / step.seconds / step.peak),
        "gemm_peak_bf16_gflops": bf16_peak and bf16_peak / 1e9,
        "share_of_bf16_gemm_peak": bf16_peak and median(lambda step: step.flop / step.seconds) / bf16_peak,
        "breakdown_ms": breakdown(run, min(steps, BROKEN_DOWN)),
    }


def _seconds(run: Trainer, batch: Batch, device: torch.device) -> float:
    synchronize(device)
    started = time.perf_counter()
    run.step(batch)
    synchronize(device)
    return time.perf_counter() - started


def _flops(run: Trainer, batch: Batch) -> Callable[[Batch], float]:
    """FLOP of the matrix products of a step, counted on one batch and taken to grow with the tokens of others."""
    with FlopCounterMode(display=False) as counter:
        run.step(batch)
    a_slot = counter.get_total_flops() / len(batch.slot_T)
    return lambda other: a_slot * len(other.slot_T)


def _tokens(run: Trainer, batch: Batch) -> int:
    """Tokens of histories that the backbone reads, padding not counted."""
    a_slot = run.parallel.model.levels if isinstance(run.parallel.model, CodeRecommender) else 1
    return a_slot * int((batch.layout.owner_CN >= 0).sum())


def _memory(case: Case, recipe: Recipe, paths: Paths) -> dict[str, float]:
    """Peak memory of some steps, in a process of its own, beyond what the process held before the model was made."""
    spawn, threads = multiprocessing.get_context("spawn"), torch.get_num_threads()
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=quiet, initargs=(threads,)) as process:
        at_rest, peak = process.submit(_held, case, recipe, paths).result()
    return {"at_rest_gb": at_rest, "peak_gb": peak, "model_and_step_gb": peak - at_rest}


def _held(case: Case, recipe: Recipe, paths: Paths) -> tuple[float, float]:
    for name in LAUNCHER:  # it has no peers to wait for
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as scratch, join_world() as world:
        at_rest = memory_gb(world.device)
        with _open(case, recipe, paths, Path(scratch), world) as run:
            for batch in islice(_full_batches(run), MEMORY_STEPS):
                run.step(batch)
        return at_rest, peak_memory_gb(world.device)


def _ratios(lines: dict[str, dict[str, Any]], backbones: Sequence[Backbone]) -> dict[str, dict[str, float]]:
    """IntRR against its twin, and every position against prefixes, backbone by backbone."""

    def ratio(figure: str, above: Case, below: Case) -> float:
        return lines[above.name][figure] / lines[below.name][figure]

    ratios: dict[str, dict[str, float]] = {}
    for backbone in backbones:
        ours, twin = (Case(backbone, kind, "every position") for kind in KINDS)
        ours_prefixes, twin_prefixes = (Case(backbone, kind, "prefixes") for kind in KINDS)
        speed, memory = "targets_per_second", "model_and_step_gb"
        ratios[backbone.value] = {
            "targets a second, IntRR / flattened, every position": ratio(speed, ours, twin),
            "targets a second, IntRR / flattened, prefixes": ratio(speed, ours_prefixes, twin_prefixes),
            "memory, IntRR / flattened, every position": ratio(memory, ours, twin),
            "memory, IntRR / flattened, prefixes": ratio(memory, ours_prefixes, twin_prefixes),
            "targets a second, IntRR, every position / prefixes": ratio(speed, ours, ours_prefixes),
            "targets a second, flattened, every position / prefixes": ratio(speed, twin, twin_prefixes),
        }
    return ratios


def _print(figures: dict[str, Any]) -> None:
    console = Console(width=160)
    for header, rows in tables(figures):
        table = Table(*header)
        for row in rows:
            table.add_row(*row)
        console.print(table)
