"""`python -m benchmarks.speed catalogue`: a catalogue of any size through the whole line on one machine: generate → index → train →
evaluate → export → recommend → serve.

The generator's own catalogue becomes the dataset as a whole, items that nobody has had among them, which `intrr prepare` would
drop: what is to be shown is a large catalogue under few users. Each stage is the command a user would give, on the ranks of a local
torchrun where it takes several; a finished stage is not run again, and one that was killed goes on where the verb can.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed.machine import describe
from benchmarks.speed.page import row, write_section
from benchmarks.speed.serving import Client, serving_process
from intrr_rec.config import PrepareConfig, load_recipe
from intrr_rec.data.dataset import ITEMS, KIND, STATISTICS, USERS
from intrr_rec.data.prepare.writer import Sequences, write_rows
from intrr_rec.data.synthetic.generator import World, generate_logs
from intrr_rec.errors import ConfigError
from intrr_rec.io import artefact
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.runs.run_files import PLAN_FIGURES, RESULTS

EVENTS = 12  # of a user, on average
BLOCK = 1 << 15
REQUESTS = 50
LOGS, DATASET, SEMANTIC_IDS, RUN, BUNDLE = "logs", "dataset", "semantic_ids", "run", "bundle"
FIGURES = "figures.json"


def bench_catalogue(
    config: Path,
    words: Sequence[str],
    *,
    items: int,
    users: int,
    work: Path,
    ranks: int,
    seed: int = 0,
    page: Path | None = None,
) -> dict[str, Any]:
    """Run the line in `work`, print seconds and peak memory of each stage, write `figures.json` there.

    Args:
        config, words: recipe and settings of index, training and evaluation; one epoch of `train.batch_users` users a step is what
            makes the steps.
        items: of the catalogue.
        users: whose histories are learnt from, and evaluated.
        ranks: processes that index, train, evaluate, export and recommend together, one thread each.
        page: a Markdown file whose section `catalogue` gets the figures.

    Raises:
        ConfigError: a stage failed; it was told why.
    """
    work.mkdir(parents=True, exist_ok=True)
    file = work / FIGURES
    figures: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"stages": {}}
    for name, line in _stages(config, words, items, users, work, ranks, seed).items():
        if name not in figures["stages"]:
            figures["stages"][name] = _timed(name, line)
            machine = describe(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
            figures |= {"machine": machine | {"date": f"{date.today():%Y-%m-%d}"}, "ranks": ranks}
            figures |= {"command": shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])}
            figures |= {"items": items, "users": users}
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


def _stages(
    config: Path, words: Sequence[str], items: int, users: int, work: Path, ranks: int, seed: int
) -> dict[str, list[str]]:
    """The command of each stage."""
    one, several = [sys.executable, "-m"], [sys.executable, "-m"]
    if ranks > 1:
        several += [
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={ranks}",
            "--no-python",
            sys.executable,
            "-m",
        ]
    recipe = ["--config", str(config), *words]
    dataset, vectors = ["--dataset", str(work / DATASET)], ["--vectors", str(work / LOGS / "vectors")]
    ids, bundle = str(work / SEMANTIC_IDS), str(work / BUNDLE)
    needs_vectors = vectors if load_recipe(config, words).model.content else []
    return {
        "generate": [*one, "benchmarks.speed.catalogue", "generate", str(work), str(items), str(users), str(seed)],
        "index": [*several, "intrr_rec", "index", *dataset, *vectors, "--out", ids, *recipe],
        "train": [
            *several, "intrr_rec", "train", *dataset, *needs_vectors, "--semantic-ids", ids, "--out", str(work / RUN), *recipe
        ],
        "evaluate": [*several, "intrr_rec", "evaluate", str(work / RUN)],
        "export": [*several, "intrr_rec", "export", str(work / RUN), "--out", bundle],
        "recommend": [
            *several, "intrr_rec", "recommend", "--bundle", bundle, *dataset, "--out", str(work / "recommendations"), "-k", "10"
        ],
        "serve": [*one, "benchmarks.speed.catalogue", "serve", bundle],
    }  # fmt: skip


def _timed(name: str, line: Sequence[str]) -> dict[str, float]:
    """What a command took: on the clock, of the processor by all its processes, and the peak memory of the largest of them.

    Raises:
        ConfigError: it failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(line, env=os.environ | {"OMP_NUM_THREADS": "1"})
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ConfigError(f"catalogue: {name} ended with {process.returncode}; call again to go on: {shlex.join(line)}")
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss / 2**20,  # KiB
    }


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
        draft.hashes.update(Sequences(draft.path, users, total).write(batches))
        for file, count, names in ((USERS, users, ("user", "user_id")), (ITEMS, items, ("item", "item_id"))):
            schema = pa.schema([(name, pa.int64()) for name in (*names, *(() if file == USERS else ("first_seen",)))])
            write_rows(rows(count, *names), schema, draft.path / file)
        counts = {"users": users, "items": items, "interactions": total}
        write_json(draft.path / STATISTICS, counts)
        draft.counts.update(counts)


def generate(work: Path, items: int, users: int, seed: int) -> None:
    """Logs, vectors and the dataset of the whole catalogue."""
    generate_logs(work / LOGS, n_users=users, n_items=items, seed=seed, events_per_user=EVENTS)
    write_catalogue(work / DATASET, items=items, users=users, seed=seed)


def serve(bundle: Path) -> None:
    """Start a server, ask it `REQUESTS` times, stop it.

    Raises:
        ConfigError: a request that was not answered.
    """
    with serving_process(bundle, ()) as (port, _):
        statuses = asyncio.run(_ask(Client(port)))
    if set(statuses) != {200}:
        raise ConfigError(f"catalogue: the server answered {sorted(set(statuses))}")


async def _ask(client: Client) -> list[int]:
    asked = [json.dumps({"history": list(range(1 + n % 9)), "k": 10}).encode() for n in range(REQUESTS)]
    statuses = [await client.post("/recommend", body) for body in asked]
    client.close()
    return statuses


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
    title = f"{figures['items']:,} items, {figures['users']:,} users; {machine['device']}, {figures['ranks']} rank(s)"
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
        f"{machine['date']}, {machine['device']}, {figures['ranks']} rank(s) of one thread, torch {machine['torch']}, code "
        f"{machine['code']}; {figures['items']:,} items, {figures['users']:,} users.",
        "",
        f"```\n{figures['command']}\n```",
        "",
        "| stage | seconds | of the processor | peak GiB of a process |",
        "|---|---:|---:|---:|",
        *map(row, _rows(figures)),
        "",
        " ".join(_closing(figures)),
    ]


if __name__ == "__main__":
    if sys.argv[1] == "generate":
        generate(Path(sys.argv[2]), *map(int, sys.argv[3:]))
    else:
        serve(Path(sys.argv[2]))
