"""Sorted rows → the Parquet files of a dataset, in row groups that do not hang on the engine's batches.

Shape suffixes: C columns, E events, U users.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from intrr_rec.data.dataset import SEQUENCE_SCHEMA, SEQUENCES, TARGET_FIELD
from intrr_rec.data.features.columns import Column
from intrr_rec.data.features.store import sequence_field
from intrr_rec.io.artefact import file_hash
from intrr_rec.io.console import console, shows_bars

ROW_GROUP_EVENTS = 1 << 20
PART_EVENTS = 1 << 23
ROW_GROUP_ROWS = 1 << 16
NO_TIME = -1  # real times are not negative


@dataclass(frozen=True)
class Sequences:
    """How the histories of a dataset are laid out in files; picklable, so that the executors of a cluster write them too.

    Attributes:
        folder: of the dataset.
        users, interactions: of the dataset.
        features: columns of events.
        marked: whether events have the mark of targets.
        part_events: about so many lie in a file.
    """

    folder: Path
    users: int
    interactions: int
    features: Sequence[Column] = ()
    marked: bool = False
    part_events: int = field(default_factory=lambda: PART_EVENTS)

    @property
    def parts(self) -> int:
        """How many files there are."""
        return max(1, min(self.users, -(-self.interactions // self.part_events)))

    @property
    def part_users(self) -> int:
        """Users of a file: file n has those from n times this number on, whichever engine writes it."""
        return -(-self.users // self.parts)

    def write(self, batches: Iterable[pa.RecordBatch], *, shows: bool = False) -> Iterator[tuple[str, str]]:
        """Write rows (user, item, time, feature columns, mark of targets), in the order of users and events, one row a user.

        Args:
            batches: of whole files.
            shows: a progress bar.

        Yields:
            name and SHA-256 of each file that is whole.
        """
        progress = Progress(console=console(stderr=True), transient=True, disable=not shows or not shows_bars())
        (self.folder / SEQUENCES).mkdir(exist_ok=True)
        with progress:
            task = progress.add_task("writing sequences", total=self.interactions)
            current, writer = -1, None
            for batch in batches:
                rows_CE = np.stack(
                    [column.fill_null(NO_TIME).to_numpy().astype(np.int64, copy=False) for column in batch.columns]
                )
                progress.advance(task, batch.num_rows)
                part_E = rows_CE[0] // self.part_users
                for part in np.unique(part_E).tolist():
                    if part != current:
                        if writer is not None:
                            yield writer.close()
                        current, writer = part, _Part(self, f"{SEQUENCES}/part-{part:05d}.parquet")
                    assert writer is not None
                    writer.add(rows_CE[:, slice(*np.searchsorted(part_E, [part, part + 1]))])
            if writer is not None:
                yield writer.close()


class _Part:
    """A file being written, under a name that no reader takes, in row groups of whole users."""

    def __init__(self, layout: Sequences, name: str) -> None:
        self.layout, self.name = layout, name
        fields = [*SEQUENCE_SCHEMA, *map(sequence_field, layout.features), *([TARGET_FIELD] if layout.marked else [])]
        self.schema = pa.schema(fields)
        self.pending: list[np.ndarray] = []
        self.path = layout.folder / SEQUENCES / f".{Path(name).stem}-{secrets.token_hex(4)}"
        self.writer = pq.ParquetWriter(self.path, self.schema, compression="zstd")

    def add(self, rows_CE: np.ndarray) -> None:
        """Take rows, and write the row groups that are whole."""
        self.pending.append(rows_CE)
        if sum(rows.shape[1] for rows in self.pending) <= ROW_GROUP_EVENTS:
            return
        rows_CE = np.concatenate(self.pending, axis=1)
        while cut := _row_group_end(rows_CE[0]):
            _write_group(self.writer, rows_CE[:, :cut], self.schema)
            rows_CE = rows_CE[:, cut:]
        self.pending = [rows_CE]

    def close(self) -> tuple[str, str]:
        """Write what is left, and give the file its name; returns that and the SHA-256."""
        _write_group(self.writer, np.concatenate(self.pending, axis=1), self.schema)
        self.writer.close()
        digest = file_hash(self.path)
        self.path.replace(self.layout.folder / self.name)
        return self.name, digest


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
