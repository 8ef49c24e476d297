"""The items of a bundle as people know them: own ids, titles, popularity, and the columns of the item table.

File: `items.parquet`, a row an item in the order of dense ids: `item_id` (string), `title`, `popularity` (events in the
training part), `first_seen` (its first event, seconds since 1970; null where nobody had it or the logs have no times), `newcomer` (the model
never saw it), then the free columns of the item table. Shape suffix: I items.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from intrr_rec.data.dataset import ITEMS, Dataset
from intrr_rec.errors import ArtefactError, ConfigError, instead
from intrr_rec.io.places import not_the_input
from intrr_rec.serving.bundle.item_columns import having, is_filterable

OWN = ("item_id", "title", "popularity", "first_seen", "newcomer")
_TYPES = {
    "item_id": pa.string(),
    "title": pa.string(),
    "popularity": pa.int64(),
    "first_seen": pa.int64(),
    "newcomer": pa.bool_(),
}


class ItemTable:
    """Reads the file; columns that no one asks for stay on disk.

    The file stays open, so one that takes its place later is not mixed with it.

    Args:
        path: of the file, for error messages.
        file: the file, open.

    Raises:
        ArtefactError: a column is missing or of another type, or has gaps.
    """

    def __init__(self, path: Path, file: pq.ParquetFile) -> None:
        self.path = path
        self._file = file
        self.schema = self._file.schema_arrow
        for name, expected in _TYPES.items():
            if name not in self.schema.names or self.schema.field(name).type != expected:
                raise ArtefactError(f"{path}: has no column '{name}' of type {expected}; export the bundle again")
        table = self._file.read(columns=["item_id", "title", "popularity", "newcomer"])
        if gaps := [name for name in table.column_names if table[name].null_count]:
            raise ArtefactError(f"{path}: column '{gaps[0]}' has gaps; export the bundle again")
        self._ids = table["item_id"].combine_chunks()
        self._titles = table["title"].combine_chunks()
        self.popularity_I: NDArray[np.int64] = table["popularity"].to_numpy()
        self.newcomer_I: NDArray[np.bool_] = table["newcomer"].to_numpy()
        self._order_I = pc.sort_indices(self._ids).to_numpy()

    def __len__(self) -> int:
        return len(self._ids)

    @cached_property
    def by_popularity_I(self) -> NDArray[np.int64]:
        """Dense ids, the most popular first; of equals, the lower id."""
        return np.argsort(-self.popularity_I, kind="stable")

    @property
    def columns(self) -> list[str]:
        """The columns that a filter may name."""
        return [each.name for each in self.schema if each.name not in OWN and is_filterable(each.type)]

    def dense(self, own_ids: Iterable[str]) -> list[int | None]:
        """Dense id of each item; None for an item the bundle does not know."""
        return [self._find(own) for own in own_ids]

    def own(self, items: Iterable[int]) -> list[str]:
        """The user's own id of each dense id."""
        return [self._ids[item].as_py() for item in items]

    def titles(self, items: Iterable[int]) -> list[str]:
        """What to call each item (dense ids)."""
        return [self._titles[item].as_py() for item in items]

    def own_column(self) -> pa.Array:
        """The user's own ids, at the position of the dense ones."""
        return self._ids

    def title_column(self) -> pa.Array:
        """What to call each item, at the position of its dense id."""
        return self._titles

    def having(self, column: str, values: Iterable[str]) -> NDArray[np.bool_]:
        """Which items have one of these values, compared by the column's type; an entry of a list counts as one. `[I]`

        Raises:
            ConfigError: no such column, one that cannot be filtered by, or a value that no item has.
        """
        if column not in self.schema.names or column in OWN:
            raise ConfigError(f"no column '{column}' to filter by{instead(column, self.columns) or '; there is none'}")
        return having(column, self._column(column).combine_chunks(), list(values))

    def newer(self, than: int) -> NDArray[np.bool_]:
        """Which items nobody had before a moment (seconds since 1970); one that nobody has had counts as new. `[I]`

        Raises:
            ConfigError: the logs had no times.
        """
        if not self.tells_age:
            raise ConfigError("the logs of this bundle had no times, so nothing tells which items are new")
        return pc.fill_null(pc.greater_equal(self._column("first_seen"), than), True).to_numpy()

    @cached_property
    def tells_age(self) -> bool:
        """Whether anything is known of when items were first had."""
        first = self._column("first_seen")
        return first.null_count < len(first)

    def _column(self, name: str) -> pa.ChunkedArray:
        try:
            return self._file.read(columns=[name])[name]
        except (OSError, pa.ArrowException) as error:
            not_the_input(error)
            raise ArtefactError(f"{self.path}: was cut short while it was in use; export the bundle again") from None

    def _find(self, own: str) -> int | None:
        place = bisect_left(self._order_I, own, key=lambda item: self._ids[int(item)].as_py())
        if place == len(self) or self._ids[int(self._order_I[place])].as_py() != own:
            return None
        return int(self._order_I[place])


def item_table(dataset: Dataset, is_new_I: NDArray[np.bool_]) -> pa.Table:
    """The table of a dataset's items, those the model never saw marked."""
    table = dataset.table(ITEMS)
    named = [table[name].cast(pa.string()) for name in ("title", "text", "item_id") if name in table.column_names]
    columns = {
        "item_id": table["item_id"].cast(pa.string()),
        "title": pc.coalesce(*named),
        "popularity": pa.array(dataset.popularity()),
        "first_seen": table["first_seen"],
        "newcomer": pa.array(is_new_I),
    }
    free = [name for name in table.column_names if name not in (*OWN, "text", "item")]
    return pa.table(columns | {name: table[name] for name in free})
