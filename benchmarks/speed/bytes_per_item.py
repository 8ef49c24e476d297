"""`python -m benchmarks.speed.bytes_per_item`: private memory of each verb an item of the catalogue, from two sizes of it.

A verb is a process of its own, which samples its anonymous memory: what is no page of a file, and so its own. Of two catalogues
that differ in nothing but their items the difference of the peaks, over the difference of the items, is what a verb holds an item.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.speed.catalogue import write_catalogue
from benchmarks.speed.machine import describe
from benchmarks.speed.page import row, write_section
from intrr_rec.config import Recipe, load_recipe
from intrr_rec.data.dataset import Dataset
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.semantic_ids.artefact import SemanticIds
from intrr_rec.serving.batch.histories import DatasetSource
from intrr_rec.serving.batch.recommend import Options, recommend_all
from intrr_rec.serving.bundle.bundle import Bundle

VERBS = ("train", "evaluate", "export", "recommend", "serve")
USERS, LEVELS, CODES, VECTOR, WIDTH, UID_WIDTH = 400, 3, 256, 16, 16, 4
TABLE = 4 * UID_WIDTH + 4  # bytes an item of the sharded table and its optimizer
SAVED = 4 * UID_WIDTH + 4  # bytes an item of its copy that a checkpoint is written from
CHUNK = 1 << 16
SECTION = "bytes an item"
WORDS = (
    "model.window=8",
    "model.hstu.layers=1",
    f"model.hstu.width={WIDTH}",
    "model.hstu.heads=2",
    "model.ran.hidden=16",
    f"model.uid_width={UID_WIDTH}",
    "model.content=true",
    "train.batch_users=128",
    "train.epochs=1",
    "train.sharding.uid=row_wise",
    "evaluate.beam=20",
    "evaluate.exclude_seen=true",
)


def recipe() -> Recipe:
    """Path-ranked, with content: what every verb reads is in it."""
    return load_recipe(None, WORDS)


def make_catalogue(work: Path, items: int) -> None:
    """Dataset, vectors and Semantic IDs of a catalogue, drawn rather than learned."""
    write_catalogue(work / "dataset", items=items, users=USERS, seed=0)
    dataset = Dataset.open(work / "dataset")
    rng, kind = np.random.default_rng(0), pa.list_(pa.float16(), VECTOR)
    schema = pa.schema([("item_id", pa.int64()), ("embedding", kind)])
    with pq.ParquetWriter(work / "vectors.parquet", schema) as writer:
        for first in range(0, items, CHUNK):
            ids = np.arange(first, min(first + CHUNK, items))
            values = pa.array(rng.normal(size=len(ids) * VECTOR).astype(np.float16))
            writer.write_table(
                pa.table([pa.array(ids), pa.FixedSizeListArray.from_arrays(values, VECTOR)], schema=schema)
            )
    number_I = torch.from_numpy(rng.permutation(CODES**LEVELS)[:items])
    codes = [number_I // CODES**level % CODES for level in range(LEVELS)]
    SemanticIds.write(
        work / "semantic_ids",
        codes_IL=torch.stack([*codes, torch.zeros_like(number_I)], dim=1),
        codes_per_level=(CODES,) * LEVELS + (2,),
        codebooks=[torch.randn(CODES, VECTOR) for _ in range(LEVELS)],
        quantizer={},
        item_ids=dataset.item_ids(),
        quality={},
        config={},
        parents={"dataset": dataset.manifest.content_hash, "vectors": _vectors_hash(work)},
    )


def _vectors_hash(work: Path) -> str:
    from intrr_rec.vectors.table import vectors_hash

    return vectors_hash(work / "vectors.parquet")


def _train(work: Path) -> None:
    from intrr_rec.training.trainer import train

    train(
        recipe(),
        dataset=work / "dataset",
        semantic_ids=work / "semantic_ids",
        vectors=work / "vectors.parquet",
        out=work / "run",
    )


def _evaluate(work: Path) -> None:
    from intrr_rec.evaluation.results import evaluate_run

    evaluate_run(work / "run", [])


def _export(work: Path) -> None:
    from intrr_rec.serving.bundle.export import write_bundle

    write_bundle(work / "run", work / "bundle")


def _recommend(work: Path) -> None:
    options = Options(k=10, batch=64, shard_users=128)
    recommend_all(Bundle.load(work / "bundle"), DatasetSource(work / "dataset", 1), work / "recommendations", options)


def _serve(work: Path) -> None:
    from intrr_rec.serving.http.backend import Backend
    from intrr_rec.serving.http.schemas import RecommendRequest

    backend = Backend.load(work / "bundle", torch.device("cpu"))
    items = backend.bundle.n_items
    asked = [list(range(user, items, items // 7)) for user in range(16)]
    backend.recommend([RecommendRequest(history=history, k=10) for history in ([], *asked)])
    backend.search("7", 10)
    backend.item("11")


RUN: dict[str, Callable[[Path], None]] = dict(zip(VERBS, (_train, _evaluate, _export, _recommend, _serve), strict=True))


def anonymous_bytes() -> int:
    """Memory of this process that is no page of a file."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def _measured(verb: str, work: Path) -> dict[str, float]:
    """Peak of anonymous memory while a verb runs, and how long it took."""
    peak, ends = [0], threading.Event()

    def sample() -> None:
        while not ends.wait(0.002):
            peak[0] = max(peak[0], anonymous_bytes())

    watcher = threading.Thread(target=sample)
    watcher.start()
    started = time.perf_counter()
    try:
        RUN[verb](work)
    finally:
        seconds = time.perf_counter() - started
        ends.set()
        watcher.join()
    return {"peak": max(peak[0], anonymous_bytes()), "seconds": seconds}


