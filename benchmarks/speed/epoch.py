"""`python -m benchmarks.speed epoch`: how long an epoch and an evaluation take, how close to the machine's peak, where time goes.

Each figure is a median over the steps of a whole epoch after a warm-up, taken through the trainer's own step.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.machine import describe, gemm_peak, memory_gb, peak_memory_gb
from intrr_rec.config import Recipe
from intrr_rec.data.loading.batch import Batch
from intrr_rec.distributed.world import join_world
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.training.trainer import Trainer

log = logging.getLogger(__name__)
WARM_UP = 5
PROFILED = 10
GROUPS = {
    "matrix products": ("mm", "bmm", "addmm", "baddbmm"),
    "optimizer": ("_fused_adam_", "fused_adam"),
    "gather and scatter": (
        "embedding_dense_backward", "index_select", "index", "embedding", "index_put_", "_index_put_impl_", "gather",
        "dense_embedding_codegen_lookup_function", "scatter_add_", "cat", "split_with_sizes",
    ),
    "normalisation and softmax": (
        "native_layer_norm", "native_layer_norm_backward", "_log_softmax", "_log_softmax_backward_data", "nll_loss_forward",
        "nll_loss_backward",
    ),
    "dropout": ("native_dropout", "bernoulli_", "native_dropout_backward"),
}  # fmt: skip


def bench_epoch(
    recipe: Recipe, *, dataset: Path, semantic_ids: Path, vectors: Path | None, out: Path, evaluation: bool = True
) -> dict[str, Any]:
    """Measure, print a table, write all figures to `out` (JSON); `evaluation` times that of the test users as well.

    Raises:
        ArtefactError, ConfigError, DataError: as `intrr train`.
    """
    inputs = open_inputs(recipe, dataset, semantic_ids, vectors)
    with join_world() as world, tempfile.TemporaryDirectory() as scratch:
        at_rest = memory_gb(world.device)
        run = Trainer(inputs, Path(scratch), world)
        run.parallel.module.train()
        figures: dict[str, Any] = {"machine": describe(world.device), "recipe": recipe.model_dump(mode="json")}
        batches = list(chain.from_iterable(run.loader.epoch(1)))
        for batch in batches[:WARM_UP]:
            run.step(batch)
        figures |= _time_epoch(run)
        figures["memory_at_rest_gb"], figures["training_peak_memory_gb"] = at_rest, peak_memory_gb(world.device)
        figures["gemm_peak_gflops"] = gemm_peak(world.device) / 1e9
        figures["loader_ms_alone"] = 1e3 * _timed(lambda: list(run.loader.epoch(3))) / run.loader.steps
        figures |= _count_flops(run, batches, figures)
        if evaluation:
            figures["evaluation_seconds"] = _timed(lambda: run.evaluator.evaluate("test"))
        figures["peak_memory_gb"] = peak_memory_gb(world.device)
        figures["step_profile"] = _profile(run, batches[:PROFILED])
        if world.is_main:
            write_json(out, figures)
            _print(figures)
    return figures


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _time_epoch(run: Trainer) -> dict[str, float]:
    """A whole epoch through the loader, as training runs it."""
    steps: list[float] = []
    started = last = time.perf_counter()
    for parts in run.loader.epoch(2):
        run.step(*parts)["loss"].item()
        now = time.perf_counter()
        steps.append(now - last)
        last = now
    seconds = last - started
    return {
        "epoch_seconds": seconds,
        "step_ms_median": 1e3 * statistics.median(steps),
        "targets_per_second": run.loader.windows.n_targets / seconds,
        "users_per_second": len(run.loader.windows) / seconds,
    }


def _count_flops(run: Trainer, batches: list[Batch], figures: dict[str, Any]) -> dict[str, float]:
    """Matrix-product FLOPs of an epoch, counted, against what the peak would do in the epoch's time."""
    counter = FlopCounterMode(display=False)
    with counter:
        for batch in batches[:PROFILED]:
            run.step(batch)
    flops = counter.get_total_flops() * len(batches) / min(PROFILED, len(batches))
    rate = flops / figures["epoch_seconds"]
    return {"epoch_gflop": flops / 1e9, "share_of_gemm_peak": rate / (figures["gemm_peak_gflops"] * 1e9)}


def _profile(run: Trainer, batches: list[Batch]) -> dict[str, float]:
    """Share of a step's time by kind of operation, from the profiler's self times."""
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        for batch in batches:
            run.step(batch)
    shares = dict.fromkeys([*GROUPS, "elementwise and other"], 0.0)
    by_operation: dict[str, float] = {}
    for event in trace.key_averages():
        if event.device_type != DeviceType.CPU:
            continue
        name = event.key.removeprefix("aten::").removeprefix("fbgemm::")
        group = next((g for g, names in GROUPS.items() if name in names), "elementwise and other")
        shares[group] += event.self_cpu_time_total
        by_operation[event.key] = event.self_cpu_time_total
    total = sum(shares.values())
    log.info("largest operations: %s", sorted(by_operation.items(), key=lambda item: -item[1])[:12])
    return {name: value / total for name, value in shares.items()}


def _print(figures: dict[str, Any]) -> None:
    table = Table("figure", "value", title=f"{figures['machine']['device']}, {figures['machine']['threads']} threads")
    for name, value in figures.items():
        if isinstance(value, float):
            table.add_row(name, f"{value:,.3f}")
    for name, value in figures["step_profile"].items():
        table.add_row(f"step: {name}", f"{value:.1%}")
    Console().print(table)
