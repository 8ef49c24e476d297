"""Raw values of features → their numbers, in DuckDB: vocabularies and buckets are fitted, then every row is looked up.

Spark's executors run the same SQL over their rows (`prepare/spark_features.py`), so engines cannot differ. A vocabulary is the most
frequent values first, equal ones by their bytes. What is fitted is fitted on the rows as they were read, before any filter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from intrr_rec.config.logs.features import FeatureConfig, FeaturesConfig, Side
from intrr_rec.data.features.columns import FALSE, FIRST, MISSING, TRUE, UNKNOWN, Column, columns_of
from intrr_rec.data.raw.files import RawFile, literal, quoted, readable, require_column
from intrr_rec.data.raw.times import time_sql
from intrr_rec.errors import DataError

EVENT_COLUMNS = ("file", "row", "user_id", "item_id", "time", "nanos", "event")
FLOATS = ("FLOAT", "DOUBLE")
KINDS_OF_VALUES = {"numeric": "number", "boolean": "truth value", "timestamp_parts": "time"}


@dataclass(frozen=True)
class Raw:
    """How a feature is read: the columns of its table that it needs, its type in `events`, and where its values are kept.

    Attributes:
        name: of the feature.
        kept: name of the raw column, quoted.
    """

    name: str
    feature: FeatureConfig
    side: Side
    kept: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the raw table; none where the events' own time is read."""
        if self.reads_clock:
            return ()
        return self.feature.columns or (self.feature.column_of(self.name),)

    @property
    def reads_clock(self) -> bool:
        """Whether it is parts of the events' own time."""
        return self.side == "event" and self.feature.kind == "timestamp_parts" and self.feature.column is None

    @property
    def type(self) -> str:
        """DuckDB type of the kept raw values."""
        kinds = {
            "numeric": "DOUBLE",
            "boolean": "BOOLEAN",
            "timestamp_parts": "BIGINT",
            "multi_categorical": "VARCHAR[]",
        }
        return kinds.get(self.feature.kind, "VARCHAR")

    def sql(self, raw: RawFile) -> str:
        """SQL of the raw value of a row; a blank one is missing."""
        kind, (column, *_) = self.feature.kind, self.columns
        if self.feature.columns is not None:
            flags = (f"CASE WHEN {_truth_sql(text_sql(raw, name))} THEN {literal(name)} END" for name in self.columns)
            return f"[x for x in [{', '.join(flags)}] if x IS NOT NULL]"
        if kind == "timestamp_parts":
            return time_sql(raw, column)[0]
        if kind == "multi_categorical":
            return _list_sql(raw, column, self.feature.separator)
        text = text_sql(raw, column)
        if kind == "numeric":
            return f"CASE WHEN NOT isnan(TRY_CAST({text} AS DOUBLE)) THEN TRY_CAST({text} AS DOUBLE) END"
        return _truth_sql(text) if kind == "boolean" else text

    def require_columns(self, raw: RawFile) -> None:
        """Refuse a file without a column of this feature.

        Raises:
            DataError: which.
        """
        for column in self.columns:
            require_column(raw, column, f"prepare.features.{self.side}.{self.name}.column")

    def bad_sql(self, raw: RawFile) -> str:
        """SQL of the text of a value that the feature's kind has not; NULL elsewhere."""
        if self.feature.kind not in KINDS_OF_VALUES or self.reads_clock:
            return "NULL"
        text = text_sql(raw, self.columns[0])
        return f"CASE WHEN lower({text}) <> 'nan' AND ({self.sql(raw)}) IS NULL THEN {text} END"

    def require(self, con: duckdb.DuckDBPyConnection, raw: RawFile) -> None:
        """Refuse a file without a column of this feature, or with a value that its kind has not.

        Raises:
            DataError: which.
        """
        self.require_columns(raw)
        if (text := self.bad_sql(raw)) == "NULL":
            return
        (column,) = self.columns
        with readable(raw.path, raw.format, raw.packing):
            bad = con.execute(
                f'SELECT "row", {text} FROM {raw.scan(column)} WHERE ({text}) IS NOT NULL ORDER BY "row" LIMIT 1'
            ).fetchall()
        if bad:
            raise DataError(
                f"{raw.path}: column '{column}', row {bad[0][0]}: {str(bad[0][1])[:80]!r} is no {KINDS_OF_VALUES[self.feature.kind]}; "
                f"correct it, or declare prepare.features.{self.side}.{self.name} as categorical"
            )


def raws_of(config: FeaturesConfig, side: Side) -> list[Raw]:
    """The features of a table by name, as they are read: in whatever order they are declared, the dataset is the same."""
    return [Raw(name, each, side, quoted(f"raw_{name}")) for name, each in sorted(getattr(config, side).items())]