def measure(small: int, large: int, work: Path) -> dict[str, Any]:
    """Bytes an item of each verb; beside `train`, `evaluate` and `export` what their table takes of them."""
    found: dict[str, Any] = {"items": [small, large], "verbs": {}}
    for items in (small, large):
        folder = work / str(items)
        folder.mkdir(parents=True)
        for verb in ("make", *VERBS):
            line = [sys.executable, "-m", "benchmarks.speed.bytes_per_item", "--verb", verb, str(items), str(folder)]
            done = subprocess.run(line, check=True, capture_output=True, text=True)
            if verb != "make":
                found["verbs"].setdefault(verb, []).append(json.loads(done.stdout.splitlines()[-1]))
    for verb, (few, many) in found["verbs"].items():
        table = {"train": TABLE + SAVED, "evaluate": 4 * UID_WIDTH, "export": 4 * UID_WIDTH}.get(verb, 0)
        bytes_an_item = (many["peak"] - few["peak"]) / (large - small)
        found["verbs"][verb] = {
            "bytes_an_item": bytes_an_item,
            "table": table,
            "beyond": bytes_an_item - table,
            "seconds": [few["seconds"], many["seconds"]],
        }
    return found


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verb", nargs=3, metavar=("VERB", "ITEMS", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--items", type=int, nargs=2, default=(500_000, 2_000_000))
    parser.add_argument("--page", type=Path, default=None, help="a page whose section 'bytes an item' gets the figures")
    parser.add_argument("--out", type=Path, default=None, help="JSON of all figures")
    given = parser.parse_args()
    if given.verb:
        verb, items, folder = given.verb
        if verb == "make":
            make_catalogue(Path(folder), int(items))
        else:
            print(json.dumps(_measured(verb, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as work:
        small, large = given.items
        found = measure(small, large, Path(work)) | {"machine": describe(torch.device("cpu"))}
    found["date"] = f"{date.today():%Y-%m-%d}"
    for verb, each in found["verbs"].items():
        print(f"{verb:10} {each['bytes_an_item']:8.2f} bytes an item, {each['table']:3d} of its table")
    if given.out:
        write_json(given.out, found)
    if given.page:
        write_section(given.page, SECTION, _section(found))


def _section(found: dict[str, Any]) -> list[str]:
    machine, (small, large) = found["machine"], found["items"]
    lines = [
        f"Written by this command: {found['date']}, {machine['device']}, torch {machine['torch']}, code {machine['code']}.",
        "",
        f"```\npython -m benchmarks.speed.bytes_per_item --items {small} {large} --page benchmarks/results/scaling.md\n```",
        "",
        f"Anonymous memory at its peak, from {small:,} to {large:,} items, {USERS} users; one rank, path-ranked IntRR with content of "
        f"{VECTOR} values, a sharded UID table of {UID_WIDTH} columns. *Of its table*: rows, optimizer state, and the copy that a "
        "checkpoint is written from. Peaks vary by some 7 bytes an item from run to run; below zero, the peak of the small catalogue "
        "lies in what does not grow.",
        "",
        "| verb | bytes an item | of its table | beyond | seconds, small | seconds, large |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for verb, each in found["verbs"].items():
        figures = [f"{each['bytes_an_item']:.2f}", str(each["table"]), f"{each['beyond']:.2f}"]
        lines.append(row([verb, *figures, *(f"{seconds:.1f}" for seconds in each["seconds"])]))
    return lines


if __name__ == "__main__":
    main()
