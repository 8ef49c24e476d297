"""`python -m benchmarks.speed catalogue`: a catalogue of any size through the whole line on one machine: generate → index → train → evaluate.

The generator's own catalogue becomes the dataset as a whole, items that nobody has had among them, which `intrr prepare` would
drop: what is to be shown is a large catalogue under few users. Each stage is a process of its own, so that its peak memory is
its own, and a finished stage is not run again.
"""

from __future__ import annotations

import json
import multiprocessing
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed.machine import describe, peak_memory_gb, quiet
from benchmarks.speed.page import row, write_section
from intrr_rec.config import PrepareConfig, Recipe
from intrr_rec.data.dataset import ITEMS, KIND, SEQUENCES, STATISTICS, USERS
from intrr_rec.data.prepare.writer import write_rows, write_sequences
from intrr_rec.data.synthetic.generator import World, generate_logs
from intrr_rec.io import artefact
from intrr_rec.io.atomic import write_json
from intrr_rec.runs.run_files import PLAN_FIGURES, RESULTS
from intrr_rec.semantic_ids.build import build_semantic_ids
from intrr_rec.training.trainer import train

EVENTS = 12  # of a user, on average
BLOCK = 1 << 15
LOGS, DATASET, SEMANTIC_IDS, RUN, FIGURES = "logs", "dataset", "semantic_ids", "run", "figures.json"


