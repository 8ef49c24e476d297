"""Where the relational definition of `filters.py` runs: DuckDB in this process, or Spark (`spark.py`).

Both get the same Narwhals expressions. What differs is how raw events come in, how an intermediate table is kept, how ids are numbered,
and who writes the sorted rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import duckdb
import narwhals as nw
import pyarrow as pa

from intrr_rec.data.prepare.writer import ROW_GROUP_EVENTS, Sequences

EngineName = Literal["duckdb", "spark"]
Frame: TypeAlias = "nw.LazyFrame[Any]"
PLACE = ("time", "nanos", "file", "row")  # the order of one user's events


@dataclass(frozen=True)
class EngineChoice:
    """Which engine, and what it may use; none of it changes a byte of the dataset.

    Attributes:
        master: of Spark, such as `local[*]` or `spark://host:7077`; a cluster's executors must see the logs and the folder of `--out`.
        memory_gb: DuckDB's limit, above which it spills to disk; the heap of a local Spark, or of the driver, beside which
            DuckDB keeps a fifth of it for the item table.
    """

    name: EngineName = "duckdb"
    master: str = "local[*]"
    memory_gb: float = 4.0


class Engine(ABC):
    """Runs lazy Narwhals frames."""

    def __init__(self) -> None:
        self._kept: dict[str, int] = {}

    @abstractmethod
    def events(self) -> Frame:
        """The raw events: file, row, user_id, item_id, time, nanos, event."""

    @abstractmethod
    def batches(self, frame: Frame, rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of a sorted frame in their order, about `rows` at a time."""

    @abstractmethod
    def numbered(self, ids: Frame, name: str) -> Frame:
        """A column `name` of dense numbers by sorted `name_id`: integers by value, strings by their bytes."""

    @abstractmethod
    def write_sequences(self, events: Frame, layout: Sequences) -> dict[str, str]:
        """Write the events of users, sorted by `PLACE`, as the files of a dataset; returns their hashes."""

    @abstractmethod
    def close(self) -> None:
        """Leave nothing running."""

    @abstractmethod
    def _store(self, frame: Frame, table: str) -> Frame: ...

    @abstractmethod
    def _drop(self, table: str) -> None: ...

    def keep(self, frame: Frame, name: str) -> Frame:
        """Compute a frame once; takes the place of what was kept under this name, which the frame may still read."""
        version = self._kept.get(name, 0) + 1
        stored = self._store(frame, f"{name}_{version}")
        if version > 1:
            self._drop(f"{name}_{version - 1}")
        self._kept[name] = version
        return stored

    def row(self, frame: Frame) -> dict[str, Any]:
        """The values of a frame of one row."""
        return self.rows(frame)[0]

    def rows(self, frame: Frame) -> list[dict[str, Any]]:
        """The rows of a small frame."""
        return [row for batch in self.batches(frame, 1 << 10) for row in batch.to_pylist()]

    def count(self, frame: Frame) -> int:
        """How many rows a frame has."""
        return int(self.row(frame.select(rows=nw.len()))["rows"])


class DuckDBEngine(Engine):
    """DuckDB in this process, out of core: tables lie in the connection's database file."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        super().__init__()
        self.con = con
        self._reading: pa.RecordBatchReader | None = None
        # Every order that matters is asked for; what came first in a table is not kept for its own sake.
        con.execute("SET preserve_insertion_order = false")

    def events(self) -> Frame:
        """The connection's own table."""
        return nw.from_native(self.con.table("events"))

    def batches(self, frame: Frame, rows: int) -> Iterator[pa.RecordBatch]:
        """Streamed from an external sort."""
        self._reading = frame.to_native().to_arrow_reader(rows)
        yield from self._reading

    def numbered(self, ids: Frame, name: str) -> Frame:
        """By a window over all of them."""
        return ids.with_row_index(name, order_by=f"{name}_id").with_columns(nw.col(name).cast(nw.Int64))

    def write_sequences(self, events: Frame, layout: Sequences) -> dict[str, str]:
        """By this process, from an external sort."""
        rows = events.sort("user", *PLACE).select("user", "item", "time", *numbers_of(events))
        return dict(layout.write(self.batches(rows, ROW_GROUP_EVENTS), shows=True))

    def close(self) -> None:
        """Hand the connection back as it came, of a result too that nobody read to its end."""
        if self._reading is not None:
            self._reading.close()
        self.con.execute("SET preserve_insertion_order = true")

    def _store(self, frame: Frame, table: str) -> Frame:
        frame.to_native().create(table)
        return nw.from_native(self.con.table(table))

    def _drop(self, table: str) -> None:
        self.con.execute(f"DROP TABLE {table}")


def numbers_of(events: Frame) -> list[str]:
    """Columns of the numbers of features, and of the mark of targets."""
    return [name for name in events.collect_schema().names() if name not in ("user", "item", *PLACE)]
