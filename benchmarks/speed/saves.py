"""`python -m benchmarks.speed saves`: how long training stops for each checkpoint of a large table, and how many bytes a save moves.

Semantic IDs are random and in memory; the table has as many rows as make its weights `gb`. Each save is the best so far, and the one before
it has been written when it begins: what is timed is the copy in memory, as in a run whose saves lie further apart than a write takes.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.speed.machine import describe, memory_gb, peak_memory_gb
from benchmarks.speed.page import row, write_section
from benchmarks.speed.ranks import batches
from intrr_rec.config import Recipe
from intrr_rec.distributed.parallelize import META, Parallel, parallelize
from intrr_rec.distributed.world import World, join_world
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.models.registry import make_model
from intrr_rec.runs.checkpoints import Checkpoints
from intrr_rec.runs.run_files import CHECKPOINTS
from intrr_rec.training.step import TrainingStep

SECTION = "saves of a large table"
KEEP = 1


def bench_saves(recipe: Recipe, *, gb: float, saves: int, out: Path, page: Path | None) -> dict[str, Any]:
    """Save again and again, print the figures, write them to `out` (JSON) and, where given, to a section of `page`.

    Args:
        recipe: its model and sharding; the paper's model without content.
        gb: of the weights of the item table, 10⁹ bytes.
        saves: how many; the first has no copy of an earlier one to write over.
    """
    rows = round(gb * 1e9 / (4 * recipe.model.width))
    codes = [*recipe.index.sizes, recipe.index.dedup_codes]
    rng = np.random.default_rng(recipe.train.seed)
    codes_IL = torch.from_numpy(np.stack([rng.integers(k, size=rows, dtype=np.int32) for k in codes], axis=1))
    shares = batches(recipe, 1_000, 1 + saves)
    with join_world() as world:
        torch.manual_seed(recipe.train.seed)
        parallel = parallelize(make_model(recipe.model, codes_IL, codes, None, META), world, recipe)
        parallel.module.train()
        step = TrainingStep(parallel, recipe.train, world)
        step([shares[0]], 0)
        before = memory_gb(world.device)
        with tempfile.TemporaryDirectory(dir=out.absolute().parent) as folder:
            found = _save(parallel, world, Path(folder), saves, lambda number: step([shares[number]], number))
        peak = peak_memory_gb(world.device)
    machine = describe(world.device) | {"date": f"{date.today():%Y-%m-%d}"}
    command = shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])
    figures = {"machine": machine, "command": command, "recipe": recipe.model_dump(mode="json"), "rows": rows}
    figures |= {"before_gb": before, "peak_gb": peak, "saves": found}
    write_json(out, figures)
    Console().print(figures["saves"], f"memory before and at the peak, GiB: {before:.2f}, {peak:.2f}")
    if page is not None:
        _write(page, figures)
    return figures


def _save(parallel: Parallel, world: World, run: Path, saves: int, step: Any) -> list[dict[str, float]]:
    found = []
    with Checkpoints(run, parallel, world) as checkpoints:
        for number in range(1, saves + 1):
            step(number)
            handed, started = _handed_to_write(), time.perf_counter()
            processor = time.thread_time()
            checkpoints.save({"step": number}, KEEP, best=True)
            stopped, processor = time.perf_counter() - started, time.thread_time() - processor
            checkpoints.wait()
            newest = run / CHECKPOINTS / f"step-{number:08d}"
            state = sum(file.stat().st_size for file in newest.iterdir())
            found.append(
                {
                    "stops_seconds": stopped,
                    "stops_processor_seconds": processor,
                    "written_seconds": time.perf_counter() - started,
                    "state_gb": state / 1e9,
                    "written_gb": (_handed_to_write() - handed) / 1e9,
                    "on_disk_gb": _on_disk(run / CHECKPOINTS) / 1e9,
                }
            )
    return found


def _handed_to_write() -> int:
    """Bytes that this process has handed to the system to write, to files and else."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar"))


def _on_disk(folder: Path) -> int:
    """Bytes of the files below a folder, each counted once whatever names it has."""
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum({(stat.st_dev, stat.st_ino): stat.st_size for stat in stats}.values())


def _write(page: Path, figures: dict[str, Any]) -> None:
    machine = figures["machine"]
    told = f"Written by this command: {machine['date']}, {machine['device']}, torch {machine['torch']}, code {machine['code']}."
    words = (
        f"{figures['rows']:,} items, one rank, a step between saves, each save the best so far, `keep` {KEEP}, to a local disk. *Stops*: until "
        "the next step may begin. *Written*: until the checkpoint is whole. *Moved*: bytes handed to the system to write over bytes of the "
        f"checkpoint. *On disk*: both names together over the same. Memory of the process, GiB: {figures['before_gb']:.2f} before the first save, "
        f"{figures['peak_gb']:.2f} at the peak."
    )
    table = [
        row(["save", "state, GB", "stops, s", "written, s", "moved, × state", "on disk, × state"]),
        "|" + "---:|" * 6,
    ]
    for number, save in enumerate(figures["saves"], 1):
        ratios = [save[name] / save["state_gb"] for name in ("written_gb", "on_disk_gb")]
        seconds = [save["stops_seconds"], save["written_seconds"]]
        cells = [f"{value:.2f}" for value in (save["state_gb"], *seconds, *ratios)]
        table.append(row([str(number), *cells]))
    write_section(page, SECTION, [told, "", "```", figures["command"], "```", "", words, "", *table])
