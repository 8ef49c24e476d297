"""A small catalogue whose items come and go, as files that the verbs read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from intrr_rec.config import PrepareConfig
from intrr_rec.data.prepare.prepare import prepare_dataset


def make_catalogue(folder: Path, items: Sequence[int], vectors_ID: np.ndarray) -> tuple[Path, Path]:
    """A dataset of exactly these item ids, with titles and two categories, and their vectors: (dataset, vectors)."""
    folder.mkdir(parents=True, exist_ok=True)
    item_E = np.resize(np.asarray(items), 3 * max(len(items), 2))
    events = {"user_id": np.arange(len(item_E)) // 3, "item_id": item_E, "timestamp": np.arange(len(item_E))}
    pq.write_table(pa.table(events), folder / "logs.parquet")
    paths = [f"All > {'Odd' if item % 2 else 'Even'} > Leaf" for item in items]
    table = {"item_id": list(items), "title": [f"Title {item}" for item in items], "categories": paths}
    pq.write_table(pa.table(table), folder / "items.parquet")
    pq.write_table(pa.table({"item_id": list(items), "embedding": list(vectors_ID)}), folder / "vectors.parquet")
    prepare_dataset([folder / "logs.parquet"], folder / "items.parquet", folder / "dataset", PrepareConfig(k_core=1))
    return folder / "dataset", folder / "vectors.parquet"
