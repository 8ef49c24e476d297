"""`intrr bench scaling`: what a training step, a start and the memory cost as the catalogue grows and the batch stays.

Semantic IDs and histories are random and in memory: only sizes matter here. Each size is measured in a process of its own,
so that its peak memory is its own; a size that does not fit is listed with the line that refused it.
"""

from __future__ import annotations

import logging
import multiprocessing
import statistics
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from intrr_rec.artefact import write_json
from intrr_rec.bench.machine import describe, memory_gb, peak_memory_gb, synchronize
from intrr_rec.config import Recipe
from intrr_rec.data.batch import Batch, Collator
from intrr_rec.data.windows import Windows
from intrr_rec.errors import ConfigError
from intrr_rec.parallel.apply import META, parallelize
from intrr_rec.parallel.topology import join_world
from intrr_rec.training.inputs import make_model

ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
WARM_UP = 2


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
        with ProcessPoolExecutor(1, mp_context=spawn, initializer=quiet) as process:
            sizes.append(process.submit(_measure, recipe, size, steps, threads).result())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = describe(device) | {"threads": threads}
    figures = {"machine": machine, "recipe": recipe.model_dump(mode="json"), "steps": steps, "sizes": sizes}
    write_json(out, figures)
    _print(figures)
    return figures


def quiet() -> None:
    """What the command line does for its own process: deprecations of torch and TorchRec are not the user's to mend."""
    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("torch").setLevel(logging.ERROR)
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def _measure(recipe: Recipe, rows: int, steps: int, threads: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    codes = [*recipe.index.sizes, recipe.index.dedup_codes]
    rng = np.random.default_rng(recipe.train.seed)
    codes_IL = torch.from_numpy(np.stack([rng.integers(k, size=rows) for k in codes], axis=1))
    batches = _batches(recipe, rows, WARM_UP + steps, rng)
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
        seconds = []
        for batch in batches:
            synchronize(world.device)
            started = time.perf_counter()
            loss = parallel.module(batch.to(world.device))["loss"]
            parallel.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            parallel.optimizer.step()
            synchronize(world.device)
            seconds.append(time.perf_counter() - started)
        return {
            "rows": rows,
            "sharding": parallel.plan.tables[0].sharding,
            "planned_gb": parallel.plan.total.device / 2**30,
            "start_seconds": start_seconds,
            "step_ms": 1e3 * statistics.median(seconds[WARM_UP:]),
            "before_gb": before,
            "peak_gb": peak_memory_gb(world.device),
        }


def _batches(recipe: Recipe, rows: int, count: int, rng: np.random.Generator) -> list[Batch]:
    """Full windows of random items, none seen twice."""
    users, length = recipe.train.batch_users, recipe.model.window
    items_E = rng.integers(rows, size=count * users * length + 1)
    collate = Collator(items_E, length, None, recipe.model.align_average)
    whole = np.arange(count * users)
    windows = Windows(whole, whole * length, np.full(len(whole), length), np.zeros(len(whole), np.int64))
    return [collate(windows.take(part)) for part in whole.reshape(count, users)]


def _print(figures: dict[str, Any]) -> None:
    machine = figures["machine"]
    table = Table(
        "items", "sharding", "start s", "step ms", "before", "peak", "planned",
        title=f"{machine['device']}, {machine['threads']} threads; memory in GiB",
    )  # fmt: skip
    for size in figures["sizes"]:
        if "refused" in size:
            table.add_row(f"{size['rows']:,}", "refused: does not fit")
            continue
        names = ("start_seconds", "step_ms", "before_gb", "peak_gb", "planned_gb")
        table.add_row(f"{size['rows']:,}", size["sharding"], *(f"{size[name]:,.2f}" for name in names))
    console = Console()
    console.print(table)
    for size in figures["sizes"]:
        if "refused" in size:
            console.print(f"{size['rows']:,} items: {size['refused']}")
