"""Sorted rows → the Parquet files of a dataset, in row groups that do not hang on the engine's batches.

Shape suffixes: E events, U users.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from intrr_rec.data.dataset import SEQUENCE_SCHEMA, TARGET_FIELD
from intrr_rec.data.features.columns import Column
from intrr_rec.data.features.store import sequence_field
from intrr_rec.io.console import console, shows_bars

ROW_GROUP_EVENTS = 1 << 20
ROW_GROUP_ROWS = 1 << 16
NO_TIME = -1  # real times are not negative


def write_sequences(
    batches: Iterable[pa.RecordBatch], path: Path, total: int, features: Sequence[Column] = (), *, marked: bool = False
) -> None:
    """One row a user, from `total` rows (user, item, time, feature columns, mark of targets) in the order of users and events.

    Args:
        marked: whether the rows have the mark.
    """
    path.parent.mkdir()
    schema = pa.schema([*SEQUENCE_SCHEMA, *map(sequence_field, features), *([TARGET_FIELD] if marked else [])])
    pending_3E = np.empty((len(schema) - 1, 0), np.int64)  # all but the lengths
    progress = Progress(console=console(stderr=True), transient=True, disable=not shows_bars())
    with pq.ParquetWriter(path, schema, compression="zstd") as writer, progress:
        task = progress.add_task("writing sequences", total=total)
        for batch in batches:
            new_3E = np.stack(
                [column.fill_null(NO_TIME).to_numpy().astype(np.int64, copy=False) for column in batch.columns]
            )
            pending_3E = np.concatenate([pending_3E, new_3E], axis=1)
            while cut := _row_group_end(pending_3E[0]):
                _write_group(writer, pending_3E[:, :cut], schema)
                pending_3E = pending_3E[:, cut:]
            progress.advance(task, batch.num_rows)
        _write_group(writer, pending_3E, schema)


def write_rows(batches: Iterable[pa.RecordBatch], schema: pa.Schema, path: Path) -> None:
    """The rows as they come, as columns of `schema`."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in _rebatch(batches, schema):
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)


def _row_group_end(users_E: np.ndarray) -> int:
    """The first change of user at or after ROW_GROUP_EVENTS; 0 while it is not in sight."""
    if len(users_E) <= ROW_GROUP_EVENTS:
        return 0
    end = int(np.searchsorted(users_E, users_E[ROW_GROUP_EVENTS - 1], side="right"))
    return end if end < len(users_E) else 0


def _write_group(writer: pq.ParquetWriter, events_3E: np.ndarray, schema: pa.Schema) -> None:
    users_U, starts_U = np.unique(events_3E[0], return_index=True)
    offsets = pa.array(np.append(starts_U, events_3E.shape[1]), pa.int32())
    columns = [field for field in schema if pa.types.is_list(field.type)]
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array(values_E).cast(field.type.value_type))
        for values_E, field in zip(events_3E[1:], columns, strict=True)
    ]
    lengths_U = pa.array(np.diff(np.append(starts_U, events_3E.shape[1])), pa.int32())
    items_U, times_U, *others = lists
    if events_3E[2, 0] == NO_TIME:
        times_U = pa.nulls(len(users_U), times_U.type)
    writer.write_batch(pa.record_batch([pa.array(users_U), items_U, times_U, lengths_U, *others], schema=schema))


def _rebatch(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Tables of exactly ROW_GROUP_ROWS rows (the last: fewer), so that the bytes do not hang on the engine's batches."""
    pending = schema.empty_table()
    for batch in batches:
        pending = pa.concat_tables([pending, pa.Table.from_batches([batch]).cast(schema)])
        while pending.num_rows > ROW_GROUP_ROWS:
            yield pending.slice(0, ROW_GROUP_ROWS)
            pending = pending.slice(ROW_GROUP_ROWS)
    yield pending
