"""The prepared dataset: every user's events in order, as flat arrays over dense ids.

Leave-one-out: a user's last event is the test target, the last but one the validation target, all before are the training
part. Validation may see the training part as history, test may see the validation target too.

Shape suffixes: E events, U users, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from intrr_rec import artefact
from intrr_rec.artefact import Manifest
from intrr_rec.data.events import EventStore
from intrr_rec.storage import Folder, Location, location

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
    """A dataset artefact, opened.

    Attributes:
        path: a folder, or the URL of one.
        events: its row groups, for who reads them one at a time.
        offsets: [U+1]; the events of user `u` are `items_E[offsets[u]:offsets[u+1]]`, at least three.
    """

    path: Location
    manifest: Manifest
    n_users: int
    n_items: int
    events: EventStore
    offsets: np.ndarray

    @classmethod
    def open(cls, path: Location) -> Dataset:
        """Verify the artefact's hashes and look through its sequences.

        Raises:
            ArtefactError: `path` is not a whole, unaltered dataset artefact.
        """
        path = location(path)
        manifest = artefact.read(path, KIND)
        parts = sorted(name for name in manifest.files if name.startswith(f"{SEQUENCES}/"))
        events = EventStore(Folder.at(path), parts, manifest.counts["interactions"])
        return cls(path, manifest, manifest.counts["users"], manifest.counts["items"], events, events.offsets)

    @cached_property
    def items_E(self) -> np.ndarray:
        """Dense item id of every event, users one after another, each in time order (equal or no times: file order)."""
        return self.events.whole("items")

    @cached_property
    def timestamps_E(self) -> np.ndarray | None:
        """Seconds since 1970, as long as `items_E`; None where the logs have no time column."""
        return self.events.whole("timestamps") if self.events.has_times else None

    @property
    def has_times(self) -> bool:
        """Whether the logs had a time column."""
        return self.events.has_times

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
        """The user's own item ids (int64 or string), at the position of their dense id; sorted, but for those added later."""
        return self.table(ITEMS, ["item_id"])["item_id"]

    def user_ids(self) -> pa.ChunkedArray:
        """The user's own user ids (int64 or string), at the position of their dense id; sorted, but for those added later."""
        return self.table(USERS, ["user_id"])["user_id"]

    @property
    def item_columns(self) -> list[str]:
        """Columns of the item table."""
        with self.events.folder.open(ITEMS) as handle:
            return pq.read_schema(handle).names

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file of the dataset, or some of its columns; those it does not have are left out."""
        with self.events.folder.open(name) as handle:
            file = pq.ParquetFile(handle)
            present = None if columns is None else [each for each in columns if each in file.schema_arrow.names]
            return file.read(present)

    def titles(self, items: Sequence[int] | None = None) -> list[str]:
        """What to call each item, or each of `items` (dense ids): its `title`, else its `text`, else its own id."""
        table = self.table(ITEMS, ["title", "text", "item_id"])
        if items is not None:
            table = table.take(pa.array(items, pa.int64()))
        return [str(next(v for v in row if v is not None)) for row in zip(*(c.to_pylist() for c in table), strict=True)]
