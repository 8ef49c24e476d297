"""Raw logs → the table `events(file, row, user_id, item_id, time, nanos, event)` of a DuckDB connection.

`time` is seconds since 1970, `nanos` the nanoseconds in that second; both null where the logs have no times.

Every verb that reads events reads them here: by the same names of columns, with the same judgement of each value, which names
file, column and row.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import duckdb

from intrr_rec.config import PrepareConfig
from intrr_rec.config.logs.preparation import MAX_ID_CHARACTERS
from intrr_rec.config.logs.time_units import TimeUnit
from intrr_rec.data.features.encode import raws_of
from intrr_rec.data.raw.files import (
    MISSING,
    IdKind,
    RawFile,
    id_kind,
    open_table,
    quoted,
    readable,
    require_columns,
    untyped_id_kind,
)
from intrr_rec.data.raw.text import Layout
from intrr_rec.data.raw.times import settle_unit, time_sql
from intrr_rec.errors import DataError

log = logging.getLogger(__name__)


def connect(scratch: Path, memory_gb: float = 4.0) -> duckdb.DuckDBPyConnection:
    """A connection that keeps its tables, and spills, in the folder `scratch`; times without a zone are UTC."""
    settings = {
        "temp_directory": str(scratch / "spill"),
        "autoinstall_known_extensions": "false",
        "memory_limit": f"{round(memory_gb * 1000)}MB",
    }
    con = duckdb.connect(str(scratch / "work.duckdb"), config=settings)
    con.execute("SET enable_progress_bar = false")
    # A timestamp without a zone is UTC, wherever the machine stands.
    con.execute("SET TimeZone = 'UTC'")
    return con


def open_logs(con: duckdb.DuckDBPyConnection, paths: Sequence[Path], config: PrepareConfig) -> list[RawFile]:
    """The files of the logs, each with the columns that `config` names.

    Raises:
        DataError: a file given twice, one that cannot be opened, or one without a column.
    """
    named = {
        "user_column": config.user_column,
        "item_column": config.item_column,
        "time_column": config.time_column,
        "event_column": config.event_column,
    }
    columns = {setting: column for setting, column in named.items() if column is not None}
    otherwise = {
        "prepare.time_column": "; if the rows stand in order of time, prepare.time_column=null takes that order",
        "prepare.event_column": "; if events of all types count, prepare.event_column=null prepare.event_weights=null prepare.min_weight=0",
    }
    layout = Layout(config.separator, config.column_names, encoding=config.encoding)
    logs: list[RawFile] = []
    seen: set[Path] = set()
    for raw in (raw for path in paths for raw in open_table(con, path, layout)):
        if raw.path.resolve() in seen:
            raise DataError(f"{raw.path}: given twice; its interactions would count double, name it once")
        seen.add(raw.path.resolve())
        require_columns(raw, {f"prepare.{setting}": column for setting, column in columns.items()}, otherwise)
        logs.append(raw.as_json(*columns.values()))
    return logs


def common_kinds(
    con: duckdb.DuckDBPyConnection,
    logs: Sequence[RawFile],
    config: PrepareConfig,
    items: Sequence[RawFile] = (),
    of_text: Callable[[str], IdKind] | None = None,
) -> dict[str, IdKind]:
    """What ids are, by column of the logs: integers or text, in all files alike.

    Typed files (Parquet, JSON) decide, and text tables follow. Where all are text tables, ids are integers if each id of each file
    is the plain decimal form of one, else text; the ids of the item table count too. `prepare.id_type` decides before all.

    Args:
        items: files of the item table.
        of_text: what the ids of a column of the logs are, where the logs are text tables; None: DuckDB looks.

    Raises:
        DataError: typed files disagree, or a column can be neither.
    """
    tables = {config.user_column: [(raw, config.user_column) for raw in logs]}
    tables[config.item_column] = [(raw, config.item_column) for raw in logs]
    tables[config.item_column] += [(raw, config.items_column or config.item_column) for raw in items]
    judged: dict[str, IdKind] = {}
    for column, files in tables.items():
        kind = _typed_kind(con, files, config)
        if kind is None and of_text is not None:
            kind, files = of_text(column), files[len(logs) :]
            kind = None if kind == "integer" else kind
        if kind is None:
            kinds = (untyped_id_kind(con, raw, name)[0] for raw, name in files)
            kind = "string" if "string" in kinds else "integer"
        judged[column] = kind
    return judged


def _typed_kind(
    con: duckdb.DuckDBPyConnection, files: Sequence[tuple[RawFile, str]], config: PrepareConfig
) -> IdKind | None:
    """What `prepare.id_type` or typed files say."""
    found = [(raw, column, kind) for raw, column in files if (kind := id_kind(con, raw, column))]
    if config.id_type != "auto":
        return config.id_type
    for raw, column, other in found[1:]:
        first, _, kind = found[0]
        if other != kind:
            raise DataError(
                f"column '{column}': ids are {kind}s in {first.path} but {other}s in {raw.path}; write both the same way, or "
                "prepare.id_type=string reads all as text"
            )
    return found[0][2] if found else None


def load_events(
    con: duckdb.DuckDBPyConnection,
    logs: Sequence[RawFile],
    kinds: dict[str, IdKind],
    config: PrepareConfig,
    first: int,
    unit: TimeUnit | None = None,
) -> TimeUnit | None:
    """Put the logs into the table `events`, as files number `first`, `first + 1`, …

    Args:
        unit: that the times of earlier files count in; None: there are none, or they have no numbers.

    Returns:
        The unit with these files.

    Raises:
        DataError: the first value that cannot be used, by file, column and row; or times of several units.
    """
    user, item, time = config.user_column, config.item_column, config.time_column
    for n, raw in enumerate(logs, first):
        for feature in raws_of(config.features, "event"):
            feature.require(con, raw)
        read_events(con, n, raw, kinds, config)
        rows, *bad = con.execute(
            'SELECT count(*), min("row") FILTER (user_id IS NULL), min("row") FILTER (item_id IS NULL), '
            f'min("row") FILTER (time IS NULL OR time < 0) FROM events WHERE file = {n}'
        ).fetchall()[0]
        found = [
            (row, column) for row, column in zip(bad, (user, item, time), strict=True) if row and column is not None
        ]
        worst = min(found, default=None)
        if worst:
            raise bad_value(con, raw, *worst, kinds.get(worst[1]))
        if time is not None:
            unit = settle_unit(con, n, raw, time, config.time_unit, unit)
        log.info("read %d interactions from %s", rows, raw.path)
    return unit


def create_events(con: duckdb.DuckDBPyConnection, kinds: dict[str, IdKind], config: PrepareConfig) -> None:
    """An empty table `events`, for ids of these kinds by column."""
    types = ("BIGINT" if kinds[name] == "integer" else "VARCHAR" for name in (config.user_column, config.item_column))
    features = [each for each in raws_of(config.features, "event") if not each.reads_clock]
    con.execute(
        'CREATE TABLE events (file INTEGER, "row" BIGINT, user_id {}, item_id {}, time BIGINT, nanos BIGINT DEFAULT 0, '
        "event VARCHAR{})".format(*types, "".join(f", {each.kept} {each.type}" for each in features))
    )


def read_events(
    con: duckdb.DuckDBPyConnection, n: int, raw: RawFile, kinds: dict[str, IdKind], config: PrepareConfig
) -> None:
    """Add the rows of file number `n` to `events`; a value that cannot be used is NULL, or a time below 0.

    Raises:
        DataError: the file cannot be read, or holds no rows.
    """
    user, item, time = config.user_column, config.item_column, config.time_column
    as_text = config.id_type == "string"
    read = dict.fromkeys(column for column in (user, item, time, config.event_column) if column is not None)
    unit: TimeUnit = "s" if config.time_unit == "auto" else config.time_unit
    seconds, nanos = ("NULL", "NULL") if time is None else time_sql(raw, time, unit)
    event_sql = "NULL" if config.event_column is None else raw.text_sql(config.event_column)
    features = [each for each in raws_of(config.features, "event") if not each.reads_clock]
    read |= dict.fromkeys(column for each in features for column in each.columns)
    feature_sql = "".join(f", {each.sql(raw)}" for each in features)
    with readable(raw.path, raw.format, raw.packing):
        added = con.execute(
            f'INSERT INTO events SELECT {n}, "row", {raw.id_sql(user, kinds[user], numbers_too=as_text)}, '
            f"{raw.id_sql(item, kinds[item], numbers_too=as_text)}, {seconds}, {nanos}, {event_sql}{feature_sql} "
            f"FROM {raw.scan(*read)}"
        ).fetchall()[0][0]
    if not added:
        raise DataError(f"{raw.path}: holds no rows; remove it or write it again")


def bad_value(con: duckdb.DuckDBPyConnection, raw: RawFile, row: int, column: str, kind: IdKind | None) -> DataError:
    """Say what is wrong with the value that became NULL (`kind` None: a timestamp)."""
    value = con.execute(f'SELECT {quoted(column)} FROM {raw.scan(column)} WHERE "row" = {row}').fetchall()[0][0]
    where = f"{raw.path}: column '{column}', row {row}"
    what = "timestamp" if kind is None else "id"
    text = (
        "" if value is None else str(value).removeprefix('"').removesuffix('"') if raw.format == "json" else str(value)
    )
    if not text.strip():
        return DataError(f"{where}: the {what} is missing; fill it in or remove the row")
    if kind is not None and text.lower() in MISSING:
        return DataError(
            f"{where}: {text!r} looks like a missing id; remove the row, or, if it is an id, prepare.id_type=string reads all as text"
        )
    if kind is not None and raw.format == "csv" and text != text.strip():
        return DataError(
            f"{where}: {_shown(value)} has blanks around it; remove them, or, if they belong to the id, prepare.id_type=string reads "
            "all as text"
        )
    shown = _shown(str(value) if isinstance(value, datetime) else value)
    if kind is None:
        form = "write a number since 1970 (not negative), a date or ISO 8601"
        if re.fullmatch(r"[0-9.]+[eE][+]?[0-9]+", text):
            form = "scientific notation leaves out digits; write all of them, without an exponent"
        return DataError(f"{where}: {shown} is not a timestamp; {form}")
    if kind == "string" and len(str(value)) > MAX_ID_CHARACTERS:
        return DataError(
            f"{where}: {shown} is too long for an id ({MAX_ID_CHARACTERS:,} at most); is this the column of ids, and is every "
            "quote closed?"
        )
    return DataError(
        f"{where}: {shown} is not {'a string' if kind == 'string' else 'a 64-bit integer'} like the other ids of "
        f"'{column}'; write all ids the same way, or have all read as text: prepare all logs with prepare.id_type=string"
    )


def _shown(value: object) -> str:
    return repr(value) if len(str(value)) <= 80 else f"{str(value)[:40]!r}… ({len(str(value)):,} characters)"
