"""Spark, local or a cluster's: executors read the logs, filter, number, sort and write; this process holds statistics.

Events are shuffled twice: by user id, where all filters of users find their rows on one partition, and by the file of the dataset that
a user's history goes to. Tables that are read again are kept on the executors' disks. What this process reads row by row are the tables
of users and items, from files of the folder that all executors see.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import narwhals as nw
import pyarrow as pa
import pyarrow.parquet as pq

from intrr_rec.data.prepare.engines import PLACE, Engine, EngineChoice, Frame, numbers_of
from intrr_rec.data.prepare.writer import Sequences
from intrr_rec.errors import ConfigError, DataError
from intrr_rec.io.artefact import file_hash
from intrr_rec.io.disk.places import not_the_input

SPARK_EXTRA = "install requirements/spark.txt (`make spark-setup`) and Java 17"
LOCAL = "local"
FEW_BYTES = 8 << 20  # of logs, up to which compiling a query costs more than running it
PARTITION_BYTES = 16 << 20  # of logs as they are packed
HANDED_OVER = 0.2  # of the memory: what DuckDB keeps for the item table while Spark runs
BROADCAST = "64m"  # up to which a table of items goes to all executors
_FRAME = re.compile(r"\s*(at |File |\.\.\. |Driver stacktrace)|\s*$")  # of stack traces
_IN_PARTITION = 33  # bits of `monotonically_increasing_id` that count within a partition


class SparkEngine(Engine):
    """A session of Spark.

    Args:
        choice: where, and how much memory.
        scratch: a folder that all executors see.
        logs: that will be read.

    Raises:
        ConfigError: Spark is not installed or does not start.
    """

    def __init__(self, choice: EngineChoice, scratch: Path, logs: Sequence[Path]) -> None:
        super().__init__()
        self.scratch = scratch
        size = sum(path.stat().st_size for path in logs)
        self.session = _session(choice, scratch, size)
        self.partitions = max(self.session.sparkContext.defaultParallelism, size // PARTITION_BYTES)
        self.session.conf.set("spark.sql.shuffle.partitions", str(self.partitions))
        self._events: Any = None
        self._stored: dict[str, Any] = {}

    def hashes(self, files: Sequence[Path]) -> list[str]:
        """SHA-256 of files, read by the executors."""
        return list(
            self.session.sparkContext.parallelize([path.absolute() for path in files], len(files))
            .map(file_hash)
            .collect()
        )

    def set_events(self, events: Any, *, by_user: bool = True) -> None:
        """Keep the events in place of those before, laid out by user unless told otherwise."""
        before = self._events
        self._events = self._kept_on_disk(events.repartition(self.partitions, "user_id") if by_user else events)
        if before is not None:
            self._events.count()  # what it is made of may go
            before.unpersist()

    def events(self) -> Frame:
        """As they were set."""
        return nw.from_native(self._events)

    def batches(self, frame: Frame, rows: int) -> Iterator[pa.RecordBatch]:
        """Through files: a sorted frame is written one range of the order a file, and files are named in that order."""
        folder = self.scratch / "sorted"
        frame.to_native().write.parquet(str(folder))
        for part in sorted(folder.glob("part-*.parquet")):
            yield from pq.ParquetFile(part).iter_batches(rows)
            part.unlink()
        shutil.rmtree(folder)

    def rows(self, frame: Frame) -> list[dict[str, Any]]:
        """Collected by this process."""
        return [row.asDict() for row in frame.to_native().collect()]

    def numbered(self, ids: Frame, name: str) -> Frame:
        """By ranges of the order, each sorted on its own, and how many ids lie in the ranges before."""
        from pyspark.sql.functions import expr

        own = ids.to_native()
        ranges = own.repartitionByRange(self.partitions, f"{name}_id").sortWithinPartitions(f"{name}_id")
        ranges = self._kept_on_disk(ranges.selectExpr("monotonically_increasing_id() AS _place", "*"))
        part = f"shiftright(_place, {_IN_PARTITION})"
        counts = {row[0]: row[1] for row in ranges.groupBy(expr(part)).count().collect()}
        before = list(accumulate((counts.get(n, 0) for n in range(max(counts, default=0))), initial=0))
        number = f"_place % {1 << _IN_PARTITION} + {_looked_up(before, part)}"
        return nw.from_native(ranges.selectExpr(f"{number} AS {name}", *own.columns))

    def write_sequences(self, events: Frame, layout: Sequences) -> dict[str, str]:
        """By the executors, a file a task: each file has a key that Spark's hash sends to a partition of its own."""
        from pyspark.sql.functions import expr

        def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for name, digest in layout.write(batches):
                yield pa.record_batch({"name": [name], "hash": [digest]})

        n = layout.parts
        hashed = self.session.range(64 * n).selectExpr("id", f"pmod(hash(id), {n}) AS place")
        keys = {row["place"]: row["id"] for row in hashed.groupBy("place").agg(expr("min(id) AS id")).collect()}
        key = _looked_up([keys[place] for place in range(n)], f"user div {layout.part_users}")
        laid = events.to_native().repartition(n, expr(key)).sortWithinPartitions("user", *PLACE)
        rows = laid.select("user", "item", "time", *numbers_of(events))
        return {row["name"]: row["hash"] for row in mapped(rows, write, "name STRING, hash STRING").collect()}

    def close(self) -> None:
        """Give the executors back."""
        self.session.stop()

    def _store(self, frame: Frame, table: str) -> Frame:
        self._stored[table] = self._kept_on_disk(frame.to_native())
        self._stored[table].count()  # what it is made of may go
        return nw.from_native(self._stored[table])

    def _drop(self, table: str) -> None:
        self._stored.pop(table).unpersist()

    @staticmethod
    def _kept_on_disk(frame: Any) -> Any:
        from pyspark import StorageLevel

        return frame.persist(StorageLevel.DISK_ONLY)


