"""`python -m benchmarks.speed.delta`: how large a delta over a bundle is, and what applying it costs.

A catalogue gets 1 % more items by `prepare --append` and `index --extend`; the run stays the same, or goes on for an epoch. Seconds are
the processor's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from intrr_rec.config import IndexConfig, PrepareConfig, load_recipe
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.io import artefact
from intrr_rec.io.disk.atomic import remove_tree
from intrr_rec.models.embeddings.item_embeddings import Width
from intrr_rec.semantic_ids.build import build_semantic_ids
from intrr_rec.semantic_ids.extend import extend_semantic_ids
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.deltas.delta import apply_delta
from intrr_rec.serving.bundle.deltas.export_delta import export_over
from intrr_rec.serving.bundle.export import Grown, write_bundle
from intrr_rec.serving.recommender import Recommender
from intrr_rec.training.trainer import train

INDEX = IndexConfig(levels=3, codes=64, dedup_codes=128, iterations=3)
VECTOR, USERS = 16, 2_000
ROWS: tuple[Width, ...] = ("float32", "int8")
WORDS = ["model.window=16", "model.hstu.layers=2", "model.ran.hidden=64", "train.batch_users=256", "train.epochs=1"]


def main() -> None:
    """Print a line a type of rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--width", type=int, default=64)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        grown = make(work, given.items, [*WORDS, f"model.hstu.width={given.width}"])
        for rows in ROWS:
            write_bundle(work / "run", work / "base", rows)
            for run, what in (("run", "1 % more items"), ("run-2", "1 % more items and another epoch")):
                whole = grown if run == "run" else None
                export = partial(export_over, work / "base", work / run, work / "delta", rows, whole)
                spent = seconds(export)
                counts = artefact.peek(work / "delta").counts
                applied = seconds(lambda: apply_delta(work / "base", work / "delta", work / "made"))
                opened = seconds(lambda: Bundle.load(work / "made"))
                write_bundle(work / run, work / "whole", rows, whole)
                same = artefact.peek(work / "made").content_hash == artefact.peek(work / "whole").content_hash
                answers = [Recommender.open(work / name).recommend([[1, 2, 3]], 10) for name in ("made", "whole")]
                print(
                    f"{given.items:,} items, width {given.width}, {rows}, {what}: {counts['bytes'] / 1e6:.2f} of "
                    f"{counts['bundle_bytes'] / 1e6:.2f} MB ({counts['bytes'] / counts['bundle_bytes']:.1%}); export {spent:.2f} s, "
                    f"apply {applied:.2f} s, open {opened:.2f} s; the same bundle: {same and answers[0] == answers[1]}",
                    flush=True,
                )
                for name in ("delta", "made", "whole"):
                    remove_tree(work / name)
            remove_tree(work / "base")


def make(work: Path, items: int, words: list[str]) -> Grown:
    """A run, one that went on over the grown catalogue, and that catalogue."""
    rng, more = np.random.default_rng(0), items // 100
    vectors = rng.normal(size=(items + more, VECTOR)).astype(np.float32)
    titles = [f"an item called {number} of kind {number % 37}" for number in range(items + more)]

    def logs(name: str, item: np.ndarray, time: int) -> Path:
        columns = {"user_id": np.arange(len(item)) % USERS, "item_id": item, "timestamp": time + np.arange(len(item))}
        pq.write_table(pa.table(columns), work / f"{name}.parquet")
        return work / f"{name}.parquet"

    def table(name: str, count: int) -> tuple[Path, Path]:
        ids = np.arange(count)
        pq.write_table(pa.table({"item_id": ids, "title": titles[:count]}), work / f"items-{name}.parquet")
        columns = {"item_id": ids, "embedding": list(vectors[:count])}
        pq.write_table(pa.table(columns), work / f"vectors-{name}.parquet")
        return work / f"items-{name}.parquet", work / f"vectors-{name}.parquet"

    first = logs("first", np.concatenate([np.arange(items), rng.integers(0, items, items)]), 0)
    second = logs("second", np.concatenate([items + np.arange(more), rng.integers(0, items, more)]), 10**8)
    (items_1, vectors_1), (items_2, vectors_2) = table("1", items), table("2", items + more)
    prepare_dataset([first], items_1, work / "dataset", PrepareConfig(k_core=1, keep_rows=True))
    build_semantic_ids(work / "dataset", vectors_1, work / "ids", INDEX)
    recipe = load_recipe(None, words)
    train(recipe, dataset=work / "dataset", semantic_ids=work / "ids", vectors=vectors_1, out=work / "run")
    prepare_dataset([second], items_2, work / "dataset", PrepareConfig(), append=True)
    extend_semantic_ids(work / "ids", work / "dataset", vectors_2, work / "ids", IndexConfig())
    inputs = {"dataset": work / "dataset", "semantic_ids": work / "ids", "vectors": vectors_2}
    train(recipe, out=work / "run-2", init_from=work / "run", **inputs)  # type: ignore[arg-type]
    return Grown(work / "dataset", work / "ids", vectors_2)


def seconds(work: Callable[[], object]) -> float:
    """Of the processor, of this process and its threads."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