def text_sql(raw: RawFile, column: str) -> str:
    """SQL of a value as a vocabulary has it; NULL where it is blank."""
    name = quoted(column)
    if raw.columns[column] in FLOATS:
        text = f"CASE WHEN {name} = floor({name}) AND abs({name}) < 1e15 THEN CAST(CAST({name} AS BIGINT) AS VARCHAR) ELSE CAST({name} AS VARCHAR) END"
    else:
        text = f"trim({raw.text_sql(column)})"
    return f"nullif({text}, '')"


class RawValues:
    """Answers what is asked of a table of raw values before they are numbered, and numbers them.

    Args:
        con: has the table.
        table: its name.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, table: str) -> None:
        self.con, self.table = con, table

    def rows(self, sql: str, *words: str) -> list[tuple[Any, ...]]:
        """The answer to SQL that all engines understand; `words` take the places of its question marks."""
        return self.con.execute(sql, list(words)).fetchall()

    def quantiles(self, raw: Raw, buckets: int) -> Sequence[float]:
        """Values between as many parts of equal size."""
        shares = ", ".join(f"{n}.0 / {buckets}" for n in range(1, buckets))
        return self.rows(f"SELECT quantile_disc({raw.kept}, [{shares}]) FROM {self.table}")[0][0] or ()

    def number(self, raws: Sequence[Raw], columns: Sequence[Column], also: Sequence[str]) -> None:
        """Replace the raw values of events by their numbers; `also` as `encode` takes it."""
        encode_events(self.con, raws, columns, also)


def fit(values_of: RawValues, raws: Sequence[Raw], known: Sequence[Column] = ()) -> list[Column]:
    """The columns of these features, with vocabularies and buckets fitted on the raw values in a table.

    Args:
        known: columns of the dataset that is added to: their vocabularies are continued, their buckets kept.
    """
    before = {column.name: column for column in known}
    found = []
    for raw in raws:
        for name, feature, part in columns_of(FeaturesConfig(**{raw.side: {raw.name: raw.feature}}), raw.side):
            values, edges, old = None, None, before.get(name)
            if feature.kind == "numeric":
                edges = old.edges if old else _edges(values_of, raw)
            elif feature.kind in ("categorical", "multi_categorical") and feature.hash_buckets is None:
                values = _values(values_of, raw, old.values or () if old else ())
            found.append(
                Column(
                    name=name,
                    side=raw.side,
                    kind=feature.kind,
                    part=part,
                    asked=feature.asked,
                    clock=raw.reads_clock,
                    separator=feature.separator,
                    values=values,
                    edges=edges,
                    hash_buckets=feature.hash_buckets,
                )
            )
    return found


def encode(
    con: duckdb.DuckDBPyConnection,
    table: str,
    raws: Sequence[Raw],
    columns: Sequence[Column],
    keep: Sequence[str],
    also: Sequence[str] = (),
) -> str:
    """SQL of a table's rows with the columns `keep`, the numbers of each feature column, `feature_0`, `feature_1`, …, and `also`."""
    kept = {raw.name: raw for raw in raws}
    joins, chosen = [], [f"t.{quoted(name)}" for name in keep]
    for n, column in enumerate(columns):
        raw = kept[column.feature]
        value = f"t.{raw.kept}"
        if column.values is None:
            sql = (
                _list_of(value, column)
                if column.is_multi
                else _number_sql("t.time" if raw.reads_clock else value, column)
            )
        elif column.is_multi:
            con.execute(
                f"CREATE OR REPLACE TABLE map_{n} AS SELECT map(list(value), list(number)) AS numbers FROM ({_register(con, n, column)})"
            )
            joins.append(f" CROSS JOIN map_{n}")
            listed = f"list_distinct([coalesce(map_{n}.numbers[x], {UNKNOWN}) for x in {value}])"
            sql = f"CASE WHEN len({value}) > 0 THEN list_sort({listed}) ELSE [{MISSING}] END"
        else:
            joins.append(f" LEFT JOIN ({_register(con, n, column)}) v{n} ON {value} = v{n}.value")
            sql = f"CASE WHEN {value} IS NULL THEN {MISSING} ELSE coalesce(v{n}.number, {UNKNOWN}) END"
        kind = "INTEGER[]" if column.is_multi else "INTEGER"
        chosen.append(f"CAST({sql} AS {kind}) AS feature_{n}")
    return f"SELECT {', '.join([*chosen, *also])} FROM {table} t{''.join(joins)}"


def encode_events(
    con: duckdb.DuckDBPyConnection, raws: Sequence[Raw], columns: Sequence[Column], also: Sequence[str] = ()
) -> None:
    """Replace the raw values in the table `events` by their numbers.

    Args:
        also: further columns, as SQL over the raw values of a row `t`.
    """
    con.execute(f"CREATE TABLE encoded AS {encode(con, 'events', raws, columns, EVENT_COLUMNS, also)}")
    con.execute("DROP TABLE events")
    con.execute("ALTER TABLE encoded RENAME TO events")


