"""Features of events on Spark: executors read and number values by the SQL of `features/encode.py`, each over its own rows.

What is fitted are counts, the ends and the quantiles of a column; Spark sums and sorts, and this process gets no more than a vocabulary
or the edges of buckets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import duckdb
import narwhals as nw
import pyarrow as pa

from intrr_rec.data.features.columns import Column
from intrr_rec.data.features.encode import KINDS_OF_VALUES, Raw, RawValues, encode
from intrr_rec.data.prepare.filters import TARGET
from intrr_rec.data.prepare.spark import SparkEngine, mapped
from intrr_rec.data.raw.files import RawFile, literal, quoted

BAD = "_bad"
_TYPES = {
    "VARCHAR": ("STRING", pa.string()),
    "DOUBLE": ("DOUBLE", pa.float64()),
    "BOOLEAN": ("BOOLEAN", pa.bool_()),
    "BIGINT": ("BIGINT", pa.int64()),
}


def with_raw_values(frame: Any, raw: RawFile, raws: Sequence[Raw], inputs: dict[str, str]) -> Any:
    """The raw values of features in place of the columns that they are read from, and what is wrong with one (`BAD`).

    Args:
        inputs: by column of the logs, the name of its own in the frame.
    """
    bad = [
        f"{literal(f'column {each.columns[0]!r}: ')} || ({each.bad_sql(raw)}) || {literal(f' is no {KINDS_OF_VALUES[each.feature.kind]}')}"
        for each in raws
        if each.feature.kind in KINDS_OF_VALUES
    ]
    given = ", ".join(f"{_as_duckdb(frame, raw, column, name)} AS {quoted(column)}" for column, name in inputs.items())
    values = ", ".join(f"{each.sql(raw)} AS {each.kept}" for each in raws)
    sql = f"SELECT {values}, coalesce({', '.join([*bad, 'CAST(NULL AS VARCHAR)'])}) AS {BAD} FROM (SELECT {given} FROM batch)"
    kept = [name for name in frame.columns if name not in inputs.values()]
    new = [pa.field(f"raw_{each.name}", _TYPES[each.type][1]) for each in raws] + [pa.field(BAD, pa.string())]

    def read(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with closing(_duckdb()) as con:
            for batch in batches:
                con.register("batch", pa.Table.from_batches([batch]))
                found = con.sql(sql).to_arrow_table().cast(pa.schema(new)).combine_chunks()
                if batch.num_rows:
                    columns = [*batch.select(kept).columns, *found.to_batches()[0].columns]
                    yield pa.record_batch(columns, [*kept, *found.column_names])

    types = [f"{_name(f'raw_{each.name}')} {_TYPES[each.type][0]}" for each in raws]
    return mapped(frame, read, ", ".join([*_fields(frame, kept), *types, f"{BAD} STRING"]))


class SparkValues(RawValues):
    """As `RawValues`, of the engine's events."""

    def __init__(self, engine: SparkEngine) -> None:
        self.engine, self.table = engine, "events"
        self._events = engine.events().to_native()
        self._events.createOrReplaceTempView(self.table)

    def rows(self, sql: str, *words: str) -> list[tuple[Any, ...]]:
        """As `RawValues.rows`: its double quotes stand around names alone."""
        return [tuple(row) for row in self.engine.session.sql(sql.replace('"', "`"), list(words)).collect()]

    def quantiles(self, raw: Raw, buckets: int) -> Sequence[float]:
        """By the places of values in the sorted column, as DuckDB's `quantile_disc` rounds them."""
        values = self.engine.events().select(value_id=nw.col(f"raw_{raw.name}")).drop_nulls()
        n = self.engine.count(values)
        places = {max(1, n - math.floor(n - n * (part / buckets))) - 1 for part in range(1, buckets)}
        found = self.engine.numbered(values, "value").filter(nw.col("value").is_in(sorted(places)))
        return [row["value_id"] for row in self.engine.rows(found)] if n else []

    def number(self, raws: Sequence[Raw], columns: Sequence[Column], also: Sequence[str]) -> None:
        """By the executors; `also` is the mark of targets."""
        kept = [name for name in self._events.columns if not name.startswith("raw_")]
        new = [f"feature_{n}" for n in range(len(columns))] + [TARGET] * len(also)

        def number(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            sql = ""
            with closing(_duckdb()) as con:
                for batch in batches:
                    con.register("batch", pa.Table.from_batches([batch]))
                    sql = sql or encode(con, "batch", raws, columns, kept, also)
                    schema = [pa.field(name, batch.schema.field(name).type) for name in kept]
                    schema += [pa.field(name, pa.int32()) for name in new]
                    yield from con.sql(sql).to_arrow_table().cast(pa.schema(schema)).to_batches()

        ddl = ", ".join([*_fields(self._events, kept), *(f"{name} INT" for name in new)])
        self.engine.set_events(mapped(self._events, number, ddl))


def _as_duckdb(frame: Any, raw: RawFile, column: str, name: str) -> str:
    """SQL of a value of a batch in the type that DuckDB reads from the file."""
    type_, spark = raw.columns[column], frame.schema[name].dataType.typeName()
    if raw.format == "json" and raw.is_typed(column):
        return f"(CAST({name} AS JSON) ->> '$')" if type_ == "VARCHAR" else f"CAST(CAST({name} AS JSON) AS {type_})"
    return f"make_timestamp_ns({name})" if type_ == "TIMESTAMP_NS" and spark == "long" else f"CAST({name} AS {type_})"


def _duckdb() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect(config={"threads": 1, "autoinstall_known_extensions": "false"})
    con.execute("SET TimeZone = 'UTC'")
    return con


def _fields(frame: Any, names: Sequence[str]) -> list[str]:
    return [f"{_name(name)} {frame.schema[name].dataType.simpleString()}" for name in names]


def _name(column: str) -> str:
    return "`" + column.replace("`", "``") + "`"
