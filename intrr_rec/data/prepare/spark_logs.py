"""Raw logs → events, read and checked by Spark: Parquet, ORC, text with separators, JSON lines.

What is a good id or time is the definition of `raw/files.py` and `raw/times.py`, as Spark's expressions. One pass over all files
checks their values. Of a file that holds a bad one, DuckDB then reads as much as names row and value, so that both engines say one line.

`row` is the number of the row in Parquet. Elsewhere it rises in the order of rows and says no more: no more rows than bytes lie before it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import duckdb

from intrr_rec.config import PrepareConfig
from intrr_rec.config.logs.preparation import MAX_ID_CHARACTERS
from intrr_rec.config.logs.time_units import EARLIEST, FIRST_OF, LATEST, PER_SECOND, UNIT_NAMES, YEAR_10000, TimeUnit
from intrr_rec.data.features.encode import raws_of
from intrr_rec.data.prepare.spark_features import BAD, with_raw_values
from intrr_rec.data.raw.files import CANONICAL_INTEGER, INTEGERS, MISSING, IdKind, RawFile, literal
from intrr_rec.data.raw.logs import create_events, load_events
from intrr_rec.data.raw.times import DATE, DATES, FLOAT32_WHOLE, FRACTION, NANOS, NUMBER, time_sql
from intrr_rec.errors import ConfigError, DataError

log = logging.getLogger(__name__)
EVENT = ("file", "row", "user_id", "item_id", "time", "nanos")
MALFORMED = "_malformed"
_GOOD_TEXT = ("uncompressed", "gzip")
_CODECS = {"utf-8": "UTF-8", "latin-1": "ISO-8859-1"}


def require_readable(logs: Sequence[RawFile], config: PrepareConfig) -> None:
    """Refuse what DuckDB does and Spark does not.

    Raises:
        ConfigError: a setting, or the format of a file.
    """
    for raw in logs:
        if set(str(raw.path.absolute())) & set("*?[]{}\\"):
            raise ConfigError(f"{raw.path}: Spark takes the name for a pattern; rename it, or leave --engine out")
        by_name = "gzip" if raw.path.suffix.lower() == ".gz" else "uncompressed"
        if raw.packing not in _GOOD_TEXT or (raw.format != "parquet" and raw.packing != by_name):
            raise ConfigError(
                f"{raw.path}: Spark reads no text packed like this; pack it as .gz, or leave --engine out"
            )
        if raw.format == "json" and raw.json_form != "newline_delimited":
            raise ConfigError(f"{raw.path}: Spark reads JSON lines without a mark before them; leave --engine out")


class SparkLogs:
    """The logs of one preparation.

    Args:
        session: of Spark.
        logs: their files, in the order in which they count.
        config: names the columns.
    """

    def __init__(self, session: Any, logs: Sequence[RawFile], config: PrepareConfig) -> None:
        self.session, self.logs, self.config = session, list(logs), config
        self._long_fields: dict[tuple[str, ...], bool] = {}  # by files
        named = (config.user_column, config.item_column, config.time_column, config.event_column)
        self.named = list(dict.fromkeys(column for column in named if column is not None))
        self.features = [each for each in raws_of(config.features, "event") if not each.reads_clock]
        for raw in logs:
            for each in self.features:
                each.require_columns(raw)
        self.of_features = list(dict.fromkeys(column for each in self.features for column in each.columns))
        self.columns = list(dict.fromkeys([*self.named, *self.of_features]))

    def kind_of_text(self, column: str) -> IdKind:
        """What the ids of text tables are: integers, if each of them is the plain decimal form of one."""
        name = _name(column)
        bad = f"{name} IS NOT NULL AND {_id(self.logs[0], column, 'integer', False)} IS NULL"
        found = self._rows(self.logs).filter(bad).limit(1).count()
        return "string" if found else "integer"

    def load(self, con: duckdb.DuckDBPyConnection, kinds: dict[str, IdKind]) -> tuple[Any, TimeUnit | None]:
        """The events, and the unit that their times count in.

        Args:
            con: for what is said of a file that holds a bad value.

        Raises:
            DataError: the first file with a value that cannot be used; or times of several units.
        """
        asked: TimeUnit = "s" if self.config.time_unit == "auto" else self.config.time_unit
        found = {row["file"]: row for row in self._checked(self._events(kinds, asked)).collect()}
        unit: TimeUnit | None = None
        for n, raw in enumerate(self.logs):
            if n not in found:
                raise DataError(f"{raw.path}: holds no rows; remove it or write it again")
            own = self._unit_of(con, raw, found[n].asDict(), kinds)
            if own is not None and unit is not None and own != unit:
                raise DataError(
                    f"{raw.path}: column '{self.config.time_column}': counts {UNIT_NAMES[own]}, but the logs before it count "
                    f"{UNIT_NAMES[unit]}; write all in one unit"
                )
            unit = own or unit
        if unit not in (None, asked):
            log.warning(
                "column '%s': counts %s since 1970, read as such; prepare.time_unit=%s says so for certain",
                self.config.time_column,
                UNIT_NAMES[unit],
                unit,
            )
        events = self._events(kinds, unit or asked)
        chosen = [
            *EVENT,
            *(["event"] if self.config.event_column else []),
            *(f"raw_{each.name}" for each in self.features),
        ]
        return events.select(*map(_name, chosen)), unit

    def _checked(self, events: Any) -> Any:
        """What the values of each file come to: as few numbers as tell that all is well."""
        from pyspark.sql.functions import expr

        time = self.config.time_column
        dates = f"count_if({_name(f'text_{time}')} RLIKE '{DATE}')" if time else "0"
        asked = {
            "missing": "count(*) - least(count(user_id), count(item_id)" + (", count(time))" if time else ")"),
            "malformed": f"min({MALFORMED})",
            "bad": f"min({BAD})" if self.features else "NULL",
            "first": "min(time)",
            "last": "max(time)",
            "dates": dates if time and any(raw.columns[time] in ("VARCHAR", "JSON") for raw in self.logs) else "0",
        }
        return events.groupBy("file").agg(*(expr(f"{sql} AS {name}") for name, sql in asked.items()))

    def _unit_of(
        self, con: duckdb.DuckDBPyConnection, raw: RawFile, found: Any, kinds: dict[str, IdKind]
    ) -> TimeUnit | None:
        """The unit of a file without bad values; None where its times have none.

        A unit is a range of plausible numbers, and the ranges do not overlap: where the first and the last time are of one, all are.
        """
        time, asked, first, last = self.config.time_column, self.config.time_unit, found["first"], found["last"]
        typed = "" if time is None else raw.columns[time]
        dated = typed == "DATE" or typed.startswith("TIMESTAMP")
        looks = {_look(each, asked) for each in (first, last)} if typed and first is not None else {None}
        well = not found["missing"] and found["malformed"] is None and found["bad"] is None
        if typed and well:
            well = first >= 0 and (last < YEAR_10000 or not (dated or asked != "auto"))
            well &= not (typed == "FLOAT" and last > FLOAT32_WHOLE)
            if asked != "auto":
                well &= looks in ({None}, {asked}) or dated
            elif not dated:
                well &= len(looks) == 1 and None not in looks and not all(map(_like_a_date, (first, last)))
                well &= looks == {"s"} or not found["dates"]
        if well:
            return None if dated or not typed else asked if asked != "auto" else looks.pop()
        if raw.format == "orc":
            raise DataError(f"{raw.path}: {found['bad'] or self._example(raw, kinds)}; correct the value")
        create_events(con, kinds, self.config)
        unit = load_events(con, [raw], kinds, self.config, 0)
        con.execute("DROP TABLE events")
        if found["malformed"]:
            raise DataError(f"{raw.path}: holds a row that Spark cannot read ({found['malformed'][:80]!r}); correct it")
        return unit

    def _example(self, raw: RawFile, kinds: dict[str, IdKind]) -> str:
        """A bad value, for a file that DuckDB does not read."""
        user, item, time = self.config.user_column, self.config.item_column, self.config.time_column
        rows = self._events(kinds, "s").filter(f"file = {self.logs.index(raw)}")
        for ours, column in (("user_id", user), ("item_id", item), ("time", time)):
            if column is not None:
                bad = rows.filter(f"{ours} IS NULL OR {ours} < 0" if ours == "time" else f"{ours} IS NULL").head()
                if bad is not None:
                    return f"column '{column}': {bad[f'text_{column}']!r} is no {'time' if ours == 'time' else 'id'}"
        return f"column '{time}': holds times of several units, or none that are plausible"

    def _events(self, kinds: dict[str, IdKind], unit: TimeUnit) -> Any:
        """The columns `EVENT`, their texts with `text_` before their names, the raw values of features, and what was malformed."""
        return _united(self._of_shape(raws, kinds, unit) for raws in self._shapes().values())

    def _of_shape(self, raws: list[RawFile], kinds: dict[str, IdKind], unit: TimeUnit) -> Any:
        raw, config, rows = raws[0], self.config, self._rows(raws)
        as_text = config.id_type == "string"
        seconds, nanos = ("CAST(NULL AS BIGINT)",) * 2
        if config.time_column is not None:
            time_sql(raw, config.time_column, unit)  # refuses types that hold no times
            counted = rows.schema[config.time_column].dataType.typeName() == "long"
            seconds, nanos = _time(raw, config.time_column, unit, counted)
        ids = (_id(raw, column, kinds[column], as_text) for column in (config.user_column, config.item_column))
        event = {} if config.event_column is None else {"event": _text(raw, config.event_column)}
        chosen = event | dict(zip(EVENT, ("file", "row", *ids, seconds, nanos), strict=True))
        kept = [f"{_text(raw, column)} AS {_name('text_' + column)}" for column in self.named]
        inputs = {column: f"_input_{n}" for n, column in enumerate(self.of_features)}
        kept += [f"{self._as_read(raw, column)} AS {name}" for column, name in inputs.items()]
        events = rows.selectExpr(*(f"{sql} AS {name}" for name, sql in chosen.items()), *kept, MALFORMED)
        return with_raw_values(events, raw, self.features, inputs) if inputs else events

    @staticmethod
    def _as_read(raw: RawFile, column: str) -> str:
        return f"to_json({_name(column)})" if raw.format == "json" and raw.is_typed(column) else _name(column)

    def _shapes(self) -> dict[Any, list[RawFile]]:
        """Files that one scan reads."""
        shapes = defaultdict(list)
        for raw in self.logs:
            types = tuple(raw.columns[column] for column in self.columns)
            shapes[raw.format, types, raw.dialect, tuple(sorted(raw.constants))].append(raw)
        return dict(shapes)

    def _rows(self, raws: list[RawFile]) -> Any:
        """The rows of files of one shape: file, row, the columns of the logs as they are, and what was malformed."""
        raw = raws[0]
        own = [column for column in self.columns if column not in raw.constants]
        reader = self.session.read.option("columnNameOfCorruptRecord", MALFORMED)
        malformed = f"CAST(NULL AS STRING) AS {MALFORMED}"
        if raw.dialect is not None:
            names = [f"c{n}" for n in range(len(raw.dialect.names))]
            schema = ", ".join(f"{name} STRING" for name in (*names, MALFORMED))
            quote = raw.dialect.quote
            reader = reader.options(
                sep=raw.dialect.separator, quote=quote, escape=quote, header=raw.dialect.header, enforceSchema=True,
                encoding=_CODECS[raw.dialect.encoding], multiLine=self._has_long_fields(raws),
            )  # fmt: skip
            chosen = [f"c{raw.dialect.names.index(column)} AS {_name(column)}" for column in own]
            # Bytes that are no UTF-8 became this sign.
            malformed = f"CASE WHEN contains(concat_ws('', {', '.join(names)}), '\ufffd') THEN concat_ws(',', {', '.join(names)}) ELSE {MALFORMED} END AS {MALFORMED}"
            read, schema_given = "csv", schema
        elif raw.format == "json":
            schema_given = ", ".join(f"{_name(column)} VARIANT" for column in own) + f", {MALFORMED} STRING"
            read, chosen, malformed = "json", [_name(column) for column in own], MALFORMED
        else:
            read, schema_given, chosen = raw.format, None, [_name(column) for column in own]
        if schema_given is not None:
            reader = reader.schema(schema_given)
        frame = reader.format(read).load([str(each.path.absolute()) for each in raws])
        row = "_metadata.row_index + 1" if raw.format == "parquet" else (
            f"_metadata.file_block_start + monotonically_increasing_id() % {1 << 33}"
        )  # fmt: skip
        frame = frame.selectExpr("_metadata.file_path AS _path", f"{row} AS row", *chosen, malformed)
        fixed = sorted(set(self.columns) & set(raw.constants))
        uri = self.session._jvm.org.apache.hadoop.fs.Path
        files = [
            (str(uri(f"file:{each.path.absolute()}").toUri().toString()).replace("file:///", "file:/", 1),
             self.logs.index(each), *(each.constants[name] for name in fixed))
            for each in raws
        ]  # fmt: skip
        table = ", ".join(
            f"{name} {kind}"
            for name, kind in (("_path", "STRING"), ("file", "INT"), *((_name(n), "STRING") for n in fixed))
        )
        return frame.join(self.session.createDataFrame(files, table).hint("broadcast"), "_path")

    def _has_long_fields(self, raws: list[RawFile]) -> bool:
        """Whether a quoted field goes on in the next line; then a file is read by one task."""
        if raws[0].dialect is None or not raws[0].dialect.quote:
            return False
        paths = tuple(str(raw.path.absolute()) for raw in raws)
        if paths not in self._long_fields:  # the same files are read more than once
            lines = self.session.read.text(list(paths)).filter("(length(value) - length(replace(value, '\"'))) % 2 = 1")
            self._long_fields[paths] = bool(lines.limit(1).count())
        return self._long_fields[paths]


def _united(frames: Any) -> Any:
    first, *others = frames
    for other in others:
        first = first.unionByName(other, allowMissingColumns=True)
    return first


def _look(time: int, asked: TimeUnit | Literal["auto"]) -> TimeUnit | None:
    """What unit a time looks like; it was read in the unit asked for, or as seconds."""
    value = time * (1 if asked == "auto" else PER_SECOND[asked])
    for unit, per in reversed(PER_SECOND.items()):
        if (FIRST_OF.get(unit, 0) if asked == "auto" else EARLIEST * per) <= value < LATEST * per:
            return unit
    return None


def _like_a_date(number: int) -> bool:
    """Whether a number is a day, or a time of one, by its digits."""
    try:
        return 1970 <= datetime.strptime(str(number), DATES.get(len(str(number)), "none")).year <= 2100
    except ValueError:
        return False


def _name(column: str) -> str:
    return "`" + column.replace("`", "``") + "`"


def _text(raw: RawFile, column: str) -> str:
    return f"CAST({_name(column)} AS STRING)"


def _id(raw: RawFile, column: str, kind: IdKind, numbers_too: bool) -> str:
    """As `RawFile.id_sql`."""
    name, text = _name(column), _text(raw, column)
    is_json = raw.format == "json" and raw.is_typed(column)
    if kind == "string":
        kinds = "'STRING', 'BIGINT'" if numbers_too else "'STRING'"
        typed = f"schema_of_variant({name}) IN ({kinds})" if is_json else "true"
        typed += f" AND trim({text}) <> ''"
        if not numbers_too:
            typed += f" AND lower({text}) NOT IN ({', '.join('r' + literal(word) for word in MISSING)})"
            typed += f" AND trim({text}) = {text}" if raw.format == "csv" else ""
        return f"CASE WHEN {typed} AND length({text}) BETWEEN 1 AND {MAX_ID_CHARACTERS} THEN {text} END"
    if raw.format in ("parquet", "orc") and raw.is_typed(column):
        return f"try_cast({name} AS BIGINT)"
    of_variant = f"schema_of_variant({name}) = 'BIGINT'"
    canonical = rf"{text} RLIKE r'^(?:{CANONICAL_INTEGER})\z'"
    return f"CASE WHEN {of_variant if is_json else canonical} THEN try_cast({text} AS BIGINT) END"


def _time(raw: RawFile, column: str, unit: TimeUnit, counted: bool) -> tuple[str, str]:
    """As `time_sql`: seconds and nanoseconds.

    Args:
        counted: Spark has a number: of nanoseconds, where the column holds times.
    """
    name, type_ = _name(column), raw.columns[column]
    if type_ in INTEGERS:
        return _in_seconds(f"try_cast({name} AS BIGINT)", "0", unit)
    if type_ in ("FLOAT", "DOUBLE") or type_.startswith("DECIMAL"):
        rest = f"least(try_cast(round(CAST({name} - floor({name}) AS DOUBLE) * {NANOS}) AS BIGINT), {NANOS - 1})"
        return _in_seconds(f"CASE WHEN abs({name}) < {1 << 62} THEN try_cast(floor({name}) AS BIGINT) END", rest, unit)
    if type_ == "DATE" or type_.startswith("TIMESTAMP"):
        if counted:  # with a zone, DuckDB has microseconds
            return _in_seconds(name, "0", "ns") if "NS" in type_ else _in_seconds(f"({name} div 1000)", "0", "us")
        return _in_seconds(f"unix_micros(CAST({name} AS TIMESTAMP))", "0", "us")
    text = _text(raw, column)
    is_number = rf"{text} RLIKE r'^(?:{NUMBER})\z'"
    whole = (
        f"CASE WHEN startswith({text}, '-') THEN -1 ELSE try_cast(regexp_extract({text}, '^[0-9]+', 0) AS BIGINT) END"
    )
    seconds, nanos = _in_seconds(whole, _billionths(f"regexp_extract({text}, '[.]([0-9]+)$', 1)"), unit)
    moment = f"try_cast(regexp_replace({text}, '{FRACTION}', '$1') AS TIMESTAMP)"
    fraction = _billionths(f"regexp_extract({text}, '{FRACTION}', 2)")
    return (
        f"CASE WHEN {is_number} THEN {seconds} WHEN {text} RLIKE '{DATE}' THEN unix_seconds({moment}) END",
        f"CASE WHEN {is_number} THEN {nanos} ELSE {fraction} END",
    )


def _in_seconds(whole: str, billionths: str, unit: TimeUnit) -> tuple[str, str]:
    per = PER_SECOND[unit]
    if per == 1:
        return whole, f"CAST({billionths} AS BIGINT)"
    return (
        f"CASE WHEN ({whole}) < 0 THEN -1 ELSE ({whole}) div {per} END",
        f"(({whole}) % {per}) * {NANOS // per} + ({billionths}) div {per}",
    )


def _billionths(digits: str) -> str:
    return f"coalesce(try_cast(rpad({digits}, 9, '0') AS BIGINT), 0)"
