"""Where the relational definition of `relations.py` runs: DuckDB in this process, or Spark.

Both get the same Narwhals expressions. What differs is how raw events come in, how an intermediate table is kept, and how
the sorted rows come back in bounded memory.
"""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb
import narwhals as nw
import pyarrow as pa
import pyarrow.parquet as pq

from intrr_rec.errors import ConfigError
from intrr_rec.io.places import not_the_input

EngineName = Literal["duckdb", "spark"]
SPARK_EXTRA = "install requirements/spark.txt (`make spark-setup`) and Java 17"
LOCAL = "local"
FEW = 1_000_000  # events up to which compiling a query costs more than running it
HANDED_OVER = 0.2  # of the memory: what DuckDB keeps for the item table while Spark runs


@dataclass(frozen=True)
class EngineChoice:
    """Which engine, and what it may use; none of it changes a byte of the dataset.

    Attributes:
        master: of Spark, such as `local[*]` or `spark://host:7077`; a cluster's executors must see the folder of `--out`.
        memory_gb: DuckDB's limit, above which it spills to disk; the heap of a local Spark, or of the driver, beside which
            DuckDB keeps a fifth of it.
    """

    name: EngineName = "duckdb"
    master: str = "local[*]"
    memory_gb: float = 4.0

    def open(self, con: duckdb.DuckDBPyConnection, scratch: Path) -> Engine:
        """Start it over the table `events` of `con`.

        Raises:
            ConfigError: Spark is not installed or does not start.
        """
        if self.name == "duckdb":
            return DuckDBEngine(con)
        return SparkEngine(con, scratch, self)