@contextmanager
def spark_engine(choice: EngineChoice, scratch: Path, logs: Sequence[Path]) -> Iterator[SparkEngine]:
    """A session for one preparation.

    Raises:
        ConfigError: as `SparkEngine`.
        DataError: what Spark met: a damaged file, a full disk, lost executors.
    """
    with closing(SparkEngine(choice, scratch, logs)) as engine:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            yield engine
        except (PySparkException, Py4JError) as error:
            not_the_input(error)
            lines = [line.strip() for line in str(error).splitlines() if line.strip() and not _FRAME.match(line)]
            raise DataError(f"--engine spark: {lines[-1][:300] if lines else type(error).__name__}") from None


def mapped(frame: Any, function: Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]], schema: str) -> Any:
    """`frame.mapInArrow(function, schema)`, which asks for pandas and uses none."""
    from pyspark.sql.classic.dataframe import DataFrame
    from pyspark.sql.udf import UserDefinedFunction
    from pyspark.util import PythonEvalType

    udf: Any = UserDefinedFunction(function, schema, evalType=PythonEvalType.SQL_MAP_ARROW_ITER_UDF)
    column = udf(*(frame[name] for name in frame.columns))
    return DataFrame(frame._jdf.mapInArrow(column._jc, False, None), frame.sparkSession)


def _looked_up(numbers: Sequence[int], place: str) -> str:
    """SQL of the number at a place of a list."""
    return f"element_at(array({', '.join(f'{number}L' for number in numbers)}), CAST({place} AS INT) + 1)"


def _session(choice: EngineChoice, scratch: Path, size: int) -> Any:
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise ConfigError(f"--engine spark: pyspark is not installed; {SPARK_EXTRA}") from None
    if shutil.which("java") is None and not os.environ.get("JAVA_HOME"):
        raise ConfigError(f"--engine spark: no `java` on the PATH and no JAVA_HOME; {SPARK_EXTRA}")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # of executors; read as the session starts
    builder = SparkSession.builder.appName("intrr prepare").master(choice.master)
    settings = {
        "spark.driver.memory": f"{max(1024, round(choice.memory_gb * 1024))}m",
        "spark.log.level": "FATAL",
        "spark.sql.adaptive.autoBroadcastJoinThreshold": BROADCAST,
        "spark.sql.caseSensitive": "true",
        "spark.sql.csv.parser.columnPruning.enabled": "false",  # so that rows of too few or many fields are told
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(1 << 17),
        "spark.sql.inMemoryColumnarStorage.compressed": "false",  # it costs more than the bytes that it saves
        "spark.sql.legacy.parquet.nanosAsLong": "true",
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
        }
    if size <= FEW_BYTES:
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
