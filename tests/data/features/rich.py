"""Logs, items and users with a feature of every kind, small enough to check by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from intrr_rec.config import PrepareConfig
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.semantic_ids.build import build_semantic_ids
from tests.tiny import INDEX, Line

ACTIONS = ("view", "buy", "like")
FEATURES = {
    "event": {
        "action": {"kind": "categorical", "asked": True},
        "rating": {"kind": "categorical", "hash_buckets": 8},
        "dwell": {"kind": "numeric", "buckets": 4},
        "app": "boolean",
        "clock": {"kind": "timestamp_parts", "parts": ["hour", "weekday", "day", "month"]},
    },
    "item": {
        "categories": {"kind": "multi_categorical", "separator": "|"},
        "tags": "multi_categorical",
        "price": {"kind": "numeric", "buckets": 5, "scale": "log"},
        "flags": {"kind": "multi_categorical", "columns": ["red", "new"]},
    },
    "user": {"country": {"kind": "categorical", "min_count": 2}, "member": "boolean"},
}


def write_tables(folder: Path, users: int = 20, items: int = 12, seed: int = 0) -> None:
    """`logs.parquet`, `items.parquet` and `users.csv`; some values are missing."""
    rng = np.random.default_rng(seed)
    n = users * 8
    dwell = [None if x < 0.1 else float(round(100 * x)) for x in rng.random(n)]
    pq.write_table(
        pa.table(
            {
                "user_id": np.repeat(np.arange(users), 8),
                "item_id": rng.integers(0, items, n),
                "timestamp": 1_600_000_000 + 3571 * np.arange(n),
                "action": [ACTIONS[x] for x in rng.integers(0, 3, n)],
                "rating": [float(x) for x in rng.integers(1, 6, n)],
                "dwell": dwell,
                "app": [[True, False, None][x] for x in rng.integers(0, 3, n)],
            }
        ),
        folder / "logs.parquet",
    )
    names = ["shoes", "men", "women", "sport"]
    pq.write_table(
        pa.table(
            {
                "item_id": np.arange(items),
                "categories": ["|".join(rng.choice(names, rng.integers(1, 4), replace=False)) for _ in range(items)],
                "tags": [[] if i % 3 == 0 else [f"t{i % 2}", f"t{i % 5}"] for i in range(items)],
                "price": [float(10**x) for x in rng.integers(0, 4, items)],
                "red": rng.integers(0, 2, items),
                "new": rng.integers(0, 2, items),
                "title": [f"item {i}" for i in range(items)],
            }
        ),
        folder / "items.parquet",
    )
    rows = [f"{u},{['DE', 'FR', 'IT'][u % 3] if u else 'XX'},{'yes' if u % 2 else 'no'}" for u in range(users - 1)]
    (folder / "users.csv").write_text("\n".join(["user_id,country,member", *rows]) + "\n")


def config(**more: object) -> PrepareConfig:
    """Settings that read all of it."""
    return PrepareConfig.model_validate({"k_core": 1, "features": FEATURES} | more)


def make_line(folder: Path, users: int = 40, **settings: object) -> Line:
    """Dataset and Semantic IDs of these tables, with vectors that say nothing."""
    write_tables(folder, users)
    line = Line(folder / "dataset", folder / "semantic_ids", folder / "vectors.parquet")
    prepare_dataset(
        [folder / "logs.parquet"],
        folder / "items.parquet",
        line.dataset,
        config(**settings),
        users=folder / "users.csv",
    )
    vectors = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    pq.write_table(pa.table({"item_id": np.arange(12), "embedding": list(vectors)}), line.vectors)
    build_semantic_ids(line.dataset, line.vectors, line.semantic_ids, INDEX)
    return line