class Engine(ABC):
    """Runs lazy Narwhals frames."""

    def __init__(self) -> None:
        self._kept: dict[str, int] = {}

    @abstractmethod
    def events(self) -> nw.LazyFrame[Any]:
        """The raw events: file, row, user_id, item_id, time, nanos, event."""

    @abstractmethod
    def batches(self, frame: nw.LazyFrame[Any], rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of a sorted frame in their order, about `rows` at a time."""

    @abstractmethod
    def close(self) -> None:
        """Leave nothing running."""

    @abstractmethod
    def _store(self, frame: nw.LazyFrame[Any], table: str) -> nw.LazyFrame[Any]: ...

    @abstractmethod
    def _drop(self, table: str) -> None: ...

    def keep(self, frame: nw.LazyFrame[Any], name: str) -> nw.LazyFrame[Any]:
        """Compute a frame once; takes the place of what was kept under this name, which the frame may still read."""
        version = self._kept.get(name, 0) + 1
        stored = self._store(frame, f"{name}_{version}")
        if version > 1:
            self._drop(f"{name}_{version - 1}")
        self._kept[name] = version
        return stored

    def row(self, frame: nw.LazyFrame[Any]) -> dict[str, Any]:
        """The values of a frame of one row."""
        return self.rows(frame)[0]

    def rows(self, frame: nw.LazyFrame[Any]) -> list[dict[str, Any]]:
        """The rows of a small frame."""
        return [row for batch in self.batches(frame, 1 << 10) for row in batch.to_pylist()]

    def count(self, frame: nw.LazyFrame[Any]) -> int:
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

    def events(self) -> nw.LazyFrame[Any]:
        """The connection's own table."""
        return nw.from_native(self.con.table("events"))

    def batches(self, frame: nw.LazyFrame[Any], rows: int) -> Iterator[pa.RecordBatch]:
        """Streamed from an external sort."""
        self._reading = frame.to_native().to_arrow_reader(rows)
        yield from self._reading

    def close(self) -> None:
        """Hand the connection back as it came, of a result too that nobody read to its end."""
        if self._reading is not None:
            self._reading.close()
        self.con.execute("SET preserve_insertion_order = true")

    def _store(self, frame: nw.LazyFrame[Any], table: str) -> nw.LazyFrame[Any]:
        frame.to_native().create(table)
        return nw.from_native(self.con.table(table))

    def _drop(self, table: str) -> None:
        self.con.execute(f"DROP TABLE {table}")


class SparkEngine(Engine):
    """Spark, local or a cluster's; tables go through Parquet in `scratch`, which all executors must see."""

    def __init__(self, con: duckdb.DuckDBPyConnection, scratch: Path, choice: EngineChoice) -> None:
        super().__init__()
        self.scratch = scratch
        rows = con.execute("SELECT count(*) FROM events").fetchall()[0][0]
        con.execute(
            f"COPY events TO '{_escaped(scratch / 'events')}' (FORMAT parquet, PER_THREAD_OUTPUT, COMPRESSION zstd)"
        )
        con.execute("DROP TABLE events")
        # What DuckDB held is given back before Spark takes its heap: together they would take twice the memory allowed.
        con.execute(f"SET memory_limit = '{round(choice.memory_gb * HANDED_OVER * 1000)}MB'")
        self.session = _session(choice, scratch, rows)

    def events(self) -> nw.LazyFrame[Any]:
        """Written for Spark when the engine was started."""
        return self._read("events")

    def batches(self, frame: nw.LazyFrame[Any], rows: int) -> Iterator[pa.RecordBatch]:
        """Through files: a sorted frame is written one range of the order a file, and files are named in that order."""
        folder = self.scratch / "sorted"
        frame.to_native().write.parquet(str(folder))
        for part in sorted(folder.glob("part-*.parquet")):
            yield from pq.ParquetFile(part).iter_batches(rows)
            part.unlink()
        shutil.rmtree(folder)

    def rows(self, frame: nw.LazyFrame[Any]) -> list[dict[str, Any]]:
        """Collected by the driver."""
        return [row.asDict() for row in frame.to_native().collect()]

    def close(self) -> None:
        """Give the executors back."""
        self.session.stop()

    def _store(self, frame: nw.LazyFrame[Any], table: str) -> nw.LazyFrame[Any]:
        frame.to_native().write.parquet(str(self.scratch / table))
        return self._read(table)

    def _drop(self, table: str) -> None:
        shutil.rmtree(self.scratch / table)

    def _read(self, table: str) -> nw.LazyFrame[Any]:
        return nw.from_native(self.session.read.parquet(str(self.scratch / table)))


def _session(choice: EngineChoice, scratch: Path, rows: int) -> Any:
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise ConfigError(f"--engine spark: pyspark is not installed; {SPARK_EXTRA}") from None
    if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
        raise ConfigError(f"--engine spark: no `java` on the PATH and no JAVA_HOME; {SPARK_EXTRA}")
    builder = SparkSession.builder.appName("intrr prepare").master(choice.master)
    settings = {
        "spark.driver.memory": f"{max(1024, round(choice.memory_gb * 1024))}m",
        "spark.log.level": "ERROR",
        "spark.sql.parquet.compression.codec": "zstd",
        "spark.sql.session.timeZone": "UTC",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.warehouse.dir": str(scratch / "warehouse"),
    }
    if choice.master.startswith(LOCAL):
        settings |= {
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            "spark.local.dir": str(scratch / "spill"),
            # The default of 200 is for a cluster; a task of a few million rows sorts in memory.
            "spark.sql.shuffle.partitions": str(max(1, min(200, rows // 2_000_000))),
        }
        if rows <= FEW:
            settings |= {
                "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
                "spark.sql.adaptive.enabled": "false",
                "spark.sql.codegen.factoryMode": "NO_CODEGEN",
                "spark.sql.codegen.wholeStage": "false",
            }
    for name, value in settings.items():
        builder = builder.config(name, value)
    try:
        return builder.getOrCreate()
    except (PySparkException, OSError) as error:
        not_the_input(error)
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--engine spark: Spark at {choice.master} did not start ({reason}); {SPARK_EXTRA}") from None


def _escaped(path: Path) -> str:
    return str(path).replace("'", "''")
