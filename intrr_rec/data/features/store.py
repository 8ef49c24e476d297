"""Features as a dataset holds them: narrow columns beside the sequences, and arrays by dense id.

features.json           every column: what it is, and its vocabulary or buckets
sequences/*.parquet     a list of numbers a user and column of events, called `feature.NAME`
item_features.parquet   a row an item, a column a column
user_features.parquet   a row a user

Shape suffixes: E events, I rows of a table (items or users), N numbers of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from intrr_rec.config.logs.features import Side
from intrr_rec.data.features.columns import Column
from intrr_rec.errors import ArtefactError

if TYPE_CHECKING:
    from intrr_rec.data.event_store import EventStore

FEATURES = "features.json"
TABLES: dict[Side, str] = {"item": "item_features.parquet", "user": "user_features.parquet"}
IN_SEQUENCES = "feature."


class FeatureRecord(BaseModel):
    """What `features.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: tuple[Column, ...]

    def of(self, side: Side) -> list[Column]:
        """The columns of one table."""
        return [column for column in self.columns if column.side == side]


@dataclass(frozen=True)
class Lists:
    """A column of a table by dense id: numbers `values_N[offsets[i]:offsets[i+1]]` of row i, at least one each.

    Attributes:
        offsets: `[I+1]`; None where every row has one number.
    """

    values_N: NDArray[np.integer]
    offsets: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.values_N) if self.offsets is None else len(self.offsets) - 1

    def take(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The numbers of these rows, one row after another, and how many each has."""
        if self.offsets is None:
            return self.values_N[rows].astype(np.int64), np.ones(len(rows), np.int64)
        length = self.offsets[rows + 1] - self.offsets[rows]
        ends = np.cumsum(length)
        place = np.repeat(self.offsets[rows] - ends + length, length) + np.arange(int(ends[-1]) if len(ends) else 0)
        return self.values_N[place].astype(np.int64), length


class DatasetFeatures:
    """The features of an opened dataset; a column is read when it is first asked for.

    Args:
        record: what they are.
        events: where the sequences lie.
    """

    def __init__(self, record: FeatureRecord, events: EventStore) -> None:
        self.record = record
        self._events = events
        self._whole: dict[str, NDArray[np.integer]] = {}
        self._tables: dict[str, Lists] = {}

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """All columns."""
        return self.record.columns

    def of_events(self, column: Column) -> NDArray[np.integer]:
        """The number of every event, in the dataset's order, `[E]`, as narrow as it is stored."""
        if column.name not in self._whole:
            parts = [self.of_group(group, column) for group in range(len(self._events.groups))]
            self._whole[column.name] = np.concatenate(parts)
        return self._whole[column.name]

    def of_group(self, group: int, column: Column) -> NDArray[np.integer]:
        """The numbers of one row group's events; a part of `of_events` where that has been read.

        Raises:
            ArtefactError: the file has changed, or holds a number that is none of the column's.
        """
        if column.name in self._whole:
            values = self._whole[column.name][slice(*self._events.events_of(group))]
        else:
            values = self._events.read_narrow(group, IN_SEQUENCES + column.name, np.dtype(column.dtype))
        if len(values) and int(values.max()) >= column.rows:
            raise ArtefactError(
                f"{self._events.folder.place}: feature '{column.name}' holds a number beyond its {column.rows}"
            )
        return values

    def of_table(self, column: Column) -> Lists:
        """The numbers of every item or user, by dense id.

        Raises:
            ArtefactError: the table holds a number that is none of the column's.
        """
        if column.name not in self._tables:
            with self._events.folder.open(TABLES[column.side]) as handle:
                values = pq.ParquetFile(handle).read(columns=[column.name])[column.name].combine_chunks()
            lists = lists_of(values)
            if len(lists.values_N) and not 0 <= int(lists.values_N.min()) <= int(lists.values_N.max()) < column.rows:
                raise ArtefactError(
                    f"{self._events.folder.place}: feature '{column.name}' holds a number beyond its {column.rows}"
                )
            self._tables[column.name] = lists
        return self._tables[column.name]


def sequence_field(column: Column) -> pa.Field:
    """The column of `sequences/*.parquet` that holds a feature column of events."""
    return pa.field(IN_SEQUENCES + column.name, pa.list_(pa.from_numpy_dtype(column.dtype)))


def table_schema(key: str, columns: Sequence[Column]) -> pa.Schema:
    """The schema of `item_features.parquet` or `user_features.parquet`: its key, then the columns."""
    types = ((column.name, pa.from_numpy_dtype(column.dtype), column.is_multi) for column in columns)
    return pa.schema([(key, pa.int64()), *((name, pa.list_(kind) if multi else kind) for name, kind, multi in types)])


def lists_of(values: pa.Array) -> Lists:
    """A column of a table of features."""
    if not pa.types.is_list(values.type):
        return Lists(values.to_numpy())
    return Lists(
        values.flatten().to_numpy(), np.asarray(values.offsets.to_numpy(), np.int64) - values.offsets[0].as_py()
    )
