"""`python -m benchmarks.speed features`: a training step with four features of events and six of items beside the same without.

Both models are of one generated dataset and take blocks of steps in turn, so that a machine that drifts is as slow for each; the first step
of a block finds caches and memory as the other model left them, and is not counted. Figures are medians of processor time, of the step's
thread and of the one that makes batches.
"""

from __future__ import annotations

import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.speed.machine import describe
from intrr_rec.config import IndexConfig, PrepareConfig, Recipe
from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.data.synthetic.generator import World
from intrr_rec.distributed.world import join_world
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.semantic_ids.build import build_semantic_ids
from intrr_rec.training.trainer import Trainer

BLOCK = 6  # steps
OF_EVENTS = {
    "action": "categorical",
    "surface": {"kind": "categorical", "hash_buckets": 64},
    "dwell": "numeric",
    "clock": {"kind": "timestamp_parts", "parts": ["hour"]},
}
OF_ITEMS = {
    "brand": "categorical",
    "seller": {"kind": "categorical", "hash_buckets": 1024},
    "price": {"kind": "numeric", "scale": "log"},
    "stocked": "boolean",
    "tags": "multi_categorical",
    "season": "categorical",
}


def bench_features(recipe: Recipe, *, users: int, items: int, steps: int, out: Path) -> dict[str, Any]:
    """Measure, print, and write the figures to `out` (JSON).

    Args:
        recipe: of the model; `model.features` is set for each of the two.
        users, items: of the generated logs.
        steps: of each model, about.
    """
    with tempfile.TemporaryDirectory() as scratch, join_world() as world:
        paths = _line(Path(scratch), users, items)
        runs = {}
        for name, features in (("with", None), ("without", [])):
            model = recipe.model.model_copy(update={"features": features})
            inputs = open_inputs(recipe.model_copy(update={"model": model}), *paths)
            runs[name] = Trainer(inputs, Path(scratch) / name, world)
            runs[name].parallel.module.train()
        spent: dict[str, list[float]] = {name: [] for name in runs}
        feeds = {name: _batches(run) for name, run in runs.items()}
        for block in range(1 + -(-steps // (BLOCK - 1))):
            for name, run in runs.items():
                for place in range(BLOCK):
                    started = time.process_time()
                    run.step(next(feeds[name]))
                    if block and place:
                        spent[name].append(1e3 * (time.process_time() - started))
    quartiles = {name: statistics.quantiles(times, n=4) for name, times in spent.items()}
    found = {
        "machine": describe(torch.device("cpu")),
        "command": shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]]),
        "recipe": recipe.model_dump(mode="json"),
        "step_ms": {
            name: dict(zip(("lower", "median", "upper"), each, strict=True)) for name, each in quartiles.items()
        },
        "ratio": quartiles["with"][1] / quartiles["without"][1],
    }
    write_json(out, found)
    print(
        f"processor ms a step: {quartiles['with'][1]:.1f} with, {quartiles['without'][1]:.1f} without: {found['ratio']:.2f} times"
    )
    return found


def _batches(run: Trainer) -> Iterator[Batch]:
    return chain.from_iterable(chain.from_iterable(run.loader.epoch(epoch) for epoch in count(1)))


def _line(folder: Path, users: int, items: int) -> tuple[Path, Path, Path]:
    """Dataset, Semantic IDs and vectors of generated logs whose features tell nothing."""
    rng, world = np.random.default_rng(0), World(n_items=items, seed=0, dimension=32, features=True)
    log, every = world.interactions(np.arange(users)).drop(["device"]), np.arange(items)
    log = log.append_column("surface", pa.array([f"s{n}" for n in rng.integers(0, 200, len(log))]))
    pq.write_table(log.append_column("dwell", pa.array(rng.exponential(30, len(log)))), folder / "logs.parquet")
    table = world.items(every)
    columns = {
        "seller": pa.array([f"seller {n}" for n in rng.zipf(1.5, items)]),
        "price": pa.array(rng.lognormal(3, 1, items)),
        "stocked": pa.array(rng.random(items) < 0.9),
        "tags": pa.array([[f"t{n}" for n in rng.integers(0, 50, rng.integers(0, 5))] for _ in every]),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    pq.write_table(table, folder / "items.parquet")
    pq.write_table(world.vectors(every), folder / "vectors.parquet")
    config = PrepareConfig.model_validate({"features": {"event": OF_EVENTS, "item": OF_ITEMS}})
    prepare_dataset([folder / "logs.parquet"], folder / "items.parquet", folder / "dataset", config)
    build_semantic_ids(
        folder / "dataset", folder / "vectors.parquet", folder / "ids", IndexConfig(codes=min(64, items // 25))
    )
    return folder / "dataset", folder / "ids", folder / "vectors.parquet"
