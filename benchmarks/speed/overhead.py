"""`python -m benchmarks.speed overhead`: processor time of a training step so small that hardly anything is computed in it."""

from __future__ import annotations

import shlex
import statistics
import sys
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.speed.machine import describe, threads
from benchmarks.speed.page import row, write_section
from benchmarks.speed.ranks import batches
from intrr_rec.config import Recipe
from intrr_rec.distributed.parallelize import META, parallelize
from intrr_rec.distributed.world import join_world
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.models.registry import make_model
from intrr_rec.training.step import TrainingStep

WARM_UP = 15
SECTION = "overhead of a step"


@threads(1)
def bench_overhead(recipe: Recipe, *, rows: int, steps: int, out: Path, page: Path | None) -> dict[str, Any]:
    """Measure on one thread, print, write the figures to `out` (JSON) and a section of `page`.

    Args:
        recipe: of few users and a small width, so that what is left is overhead.
        rows: of the catalogue.
        steps: measured; quartiles are reported.
    """
    sizes = [*recipe.index.sizes, recipe.index.dedup_codes]
    rng = np.random.default_rng(recipe.train.seed)
    codes_IL = torch.from_numpy(np.stack([rng.integers(size, size=rows) for size in sizes], axis=1))
    shares = batches(recipe, rows, 1 + WARM_UP + steps)
    with join_world() as world:
        torch.manual_seed(recipe.train.seed)
        parallel = parallelize(make_model(recipe.model, codes_IL, sizes, None, META), world, recipe)
        parallel.module.train()
        step = TrainingStep(parallel, recipe.train, world)
        spent = []
        for number, batch in enumerate(shares[1:]):
            started = time.process_time()
            step([batch], number)
            spent.append(1e3 * (time.process_time() - started))
        with _Operations() as operations:
            step([shares[0]], len(shares))
    quartiles = statistics.quantiles(spent[WARM_UP:], n=4)
    machine = describe(torch.device("cpu")) | {"date": f"{date.today():%Y-%m-%d}"}
    command = shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])
    found = {"machine": machine, "command": command, "recipe": recipe.model_dump(mode="json"), "rows": rows}
    found |= {
        "step_ms": dict(zip(("lower", "median", "upper"), quartiles, strict=True)),
        "operations": operations.called.total(),
    }
    write_json(out, found)
    Console().print(
        f"processor ms a step: {quartiles[1]:.2f} (quartiles {quartiles[0]:.2f} and {quartiles[2]:.2f}); {operations.called.total()} operations"
    )
    if page is not None:
        told = f"Written by this command: {machine['date']}, {machine['device']}, torch {machine['torch']}, code {machine['code']}."
        users, model = recipe.train.batch_users, recipe.model
        words = (
            f"Processor time of a training step of one rank on one thread: {users} users, N = {model.window}, width {model.width}, "
            f"{steps} steps after a warm-up, batches made before. Operations are those that reach a kernel."
        )
        table = [row(["median, ms", "quartiles, ms", "operations"]), "|---:|---:|---:|"]
        table += [
            row([f"{quartiles[1]:.2f}", f"{quartiles[0]:.2f} to {quartiles[2]:.2f}", str(operations.called.total())])
        ]
        write_section(page, SECTION, [told, "", "```", command, "```", "", words, "", *table])
    return found


class _Operations(TorchDispatchMode):
    """Counts the operations of its block."""

    def __init__(self) -> None:
        super().__init__()
        self.called: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.called[str(func)] += 1
        return func(*args, **(kwargs or {}))
