"""Raw logs → what is wrong with them, before anything is built (`intrr validate`).

It goes the way of `intrr prepare`, but notes what that would stop at and goes on as far as it can.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TypeVar

import duckdb

from intrr_rec.config import PrepareConfig
from intrr_rec.config.logs.time_units import TimeUnit
from intrr_rec.data.features.columns import Column
from intrr_rec.data.prepare.prepare import counted_events, filter_events, split_events
from intrr_rec.data.raw.files import IdKind, RawFile, quoted
from intrr_rec.data.raw.items.item_table import load_items, open_items
from intrr_rec.data.raw.logs import bad_value, common_kinds, connect, create_events, open_logs, read_events
from intrr_rec.data.raw.times import settle_unit
from intrr_rec.data.validate import feature_checks, split_checks
from intrr_rec.data.validate import log_checks as checks
from intrr_rec.data.validate.findings import Examination, Finding
from intrr_rec.errors import DataError

T = TypeVar("T")


def examine(
    name: str,
    interactions: Sequence[Path],
    items: Path | None,
    config: PrepareConfig,
    users: Path | None = None,
) -> Examination:
    """Look at raw logs as `intrr prepare` would read them.

    Args:
        name: of the logs, for the report.
        interactions: files or folders of shards, in order.
        items: optional item table.
        config: column names and filter.
        users: optional user table, for features of users.
    """
    found = Examination(name)
    with (
        tempfile.TemporaryDirectory(prefix="intrr-validate-") as scratch,
        closing(connect(Path(scratch))) as con,
    ):
        try:
            for finding in _examine(con, found, interactions, items, config, users):
                found.findings.append(finding)
        except DataError as error:
            found.findings.append(Finding("prepare", "error", str(error)))
    return found


def _examine(
    con: duckdb.DuckDBPyConnection,
    found: Examination,
    interactions: Sequence[Path],
    items: Path | None,
    config: PrepareConfig,
    users: Path | None,
) -> Iterator[Finding]:
    has_time = config.time_column is not None
    logs: list[RawFile] = []
    yield from _open(con, interactions, config, logs)
    found.files = len(logs)
    if not logs:
        return
    yield from _columns(logs)
    opened: list[RawFile] = []
    if items is not None:
        yield from _open_items(con, items, config, opened)
    kinds = common_kinds(con, logs, config, opened)
    unread = list(feature_checks.require_features(con, logs, config))
    yield from unread
    if unread:
        config = feature_checks.without_events(config)
    units: list[TimeUnit] = []
    has_time = (yield from _values(con, logs, kinds, config, units)) and has_time
    found.raw = raw = checks.extent(con)
    if not raw.interactions:
        return
    columns: list[Column] = []
    if config.features:
        yield from feature_checks.profile(con, config, opened, users, kinds, columns)
    names = {"user_id": config.user_column, "item_id": config.item_column}
    yield from checks.check_ids(con, {ours: name for ours, name in names.items() if kinds[name] == "string"})
    yield from checks.check_duplicates(con, counted_events(con, config), config)
    if has_time:
        yield from checks.check_clock(con, units[-1] if units else None, config.time_unit)
        yield from checks.check_row_order(con)
    _distributions(con, found)
    content: list[str] | None = None
    if opened:
        errors: list[DataError] = []
        content = _attempt(partial(load_items, con, opened, kinds[config.item_column], config), errors)
        if errors:
            yield Finding("item table", "error", str(errors[0]))
            content = None
    dropped = filter_events(con, config)
    found.kept = kept = checks.extent(con)
    _distributions(con, found)
    yield from checks.check_minimum(raw, kept, dropped, con, config)
    split = None
    if config.split == "global_time":
        try:
            split = split_events(con, config)
        except DataError as error:
            yield Finding("split", "error", str(error))
    split_checks.order_events(con, split, len(columns), marked=bool(config.targets and columns))
    yield from checks.check_item_order(con)
    if (config.split == "leave_one_out" or split) and checks.scalar_of(con, "SELECT count(*) FROM steps WHERE target"):
        if has_time:
            yield from split_checks.check_ties(con, split)
        yield from split_checks.check_leakage(con, has_time, split)
        yield from feature_checks.check_drift(con, columns)
    if split:
        yield from split_checks.check_split(con, split)
    if items is not None and content is not None:
        yield from _items(con, items, content)


def _open(
    con: duckdb.DuckDBPyConnection, interactions: Sequence[Path], config: PrepareConfig, logs: list[RawFile]
) -> Iterator[Finding]:
    """Put the files that can be opened and have the columns into `logs`; one error for each that cannot."""
    errors: list[DataError] = []
    for path in interactions:
        logs += _attempt(partial(open_logs, con, [path], config), errors)
    yield from (Finding("files", "error", str(error)) for error in errors)
    paths = [raw.path.resolve() for raw in logs]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        yield Finding("files", "error", f"{path}: given twice; its interactions would count double, name it once")


def _attempt(work: Callable[[], list[T]], errors: list[DataError]) -> list[T]:
    try:
        return work()
    except DataError as error:
        errors.append(error)
        return []


def _columns(logs: Sequence[RawFile]) -> Iterator[Finding]:
    """Files of other columns or types than the first."""
    first = logs[0]
    for raw in logs[1:]:
        extra, lacking = sorted(set(raw.columns) - set(first.columns)), sorted(set(first.columns) - set(raw.columns))
        retyped = [name for name, kind in raw.columns.items() if first.columns.get(name, kind) != kind]
        if extra or lacking or retyped:
            parts = [
                f"{word} {', '.join(columns)}"
                for word, columns in (("has", extra), ("lacks", lacking), ("has another type of", retyped))
                if columns
            ]
            yield Finding(
                "schema",
                "warning",
                f"{raw.path}: {'; '.join(parts)}, beside {first.path.name}",
                "The columns of user, item and time are read alike; the change says that the source changed: look at what it "
                "means now.",
            )
            return
    columns = ", ".join(f"{name} {kind}" for name, kind in first.columns.items())
    yield Finding("schema", "fine", f"{len(logs)} file{'s' * (len(logs) > 1)} with columns {columns}")


def _values(
    con: duckdb.DuckDBPyConnection,
    logs: Sequence[RawFile],
    kinds: dict[str, IdKind],
    config: PrepareConfig,
    units: list[TimeUnit],
) -> Generator[Finding, None, bool]:
    """Read `events` without the rows that cannot be used, and say which those are.

    The unit of the times is put into `units`, if it is one. Returns whether the times of different rows can be compared.
    """
    columns = {"user_id": config.user_column, "item_id": config.item_column, "time": config.time_column}
    named = {ours: name for ours, name in columns.items() if name is not None}
    create_events(con, kinds, config)
    broken = False
    unit: TimeUnit | None = None
    for n, raw in enumerate(logs):
        try:
            read_events(con, n, raw, kinds, config)
        except DataError as error:
            yield Finding("files", "error", str(error))
            broken = True
            continue
        for ours, name in named.items():
            unusable = f"{ours} IS NULL" + (" OR time < 0" if ours == "time" else "")
            count, row = con.execute(
                f'SELECT count(*), min("row") FROM events WHERE file = {n} AND ({unusable})'
            ).fetchall()[0]
            if count:
                example = bad_value(con, raw, row, name, kinds.get(name))
                yield Finding("values", "error", str(example), f"{count:,} rows of this file are like it.")
                broken = True
                con.execute(f"DELETE FROM events WHERE file = {n} AND ({unusable})")
        if config.time_column is None:
            continue
        try:
            unit = settle_unit(con, n, raw, config.time_column, config.time_unit, unit)
        except DataError as error:
            yield Finding(
                "clock", "error", str(error), "`intrr prepare` stops here. What hangs on time is not looked at below."
            )
            return False
    units += [unit] if unit else []
    if not broken:
        yield Finding("values", "fine", f"every row has {', '.join(named.values())}, and each can be read")
    return True


def _open_items(
    con: duckdb.DuckDBPyConnection, items: Path, config: PrepareConfig, opened: list[RawFile]
) -> Iterator[Finding]:
    """Put the files of the item table into `opened`; an error where they cannot be."""
    errors: list[DataError] = []
    opened += _attempt(partial(open_items, con, items, config), errors)
    yield from (Finding("item table", "error", str(error)) for error in errors)


def _items(con: duckdb.DuckDBPyConnection, table: Path, free: Sequence[str]) -> Iterator[Finding]:
    """Items of the logs without content, and content without interactions.

    Args:
        free: columns of the content.
    """
    orphans, unused, items = con.execute(
        "SELECT (SELECT count(*) FROM items ANTI JOIN item_table USING (item_id)), "
        "(SELECT count(*) FROM item_table ANTI JOIN items USING (item_id)), (SELECT count(*) FROM items)"
    ).fetchall()[0]
    says = f"{orphans:,} of {items:,} items with interactions are not in {table.name}"
    if orphans:
        yield Finding(
            "orphan items",
            "warning",
            says,
            "They get no title and no text, so neither an embedding of it: their vectors must come from elsewhere.",
        )
    else:
        yield Finding("orphan items", "fine", says)
    yield Finding("unused items", "fine", f"{unused:,} items of {table.name} have no interactions left: dropped")
    for column in ("title", "text"):
        if column in free:
            empty = con.execute(
                f"SELECT count(*) FROM items JOIN item_table USING (item_id) WHERE coalesce(CAST({quoted(column)} AS VARCHAR), '') = ''"
            ).fetchall()[0][0]
            if empty:
                yield Finding("item content", "warning", f"{empty:,} of {items:,} items have an empty {column}")
            else:
                yield Finding("item content", "fine", f"every item has a {column}")


def _distributions(con: duckdb.DuckDBPyConnection, found: Examination) -> None:
    found.lengths, found.popularity = checks.counts_of(con, "user_id"), checks.counts_of(con, "item_id")
    found.periods = checks.periods_of(con)