def bench_catalogue(
    recipe: Recipe, *, items: int, users: int, work: Path, threads: int, seed: int = 0, page: Path | None = None
) -> dict[str, Any]:
    """Run the line in `work`, print seconds and peak memory of each stage, write `figures.json` there.

    Args:
        recipe: index, model, training and evaluation; one epoch of `train.batch_users` users a step is what makes the steps.
        items: of the catalogue.
        users: whose histories are learnt from, and evaluated.
        page: a Markdown file whose section `catalogue` gets the figures.

    Raises:
        ConfigError, ArtefactError: as the verbs of the stages.
    """
    work.mkdir(parents=True, exist_ok=True)
    stages: dict[str, Callable[[], None]] = {
        "generate": _Generate(work, items, users, seed),
        "index": _Index(work, recipe),
        "train and evaluate": _Train(work, recipe),
    }
    file = work / FIGURES
    figures: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"stages": {}}
    spawn = multiprocessing.get_context("spawn")
    for name, stage in stages.items():
        if name not in figures["stages"]:
            with ProcessPoolExecutor(1, mp_context=spawn, initializer=quiet) as process:
                figures["stages"][name] = process.submit(_timed, stage, threads).result()
            machine = describe(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            figures |= {"machine": machine | {"threads": threads, "date": f"{date.today():%Y-%m-%d}"}}
            figures |= {"command": shlex.join(["intrr", *sys.argv[1:]]), "items": items, "users": users}
            write_json(file, figures)
    results = json.loads((work / RUN / RESULTS).read_text())
    figures |= {"test": results["test"], "most_popular": results["baseline"]["metrics"]}
    plan = json.loads((work / RUN / PLAN_FIGURES).read_text())
    figures |= {key: plan[key] for key in ("start_seconds", "start_processor_seconds")}
    write_json(file, figures)
    _print(figures)
    if page:
        write_section(page, "catalogue", _section(figures))
    return figures


def write_catalogue(out: Path, *, items: int, users: int, seed: int) -> None:
    """The generator's whole catalogue and some users' histories as a dataset artefact: an item's own id is its dense one."""
    world = World(n_items=items, seed=seed, events_per_user=EVENTS)
    events = [world.interactions(np.arange(first, min(first + BLOCK, users))) for first in range(0, users, BLOCK)]
    columns = {"user_id": "user", "item_id": "item", "timestamp": "time"}

    def rows(count: int, *names: str) -> Iterator[pa.RecordBatch]:
        for first in range(0, count, BLOCK):
            ids = pa.array(np.arange(first, min(first + BLOCK, count)))
            columns = dict.fromkeys(names, ids)
            if "item_id" in names:
                columns["first_seen"] = pa.nulls(len(ids), pa.int64())
            yield pa.record_batch(columns)

    with artefact.writing(out, KIND, PrepareConfig().model_dump(mode="json")) as draft:
        total = sum(len(table) for table in events)
        batches = (
            batch
            for table in events
            for batch in table.rename_columns([columns[n] for n in table.column_names]).to_batches()
        )
        write_sequences(batches, draft.path / SEQUENCES / "part-00000.parquet", total)
        for file, count, names in ((USERS, users, ("user", "user_id")), (ITEMS, items, ("item", "item_id"))):
            schema = pa.schema([(name, pa.int64()) for name in (*names, *(() if file == USERS else ("first_seen",)))])
            write_rows(rows(count, *names), schema, draft.path / file)
        counts = {"users": users, "items": items, "interactions": total}
        write_json(draft.path / STATISTICS, counts)
        draft.counts.update(counts)


class _Generate:
    def __init__(self, work: Path, items: int, users: int, seed: int) -> None:
        self.work, self.items, self.users, self.seed = work, items, users, seed

    def __call__(self) -> None:
        generate_logs(self.work / LOGS, n_users=self.users, n_items=self.items, seed=self.seed, events_per_user=EVENTS)
        write_catalogue(self.work / DATASET, items=self.items, users=self.users, seed=self.seed)


class _Index:
    def __init__(self, work: Path, recipe: Recipe) -> None:
        self.work, self.recipe = work, recipe

    def __call__(self) -> None:
        vectors = self.work / LOGS / "vectors"
        build_semantic_ids(self.work / DATASET, vectors, self.work / SEMANTIC_IDS, self.recipe.index)


class _Train:
    def __init__(self, work: Path, recipe: Recipe) -> None:
        self.work, self.recipe = work, recipe

    def __call__(self) -> None:
        work = self.work
        dataset, ids, vectors = work / DATASET, work / SEMANTIC_IDS, work / LOGS / "vectors"
        train(self.recipe, dataset=dataset, semantic_ids=ids, vectors=vectors, out=work / RUN)


def _timed(stage: Callable[[], None], threads: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    started, computed = time.perf_counter(), time.process_time()
    stage()
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - computed,
        "peak_gb": peak_memory_gb(torch.device("cpu")),
    }


def _rows(figures: dict[str, Any]) -> list[tuple[str, ...]]:
    keys = ("seconds", "processor_seconds", "peak_gb")
    return [(name, *(f"{stage[key]:,.1f}" for key in keys)) for name, stage in figures["stages"].items()]


def _closing(figures: dict[str, Any]) -> list[str]:
    """What is said of the run as a whole."""
    test, popular = figures["test"], figures["most_popular"]
    return [
        f"From asking for the model until its tables could be trained: {figures['start_seconds']:.1f} s, "
        f"{figures['start_processor_seconds']:.1f} of the processor.",
        *(f"Test {name} {test[name]:.5f}, most popular {popular[name]:.5f}." for name in ("recall@10", "ndcg@10")),
    ]


def _print(figures: dict[str, Any]) -> None:
    machine = figures["machine"]
    title = (
        f"{figures['items']:,} items, {figures['users']:,} users; {machine['device']}, {machine['threads']} thread(s)"
    )
    table = Table("stage", "seconds", "of the processor", "peak GiB", title=title)
    for cells in _rows(figures):
        table.add_row(*cells)
    console = Console()
    console.print(table)
    for line in _closing(figures):
        console.print(line)


def _section(figures: dict[str, Any]) -> list[str]:
    machine = figures["machine"]
    return [
        f"{machine['date']}, {machine['device']}, {machine['threads']} thread(s), torch {machine['torch']}, code "
        f"{machine['code']}; {figures['items']:,} items, {figures['users']:,} users.",
        "",
        f"```\n{figures['command']}\n```",
        "",
        "| stage | seconds | of the processor | peak GiB |",
        "|---|---:|---:|---:|",
        *map(row, _rows(figures)),
        "",
        " ".join(_closing(figures)),
    ]
