"""`python -m benchmarks.speed preparation`: generated logs of any size, prepared by each engine in a process of its own; with
`--days`, a day added to a dataset against the rebuild.

Memory is that of the engine's whole tree of processes (Spark's work is done by a Java child), sampled; seconds are given on
the wall and of the processor, since a machine is seldom idle. The datasets of all engines are compared by content hash.
"""

from __future__ import annotations

import logging
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import psutil
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed.machine import describe
from intrr_rec.data.dataset import KIND
from intrr_rec.data.synthetic.generator import generate_logs
from intrr_rec.errors import DataError
from intrr_rec.io import artefact
from intrr_rec.io.disk.atomic import write_json

log = logging.getLogger(__name__)
EVENTS_PER_USER = 12
EVENTS_PER_ITEM = 100
SAMPLED_EVERY = 0.2  # seconds


def bench_preparation(
    *, rows: int, engines: Sequence[str], master: str, memory_gb: float, seed: int, scratch: Path, out: Path
) -> dict[str, Any]:
    """Generate about `rows` interactions, prepare them by each engine, print a table, write all figures to `out` (JSON).

    Args:
        scratch: a folder that is made for the logs and datasets, and removed after.

    Raises:
        DataError: `scratch` is there already, an engine failed, or engines gave different datasets.
    """
    if scratch.exists():
        raise DataError(f"{scratch}: is there already; name a folder that is not, it is removed after")
    try:
        began = time.perf_counter()
        generate_logs(
            scratch / "logs",
            n_users=max(1, rows // EVENTS_PER_USER),
            n_items=max(10, rows // EVENTS_PER_ITEM),
            seed=seed,
            events_per_user=EVENTS_PER_USER,
            dimension=1,
        )
        figures: dict[str, Any] = {
            "machine": describe(torch.device("cpu")) | {"processors": psutil.cpu_count()},
            "seed": seed,
            "memory_gb": memory_gb,
            "generation_seconds": time.perf_counter() - began,
            "logs_gb": _size_gb(scratch / "logs" / "interactions"),
            "engines": {},
        }
        hashes = {}
        for engine in engines:
            target = scratch / engine
            words = ["--engine", engine, "--master", master, "--memory-gb", str(memory_gb)]
            logs = ["--interactions", str(scratch / "logs" / "interactions")]
            figures["engines"][engine] = _measure(["prepare", *logs, "--out", str(target), *words])
            manifest = artefact.read(target, KIND)
            figures["dataset"], hashes[engine] = manifest.counts, manifest.content_hash
            shutil.rmtree(target)
            write_json(out, figures)
        if len(set(hashes.values())) > 1:
            raise DataError(f"the engines gave different datasets: {hashes}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _print(figures)
    return figures


def bench_append(*, rows: int, days: int, seed: int, scratch: Path, out: Path) -> dict[str, Any]:
    """Add the last day to a dataset of `days` days by `intrr prepare --append`, and prepare all of them anew, in turns, three times.

    The logs are those of the generator, cut in time into days of equally many interactions. Prints the seconds of the processor and writes
    them to `out` (JSON).

    Raises:
        DataError: `scratch` is there already, or a command failed.
    """
    if scratch.exists():
        raise DataError(f"{scratch}: is there already; name a folder that is not, it is removed after")
    try:
        users, items = max(1, rows // EVENTS_PER_USER), max(10, rows // EVENTS_PER_ITEM)
        logs = scratch / "logs"
        generate_logs(logs, n_users=users, n_items=items, seed=seed, events_per_user=EVENTS_PER_USER, dimension=1)
        for part in ("before", "last"):
            (scratch / part).mkdir()
        source = str(logs / "interactions" / "*.parquet")
        files = [scratch / ("before" if day < days else "last") / f"{day:03d}.parquet" for day in range(days + 1)]
        with duckdb.connect() as con:
            con.sql(f"SELECT *, ntile({days + 1}) OVER (ORDER BY timestamp) - 1 AS day FROM '{source}'").create("logs")
            for day, file in enumerate(files):
                con.execute(f"COPY (SELECT * EXCLUDE (day) FROM logs WHERE day = {day}) TO '{file}'")
        before, last = (["--interactions", str(scratch / part)] for part in ("before", "last"))
        keep, dataset = "prepare.keep_rows=true", scratch / "dataset"
        _processor_seconds(["prepare", *before, "--out", str(scratch / "first"), keep])
        figures: dict[str, Any] = {"machine": describe(torch.device("cpu")), "seed": seed, "days": days}
        figures |= {"append": [], "rebuild": []}
        for _ in range(3):
            shutil.rmtree(dataset, ignore_errors=True)
            shutil.copytree(scratch / "first", dataset)
            figures["append"].append(_processor_seconds(["prepare", "--append", *last, "--out", str(dataset)]))
            whole = ["prepare", *before, *last, "--out", str(scratch / "whole"), keep]
            figures["rebuild"].append(_processor_seconds(whole))
        counts = [artefact.read(place, KIND).counts for place in (dataset, scratch / "whole")]
        if counts[0] != counts[1]:
            raise DataError(f"the datasets differ: {counts[0]} and {counts[1]}")
        figures["dataset"] = counts[0]
        write_json(out, figures)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    Console().print({name: figures[name] for name in ("dataset", "append", "rebuild")})
    return figures


def _processor_seconds(words: Sequence[str]) -> float:
    """Of a verb in a process of its own, start and end included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if subprocess.run([sys.executable, "-m", "intrr_rec", *words], check=False).returncode:
        raise DataError(f"intrr {' '.join(words)}: failed; see above")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)


def _measure(words: Sequence[str]) -> dict[str, float]:
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "intrr_rec", *words])
    peak, seconds = 0.0, {}
    root = psutil.Process(process.pid)
    while process.poll() is None:
        held = 0
        for member in _tree(root):
            with suppress(psutil.NoSuchProcess):
                held += member.memory_info().rss
                seconds[member.pid] = sum(member.cpu_times()[:2])
        peak = max(peak, held / 2**30)
        time.sleep(SAMPLED_EVERY)
    if process.returncode:
        raise DataError(f"intrr {' '.join(words)}: failed with exit code {process.returncode}; see above")
    wall = time.perf_counter() - began
    return {"seconds": wall, "processor_seconds": sum(seconds.values()), "peak_memory_gb": peak}


def _tree(root: psutil.Process) -> list[psutil.Process]:
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _size_gb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 2**30


def _print(figures: dict[str, Any]) -> None:
    table = Table("engine", "seconds", "of the processor", "peak memory, GB", title=f"{figures['dataset']}")
    for name, found in figures["engines"].items():
        table.add_row(name, *(f"{found[key]:,.1f}" for key in ("seconds", "processor_seconds", "peak_memory_gb")))
    Console().print(table)