def _register(con: duckdb.DuckDBPyConnection, n: int, column: Column) -> str:
    values = list(column.values or ())
    numbers = pa.array(range(FIRST, FIRST + len(values)), pa.int32())
    con.register("vocabulary_arrow", pa.table({"value": pa.array(values, pa.string()), "number": numbers}))
    con.execute(f"CREATE OR REPLACE TABLE vocabulary_{column.side}_{n} AS FROM vocabulary_arrow")
    con.unregister("vocabulary_arrow")
    return f"FROM vocabulary_{column.side}_{n}"


def _number_sql(value: str, column: Column) -> str:
    """SQL of a single value's number, by no vocabulary."""
    if column.hash_buckets is not None:
        return f"CASE WHEN {value} IS NULL THEN {MISSING} ELSE {FIRST} + md5_number_lower({value}) % {column.hash_buckets} END"
    if column.kind == "boolean":
        return f"CASE WHEN {value} IS NULL THEN {MISSING} WHEN {value} THEN {FIRST + 1} ELSE {FIRST} END"
    if column.edges is not None:
        edges = ", ".join(f"CAST('{edge!r}' AS DOUBLE)" for edge in column.edges)
        below = f"len([x for x in [{edges}] if x <= {value}])" if edges else "0"
        return f"CASE WHEN {value} IS NULL THEN {MISSING} ELSE {FIRST} + {below} END"
    days = f"(CAST(floor({value} / 86400.0) AS BIGINT))"
    date = f"(DATE '1970-01-01' + CAST({days} AS INTEGER))"
    parts = {
        "hour": f"({value} // 3600) % 24",
        "weekday": f"({days} + 3) % 7",
        "day": f"day({date}) - 1",
        "month": f"month({date}) - 1",
    }
    return f"CASE WHEN {value} IS NULL OR {value} < 0 THEN {MISSING} ELSE {FIRST} + {parts[str(column.part)]} END"


def _list_of(value: str, column: Column) -> str:
    one = _number_sql("x", column)
    return f"CASE WHEN len({value}) > 0 THEN list_sort(list_distinct([{one} for x in {value}])) ELSE [{MISSING}] END"


def _values(values_of: RawValues, raw: Raw, known: tuple[str, ...]) -> tuple[str, ...]:
    value = f"unnest({raw.kept})" if raw.feature.kind == "multi_categorical" else raw.kept
    rows = values_of.rows(
        f"SELECT value, count(*) AS n FROM (SELECT {value} AS value FROM {values_of.table}) WHERE value IS NOT NULL GROUP BY value "
        f"HAVING count(*) >= {raw.feature.min_count} ORDER BY n DESC, value LIMIT {raw.feature.size}"
    )
    ordered = dict.fromkeys([*known, *(row[0] for row in rows)])
    return tuple(ordered)[: max(raw.feature.size, len(known))]


def _edges(values_of: RawValues, raw: Raw) -> tuple[float, ...]:
    """Edges between buckets: of as many rows each, or equally far apart in sign(x)·log(1 + |x|)."""
    buckets = raw.feature.buckets
    if raw.feature.scale == "quantile":
        return tuple(sorted({float(edge) for edge in values_of.quantiles(raw, buckets)}))
    ((low, high),) = values_of.rows(
        f"SELECT min({raw.kept}), max({raw.kept}) FROM {values_of.table} WHERE abs({raw.kept}) < CAST('inf' AS DOUBLE)"
    )
    if low is None or low == high:
        return ()
    first, last = (math.copysign(math.log1p(abs(end)), end) for end in (low, high))
    steps = (first + (last - first) * n / buckets for n in range(1, buckets))
    return tuple(sorted({math.copysign(math.expm1(abs(step)), step) for step in steps}))


def _truth_sql(text: str) -> str:
    true, false = (", ".join(map(literal, words)) for words in (TRUE, FALSE))
    return f"CASE WHEN lower({text}) IN ({true}) THEN true WHEN lower({text}) IN ({false}) THEN false END"


def _list_sql(raw: RawFile, column: str, separator: str | None) -> str:
    name, type_ = quoted(column), raw.columns[column]
    clean = "[y for y in [nullif(trim(CAST(x AS VARCHAR)), '') for x in {}] if y IS NOT NULL]"
    if type_.endswith("[]"):
        return clean.format(name)
    text = text_sql(raw, column)
    if type_ == "JSON":
        listed = f"CASE WHEN json_type({name}) = 'ARRAY' THEN CAST({name} AS VARCHAR[]) ELSE [{text}] END"
        return clean.format(listed)
    return clean.format(f"string_split({text}, {literal(separator)})" if separator else f"[{text}]")
