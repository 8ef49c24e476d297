"""The prepared dataset: every user's events in order, as flat arrays over dense ids.

Leave-one-out: a user's last event is the test target, the last but one the validation target, all before are the training
part. Validation may see the training part as history, test may see the validation target too.

Shape suffixes: E events, U users, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from intrr_rec import artefact
from intrr_rec.artefact import Manifest

KIND = "dataset"
SEQUENCES = "sequences"
ITEMS = "items.parquet"
USERS = "users.parquet"
STATISTICS = "statistics.json"

SEQUENCE_SCHEMA = pa.schema(
    [("user", pa.int64()), ("items", pa.list_(pa.int64())), ("timestamps", pa.list_(pa.int64()))]
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset artefact in memory.

    Attributes:
        items_E: dense item id of every event, users one after another, each in time order (equal or no times: file
            order).
        timestamps_E: seconds since 1970, as long as `items_E`; None where the logs have no time column.
        offsets: [U+1]; the events of user `u` are `items_E[offsets[u]:offsets[u+1]]`, at least three.
    """

    path: Path
    manifest: Manifest
    n_users: int
    n_items: int
    items_E: np.ndarray
    timestamps_E: np.ndarray | None
    offsets: np.ndarray

    @classmethod
    def open(cls, path: Path | str) -> Dataset:
        """Verify the artefact's hashes and read its sequences.

        Raises:
            ArtefactError: `path` is not a whole, unaltered dataset artefact.
        """
        path = Path(path)
        manifest = artefact.read(path, KIND)
        parts = sorted(name for name in manifest.files if name.startswith(f"{SEQUENCES}/"))
        table = pa.concat_tables(pq.read_table(path / name, schema=SEQUENCE_SCHEMA) for name in parts)
        lengths_U = pa.compute.list_value_length(table["items"]).to_numpy()
        return cls(
            path=path,
            manifest=manifest,
            n_users=manifest.counts["users"],
            n_items=manifest.counts["items"],
            items_E=pa.compute.list_flatten(table["items"]).to_numpy(),
            timestamps_E=None
            if table["timestamps"].null_count
            else pa.compute.list_flatten(table["timestamps"]).to_numpy(),
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths_U, dtype=np.int64)]),
        )

    @property
    def has_times(self) -> bool:
        """Whether the logs had a time column."""
        return self.timestamps_E is not None

    @property
    def validation_targets(self) -> np.ndarray:
        """Dense item of each user's last but one event, int64 [U]."""
        return self.items_E[self.offsets[1:] - 2]

    @property
    def test_targets(self) -> np.ndarray:
        """Dense item of each user's last event, int64 [U]."""
        return self.items_E[self.offsets[1:] - 1]

    def popularity(self) -> np.ndarray:
        """Events of each item in the training part (all but each user's last two), int64 [I]."""
        counts_I = np.bincount(self.items_E, minlength=self.n_items)
        for held_out in (self.validation_targets, self.test_targets):
            counts_I -= np.bincount(held_out, minlength=self.n_items)
        return counts_I

    def item_ids(self) -> pa.ChunkedArray:
        """The user's own item ids (int64 or string), at the position of their dense id; sorted."""
        return pq.read_table(self.path / ITEMS, columns=["item_id"])["item_id"]

    def user_ids(self) -> pa.ChunkedArray:
        """The user's own user ids (int64 or string), at the position of their dense id; sorted."""
        return pq.read_table(self.path / USERS, columns=["user_id"])["user_id"]

    def titles(self, items: Sequence[int] | None = None) -> list[str]:
        """What to call each item, or each of `items` (dense ids): its `title`, else its `text`, else its own id."""
        present = pq.read_schema(self.path / ITEMS).names
        wanted = [name for name in ("title", "text", "item_id") if name in present]
        table = pq.read_table(self.path / ITEMS, columns=wanted)
        if items is not None:
            table = table.take(pa.array(items, pa.int64()))
        return [str(next(v for v in row if v is not None)) for row in zip(*(c.to_pylist() for c in table), strict=True)]
