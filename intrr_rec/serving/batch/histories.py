"""Histories of a batch job, streamed: a shard of users at a time, whatever their number.

Two sources: a prepared dataset, whose sequences are in order already, and a Parquet table of events, which DuckDB sorts by user
and time on disk. Items are known by the user's own id, since a bundle may have been made from another dataset.

Shape suffixes: U users of a shard, E events.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from intrr_rec.config import PrepareConfig
from intrr_rec.config.time_units import TimeUnit
from intrr_rec.data.dataset import ITEMS, KIND, REQUIRED, SEQUENCES, USERS
from intrr_rec.data.raw.files import RawFile, open_raw, quoted, readable, require_column
from intrr_rec.data.raw.paths import files_hash, table_files
from intrr_rec.data.raw.times import time_sql
from intrr_rec.errors import DataError
from intrr_rec.io import artefact

READ_ROWS = 131_072
MEMORY = "256MB"  # what DuckDB may hold while it sorts; the rest goes to disk


@dataclass(frozen=True)
class Histories:
    """Histories of some users.

    Attributes:
        user_ids: their own ids.
        items_E: own ids of the items of all events (string), user after user, the oldest first.
        offsets: `[U + 1]`.
        times_E: seconds since 1970 of each event; None where there are none.
        request_U: the moment the recommendation is asked for; likewise.
    """

    user_ids: pa.Array
    items_E: pa.Array
    offsets: NDArray[np.int64]
    times_E: NDArray[np.int64] | None
    request_U: NDArray[np.int64] | None


class Source(Protocol):
    """Where histories come from."""

    @property
    def identity(self) -> str:
        """Of the content, for the name of the job."""

    @property
    def users(self) -> int | None:
        """How many there are; None where that is not known beforehand."""

    def shards(self, users: int, scratch: Path) -> Iterator[Histories]:
        """Histories of `users` users at a time, always the same; `scratch` may be written to."""


class DatasetSource:
    """The users of a prepared dataset.

    Args:
        path: of the dataset.
        held_out: events at the end of every history that are left out; 1 is what `intrr evaluate` does for the test
            split of leave-one-out.

    Raises:
        ArtefactError: not a whole dataset.
    """

    def __init__(self, path: Path, held_out: int) -> None:
        self._opened = artefact.open_artefact(path, KIND, lambda opened: opened, REQUIRED)
        manifest = self._opened.manifest
        self.held_out = held_out
        self.identity = f"{manifest.content_hash}-{held_out}"
        self.users: int | None = manifest.counts["users"]
        self._parts = sorted(name for name in manifest.files if name.startswith(f"{SEQUENCES}/"))

    def shards(self, users: int, scratch: Path) -> Iterator[Histories]:
        """See `Source`."""
        item_ids = self._opened.parquet(ITEMS).read(["item_id"])["item_id"].cast(pa.string()).combine_chunks()
        user_ids = self._opened.parquet(USERS).read(["user_id"])["user_id"].combine_chunks()
        pending: list[pa.Table] = []
        for part in self._parts:
            for batch in self._opened.parquet(part).iter_batches(batch_size=min(users, READ_ROWS)):
                pending.append(pa.Table.from_batches([batch]))
                while sum(map(len, pending)) >= users:
                    table = pa.concat_tables(pending)
                    yield self._histories(table[:users], item_ids, user_ids)
                    pending = [table[users:]]
        if sum(map(len, pending)):
            yield self._histories(pa.concat_tables(pending), item_ids, user_ids)

    def _histories(self, table: pa.Table, item_ids: pa.Array, user_ids: pa.Array) -> Histories:
        length_U = pc.list_value_length(table["items"]).to_numpy()
        kept_U = np.maximum(length_U - self.held_out, 0)
        place_E = np.arange(length_U.sum()) - np.repeat(np.cumsum(length_U) - length_U, length_U)
        is_kept_E = place_E < np.repeat(kept_U, length_U)
        times_E = request_U = None
        if not table["timestamps"].null_count:
            all_E = pc.list_flatten(table["timestamps"]).to_numpy()
            times_E = all_E[is_kept_E]
            asked_U = np.minimum(kept_U, length_U - 1)  # at the first event left out, or right after the last
            request_U = all_E[np.cumsum(length_U) - length_U + asked_U]
        return Histories(
            user_ids.take(table["user"].combine_chunks()),
            item_ids.take(pa.array(pc.list_flatten(table["items"]).to_numpy()[is_kept_E])),
            np.concatenate([[0], np.cumsum(kept_U)]),
            times_E,
            request_U,
        )


class EventSource:
    """The users of a Parquet table of events, or a folder of its shards.

    Each history is in order of time, and in the order of the rows where times are equal or `config.time_column` is null or
    not there. A recommendation is asked for right after the last event.

    Args:
        path: file or folder.
        config: names of the columns.

    Raises:
        DataError: not Parquet, a column that is missing, or an empty user or item.
    """

    def __init__(self, path: Path, config: PrepareConfig) -> None:
        self.path, self.config, self.users = path, config, None
        files = table_files(path)
        self.identity = files_hash(files)
        with closing(duckdb.connect()) as con:
            self._raw = [self._open(con, file) for file in files]
        self._has_times = all(config.time_column in raw.columns for raw in self._raw)

    def shards(self, users: int, scratch: Path) -> Iterator[Histories]:
        """See `Source`."""
        settings = {"temp_directory": str(scratch), "memory_limit": MEMORY, "preserve_insertion_order": "false"}
        table: pa.Table | None = None
        with closing(duckdb.connect(config=settings)) as con:
            con.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
            for batch in con.sql(self._sql()).to_arrow_reader(READ_ROWS):
                read = pa.Table.from_batches([batch])
                table = read if table is None else pa.concat_tables([table, read])
                first_U = np.flatnonzero(_is_start(table["user"]))
                while len(first_U) > users:  # the last user may go on in the next batch
                    yield self._histories(table[: first_U[users]])
                    table, first_U = table[first_U[users] :], first_U[users:] - first_U[users]
        if table is not None:
            yield self._histories(table)

    def _open(self, con: duckdb.DuckDBPyConnection, file: Path) -> RawFile:
        raw = open_raw(con, file)
        if raw.format != "parquet":
            raise DataError(f"{file}: is not Parquet; write the events as Parquet, or prepare a dataset of them")
        for column, setting in ((self.config.user_column, "user_column"), (self.config.item_column, "item_column")):
            require_column(raw, column, f"prepare.{setting}")
            with readable(file, raw.format):
                scan = raw.scan(column)
                row = con.execute(f'SELECT min("row") FROM {scan} WHERE {quoted(column)} IS NULL').fetchall()[0][0]
            if row is not None:
                raise DataError(f"{file}: column '{column}', row {row}: is empty; fill it in or remove the row")
        return raw

    def _sql(self) -> str:
        user, item, time = self.config.user_column, self.config.item_column, self.config.time_column
        read: set[str] = {user, item, *([time] if self._has_times and time else [])}
        unit: TimeUnit = "s" if self.config.time_unit == "auto" else self.config.time_unit
        times = [time_sql(raw, str(time), unit) if self._has_times else ("NULL", "NULL") for raw in self._raw]
        parts = [
            f'SELECT {quoted(user)} AS "user", CAST({quoted(item)} AS VARCHAR) AS item, {n} AS file, "row", '
            f"{times[n][0]} AS time, {times[n][1]} AS nanos FROM {raw.scan(*sorted(read))}"
            for n, raw in enumerate(self._raw)
        ]
        return f'SELECT "user", item, time FROM ({" UNION ALL ".join(parts)}) ORDER BY "user", time, nanos, file, "row"'

    def _histories(self, table: pa.Table) -> Histories:
        first_U = np.flatnonzero(_is_start(table["user"]))
        offsets = np.append(first_U, len(table))
        times_E = None
        if self._has_times:
            if table["time"].null_count:
                raise DataError(
                    f"{self.path}: column '{self.config.time_column}': {table['time'].null_count} values are no timestamps; "
                    "write whole seconds since 1970 or ISO 8601"
                )
            times_E = table["time"].to_numpy()
        return Histories(
            table["user"].combine_chunks().take(pa.array(first_U)),
            table["item"].combine_chunks(),
            offsets,
            times_E,
            None if times_E is None else times_E[offsets[1:] - 1],
        )


def _is_start(users: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Where a user differs from the one before."""
    users = users.combine_chunks()
    differs = pc.not_equal(users[1:], users[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([np.ones(min(1, len(users)), np.bool_), differs])
