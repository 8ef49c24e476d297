"""`python -m benchmarks.speed.large_bundle`: what serving costs from a bundle of 10⁷ items beside one of 10⁴, in turns in one process.

The bundles are those of `bytes_per_item`: drawn Semantic IDs, a model of one small layer, so that what grows with the catalogue is
not hidden by the model. Times are of the processor, since a shared machine stretches the clock.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import torch

from benchmarks.speed.machine import describe, threads
from benchmarks.speed.page import row, write_section
from benchmarks.speed.serving import serving_process
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.serving.bundle.item_index import ItemIndex
from intrr_rec.serving.http.backend import Backend
from intrr_rec.serving.http.schemas import RecommendRequest

IDS, HISTORY, BEAM, K, STARTS = 1000, 8, 20, 10, 3
SHARD_EVENTS = 200_000  # of 16,384 users with 12 events each
SECTION = "a large bundle"


def make_bundle(items: int, work: Path) -> Path:
    """A bundle of so many items, where there is none yet."""
    folder = work / str(items)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "bundle").is_dir():
        for verb in ("make", "train", "export"):
            line = [sys.executable, "-m", "benchmarks.speed.bytes_per_item", "--verb", verb, str(items), str(folder)]
            subprocess.run(line, check=True, capture_output=True)
    return folder / "bundle"


def works_of(backend: Backend, rng: np.random.Generator) -> dict[str, Callable[[], object]]:
    """What is timed, by name; each call asks for other items."""
    items = backend.bundle.items

    def drawn(number: int) -> list[str]:
        return items.own(rng.integers(0, len(items), number).tolist())

    def recommend() -> None:
        backend.recommend([RecommendRequest(history=asked["history"], k=K, beam=BEAM)])

    def prepare() -> None:
        asked["ids"], asked["history"], asked["item"] = drawn(IDS), drawn(HISTORY), drawn(1)[0]

    asked: dict[str, Any] = {}
    events = pa.array(drawn(SHARD_EVENTS))
    texts = pa.array([f"item-{n:x}" for n in range(len(items))], pa.large_string())
    index = ItemIndex(texts, pc.sort_indices(texts).to_numpy().astype(np.int64))
    works: dict[str, Callable[[], object]] = {
        f"{IDS:,} ids, whole numbers": lambda: items.dense(asked["ids"]),
        f"{IDS:,} ids, text in no order": lambda: index.places(texts.take(pa.array(np.array(asked["ids"], np.int64)))),
        f"`recommend`: ids of a shard of {SHARD_EVENTS:,} events": lambda: items.index.places(events),
        f"a request, W = {BEAM}": recommend,
        "an item's page": lambda: backend.item(asked["item"]),
        "a search for an item's number": lambda: backend.search(asked["item"], K),
    }
    return {name: partial(_after, prepare, work) for name, work in works.items()}


def _after(prepare: Callable[[], object], work: Callable[[], object]) -> float:
    """Processor seconds of a work, its preparation left out."""
    prepare()
    started = time.process_time()
    work()
    return time.process_time() - started


def time_start(bundle: Path) -> dict[str, float]:
    """Seconds until `intrr serve` listens: on the clock and of the processor; medians."""
    found: dict[str, list[float]] = {"clock": [], "processor": []}
    for _ in range(STARTS):
        started = time.perf_counter()
        with serving_process(bundle, ()) as (_, server):
            found["clock"].append(time.perf_counter() - started)
            used = psutil.Process(server.pid).cpu_times()
            found["processor"].append(used.user + used.system)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def measure(sizes: list[int], rounds: int, work: Path) -> dict[str, Any]:
    """Median milliseconds of each work by size, and seconds of a start."""
    bundles = {items: make_bundle(items, work) for items in sizes}
    starts = {items: time_start(bundle) for items, bundle in bundles.items()}
    rng = np.random.default_rng(0)
    works = {items: works_of(Backend.load(bundle, torch.device("cpu")), rng) for items, bundle in bundles.items()}
    taken: dict[tuple[int, str], list[float]] = {}
    for turn in range(rounds + 1):
        for items, each in works.items():
            for name, timed in each.items():
                seconds = timed()
                if turn:  # the first warms
                    taken.setdefault((items, name), []).append(seconds)  # type: ignore[arg-type]
    names = list(works[sizes[0]])
    return {
        "items": sizes,
        "rounds": rounds,
        "milliseconds": {name: [1e3 * statistics.median(taken[items, name]) for items in sizes] for name in names},
        "start": [starts[items] for items in sizes],
        "bundle_bytes": [sum(file.stat().st_size for file in bundles[items].iterdir()) for items in sizes],
    }


def _section(found: dict[str, Any]) -> list[str]:
    machine, (small, large) = found["machine"], found["items"]
    lines = [
        f"Written by this command: {found['date']}, {machine['device']}, torch {machine['torch']}, code {machine['code']}.",
        "",
        f"```\npython -m benchmarks.speed.large_bundle --items {small} {large} --page benchmarks/results/scaling.md\n```",
        "",
        f"Milliseconds of the processor, one thread, medians of {found['rounds']} rounds in which both bundles take turns; every call asks for "
        "other items at random, seed 0. *Start*: `intrr serve` until it listens, every file of the bundle hashed and looked through "
        f"({found['bundle_bytes'][1] / 1e9:.2f} GB at {large:,} items), median of {STARTS}; files were in the page cache.",
        "",
        f"| | {small:,} items | {large:,} items | ratio |",
        "|---|---:|---:|---:|",
    ]
    for name, (few, many) in found["milliseconds"].items():
        lines.append(row([f"{name}, ms", f"{few:.2f}", f"{many:.2f}", f"{many / few:.2f}"]))
    for name in ("processor", "clock"):
        few, many = (start[name] for start in found["start"])
        lines.append(row([f"start, s ({name})", f"{few:.2f}", f"{many:.2f}", f"{many / few:.2f}"]))
    return lines


@threads(1)
def main() -> None:
    """Measure, print, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs=2, default=(10_000, 10_000_000))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--work", type=Path, default=None, help="folder whose bundles are used, and kept")
    parser.add_argument("--page", type=Path, default=None, help=f"a page whose section '{SECTION}' gets the figures")
    parser.add_argument("--out", type=Path, default=None, help="JSON of all figures")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(list(given.items), given.rounds, given.work or Path(scratch))
    found |= {"machine": describe(torch.device("cpu")), "date": f"{date.today():%Y-%m-%d}"}
    print("\n".join(_section(found)))
    if given.out:
        write_json(given.out, found)
    if given.page:
        write_section(given.page, SECTION, _section(found))


if __name__ == "__main__":
    main()
