"""A whole line of artefacts in miniature, made by the project's own verbs: logs → dataset → Semantic IDs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from intrr_rec.config import IndexConfig, PrepareConfig, Recipe, load_recipe
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.semantic_ids.build import build_semantic_ids

N_ITEMS = 30
# A backbone that is no part of the package: examples/plugin, named by its dotted path.
FOREIGN = "intrr_rec_example.hstu_released:HstuReleased"
FOREIGN_WORDS = (f"model.backbone={FOREIGN}", "model.hstu_released={layers: 2, width: 16, heads: 2, dropout: 0}")
INDEX = IndexConfig(levels=2, codes=5, dedup_codes=8, iterations=5)
SMALL = (
    "model.window=8",
    "model.hstu.layers=2",
    "model.hstu.width=16",
    "model.hstu.heads=2",
    "model.hstu.dropout=0",
    "model.input_dropout=0",
    "model.ran.hidden=16",
    "train.batch_users=16",
    "train.epochs=2",
    "evaluate.beam=20",
)


@dataclass(frozen=True)
class Line:
    """Where the artefacts of one miniature line lie."""

    dataset: Path
    semantic_ids: Path
    vectors: Path

    def inputs(self) -> dict[str, Any]:
        """The arguments that `train` takes from this line."""
        return {"dataset": self.dataset, "semantic_ids": self.semantic_ids, "vectors": self.vectors}


def make_line(
    folder: Path,
    users: int = 50,
    seed: int = 0,
    longest: int = 15,
    noise: float = 0.1,
    times: bool = True,
    split_at: tuple[int, int] | None = None,
    items: int = N_ITEMS,
    index: IndexConfig = INDEX,
) -> Line:
    """Users who step from item i to i + 1, with histories of 3 (none to learn from) to `longest` events.

    A share `noise` of the events is shifted to another item. Longer ones than 10 are more than one training window of `recipe`.
    Without `times` the logs have no time column. A user's times count from 0; `split_at` divides them, for all at once.
    More `items` than the default want an `index` with room for them.
    """
    rng = np.random.default_rng(seed)
    lengths = np.concatenate([[3, longest], rng.integers(3, longest + 1, users - 2)])
    start = np.repeat(rng.integers(0, items, users), lengths)
    step = np.concatenate([np.arange(n) for n in lengths])
    shift = np.where(rng.random(len(step)) < noise, rng.integers(0, items, len(step)), 0)
    events = {"user_id": np.repeat(np.arange(users), lengths), "item_id": (start + step + shift) % items}
    config = PrepareConfig(
        k_core=1,
        time_column="timestamp" if times else None,
        split="global_time" if split_at else "leave_one_out",
        split_at=split_at,
    )
    return line_of(folder, events | ({"timestamp": step} if times else {}), items, config, rng, index)


def line_of(
    folder: Path,
    events: dict[str, Any],
    items: int,
    config: PrepareConfig,
    rng: np.random.Generator,
    index: IndexConfig = INDEX,
) -> Line:
    """The line of these events, with vectors that tell nothing."""
    pq.write_table(pa.table(events), folder / "logs.parquet")
    vectors = rng.normal(size=(items, 6)).astype(np.float32)
    pq.write_table(pa.table({"item_id": np.arange(items), "embedding": list(vectors)}), folder / "vectors.parquet")
    line = Line(folder / "dataset", folder / "semantic_ids", folder / "vectors.parquet")
    prepare_dataset([folder / "logs.parquet"], None, line.dataset, config)
    build_semantic_ids(line.dataset, line.vectors, line.semantic_ids, index)
    return line


def recipe(*overrides: str) -> Recipe:
    """A recipe small enough for a test, without dropout; `overrides` win."""
    return load_recipe(None, [*SMALL, *overrides])
