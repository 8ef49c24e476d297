"""`python -m benchmarks.speed scaling`: what a training step, a start, a save and the memory cost as the catalogue grows and the batch stays;
and what a second rank costs.

Semantic IDs and histories are random and in memory: only sizes matter here, and every size is asked for the same items, spread
over its table. Each size is measured in a process of its own, so that its peak memory is its own; a size that does not fit is
listed with the line that refused it.
"""

from __future__ import annotations

import logging
import multiprocessing
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed.machine import describe, memory_gb, peak_memory_gb, quiet
from benchmarks.speed.ranks import WARM_UP, batches, measure_ranks, timed_steps
from intrr_rec.config import Recipe
from intrr_rec.distributed.parallelize import META, Parallel, parallelize
from intrr_rec.distributed.world import World, join_world
from intrr_rec.errors import ConfigError
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.models.registry import make_model
from intrr_rec.runs.checkpoints import Checkpoints
from intrr_rec.training.step import TrainingStep

ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
RANKS = (1, 2)


def bench_scaling(recipe: Recipe, *, rows: Sequence[int], steps: int, threads: int, out: Path) -> dict[str, Any]:
    """Measure each size, print a table, write all figures to `out` (JSON).

    Args:
        recipe: its model, batch and sharding; the paper's model without content.
        rows: sizes of the catalogue.
        steps: measured a size; their median is reported.
        threads: of the process.

    Raises:
        ConfigError: a model that needs more than Semantic IDs and histories.
    """
    if recipe.model.kind != "intrr" or recipe.model.content or recipe.model.reads_times or recipe.model.dense.weight:
        raise ConfigError(
            "bench scaling: takes model.kind=intrr without model.content, model.hstu.time_bias and model.dense.weight"
        )
    sizes = []
    spawn = multiprocessing.get_context("spawn")
    for size in rows:
        with ProcessPoolExecutor(1, mp_context=spawn, initializer=quiet, initargs=(threads,)) as process:
            sizes.append(process.submit(_measure, recipe, size, min(rows), steps, out.absolute().parent).result())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = describe(device) | {"threads": threads, "date": f"{date.today():%Y-%m-%d}"}
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    figures = {
        "machine": machine,
        "command": shlex.join(["intrr", *sys.argv[1:]]),
        "recipe": recipe.model_dump(mode="json"),
        "steps": steps,
        "sizes": sizes,
        "ranks": measure_ranks(recipe, rows=min(rows), ranks=RANKS, steps=steps, threads=1),
    }
    write_json(out, figures)
    _print(figures)
    return figures


def _measure(recipe: Recipe, rows: int, smallest: int, steps: int, scratch: Path) -> dict[str, Any]:
    """One size, by the batches of the smallest; `scratch` is a folder for a checkpoint of it."""
    codes = [*recipe.index.sizes, recipe.index.dedup_codes]
    rng = np.random.default_rng(recipe.train.seed)
    codes_IL = torch.from_numpy(np.stack([rng.integers(k, size=rows) for k in codes], axis=1))
    shares = batches(recipe, smallest, WARM_UP + steps, apart=rows // smallest)
    with join_world() as world:
        before = memory_gb(world.device)
        started = time.perf_counter()
        torch.manual_seed(recipe.train.seed)
        try:
            parallel = parallelize(make_model(recipe.model, codes_IL, codes, None, META), world, recipe)
        except ConfigError as error:
            return {"rows": rows, "refused": str(error)}
        start_seconds = time.perf_counter() - started
        parallel.module.train()
        step_ms = timed_steps(TrainingStep(parallel, recipe.train, world), shares)
        peak_gb = peak_memory_gb(world.device)
        return {
            "rows": rows,
            "sharding": parallel.plan.tables[0].sharding,
            "planned_gb": parallel.plan.total.device / 2**30,
            "start_seconds": start_seconds,
            "step_ms": step_ms,
            "before_gb": before,
            "peak_gb": peak_gb,
            **_time_saves(parallel, world, scratch),
        }


def _time_saves(parallel: Parallel, world: World, scratch: Path) -> dict[str, float]:
    """How long training stops for a save that is written beside it, and for one that it waits for."""
    found = {}
    with tempfile.TemporaryDirectory(dir=scratch) as folder, Checkpoints(Path(folder), parallel, world) as checkpoints:
        for step, (name, wait) in enumerate({"save_stops_seconds": False, "save_seconds": True}.items(), 1):
            checkpoints.wait()
            started = time.perf_counter()
            checkpoints.save({"step": step}, 1, wait=wait)
            found[name] = time.perf_counter() - started
    return found


def _print(figures: dict[str, Any]) -> None:
    machine = figures["machine"]
    table = Table(
        "items", "sharding", "start s", "step ms", "before", "peak", "planned", "save stops s", "save s",
        title=f"{machine['device']}, {machine['threads']} threads; memory in GiB",
    )  # fmt: skip
    for size in figures["sizes"]:
        if "refused" in size:
            table.add_row(f"{size['rows']:,}", "refused: does not fit")
            continue
        names = ["start_seconds", "step_ms", "before_gb", "peak_gb", "planned_gb", "save_stops_seconds", "save_seconds"]
        table.add_row(f"{size['rows']:,}", size["sharding"], *(f"{size[name]:,.2f}" for name in names))
    console = Console()
    console.print(table)
    for size in figures["sizes"]:
        if "refused" in size:
            console.print(f"{size['rows']:,} items: {size['refused']}")
