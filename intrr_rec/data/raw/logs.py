"""Raw logs → the table `events(file, row, user_id, item_id, time, nanos, event)` of a DuckDB connection.

`time` is seconds since 1970, `nanos` the nanoseconds in that second; both null where the logs have no times.

Every verb that reads events reads them here: by the same names of columns, with the same judgement of each value, which names
file, column and row.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import duckdb

from intrr_rec.config import PrepareConfig
from intrr_rec.config.preparation import MAX_ID_CHARACTERS
from intrr_rec.config.time_units import TimeUnit
from intrr_rec.data.raw.files import (
    IdKind,
    RawFile,
    csv_id_kind,
    id_kind,
    open_raw,
    quoted,
    readable,
    require_column,
    table_files,
)
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
    files = [file for path in paths for file in table_files(path)]
    for n, file in enumerate(files):
        if file.resolve() in {other.resolve() for other in files[:n]}:
            raise DataError(f"{file}: given twice; its interactions would count double, name it once")
    logs = []
    for file in files:
        raw = open_raw(con, file)
        for setting in ("user_column", "item_column"):
            require_column(raw, getattr(config, setting), f"prepare.{setting}")
        columns = [config.user_column, config.item_column]
        if config.time_column is not None:
            in_order = "; if the rows stand in order of time, prepare.time_column=null takes that order"
            require_column(raw, config.time_column, "prepare.time_column", in_order)
            columns.append(config.time_column)
        if config.event_column is not None:
            require_column(raw, config.event_column, "prepare.event_column")
            columns.append(config.event_column)
        logs.append(raw.as_json(*columns))
    return logs


def common_kind(con: duckdb.DuckDBPyConnection, logs: Sequence[RawFile], column: str) -> IdKind:
    """The kind all files agree on. A CSV takes the typed files' kind; CSVs alone are judged by their content."""
    found = [(raw, kind, "") for raw in logs if (kind := id_kind(con, raw, column))]
    if not found:
        found = [(raw, *csv_id_kind(con, raw, column)) for raw in logs]
    first, kind, first_where = found[0]
    for raw, other, where in found[1:]:
        if other != kind:
            raise DataError(
                f"column '{column}': ids are {kind}s in {first.path} ({first_where or 'all rows'}) but {other}s in "
                f"{raw.path} ({where or 'all rows'}); write both the same way"
            )
    return kind


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
    con.execute(
        'CREATE TABLE events (file INTEGER, "row" BIGINT, user_id {}, item_id {}, time BIGINT, nanos BIGINT DEFAULT 0, '
        "event VARCHAR)".format(*types)
    )


def read_events(
    con: duckdb.DuckDBPyConnection, n: int, raw: RawFile, kinds: dict[str, IdKind], config: PrepareConfig
) -> None:
    """Add the rows of file number `n` to `events`; a value that cannot be used is NULL, or a time below 0.

    Raises:
        DataError: the file cannot be read, or holds no rows.
    """
    user, item, time = config.user_column, config.item_column, config.time_column
    read = dict.fromkeys(column for column in (user, item, time, config.event_column) if column is not None)
    unit: TimeUnit = "s" if config.time_unit == "auto" else config.time_unit
    seconds, nanos = ("NULL", "NULL") if time is None else time_sql(raw, time, unit)
    event_sql = "NULL" if config.event_column is None else raw.text_sql(config.event_column)
    with readable(raw.path, raw.format):
        added = con.execute(
            f'INSERT INTO events SELECT {n}, "row", {raw.id_sql(user, kinds[user])}, '
            f"{raw.id_sql(item, kinds[item])}, {seconds}, {nanos}, {event_sql} FROM {raw.scan(*read)}"
        ).fetchall()[0][0]
    if not added:
        raise DataError(f"{raw.path}: holds no rows; remove it or write it again")


def bad_value(con: duckdb.DuckDBPyConnection, raw: RawFile, row: int, column: str, kind: IdKind | None) -> DataError:
    """Say what is wrong with the value that became NULL (`kind` None: a timestamp)."""
    value = con.execute(f'SELECT {quoted(column)} FROM {raw.scan(column)} WHERE "row" = {row}').fetchall()[0][0]
    where = f"{raw.path}: column '{column}', row {row}"
    what = "timestamp" if kind is None else "id"
    if value is None or value in ("", '""'):
        return DataError(f"{where}: the {what} is missing; fill it in or remove the row")
    shown = repr(value) if len(str(value)) <= 80 else f"{str(value)[:40]!r}… ({len(str(value)):,} characters)"
    if kind is None:
        return DataError(
            f"{where}: {shown} is not a timestamp; write a number since 1970 (not negative), a date or ISO 8601"
        )
    if kind == "string" and len(str(value)) > MAX_ID_CHARACTERS:
        return DataError(
            f"{where}: {shown} is too long for an id ({MAX_ID_CHARACTERS:,} at most); is this the column of ids, and is every "
            "quote closed?"
        )
    return DataError(
        f"{where}: {shown} is not {'a string' if kind == 'string' else 'a 64-bit integer'} like the other ids of "
        f"'{column}'; write all ids the same way"
    )
