"""Item table → the table `item_table(_file, _row, item_id, free columns)` of a DuckDB connection."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import duckdb

from intrr_rec.config import PrepareConfig
from intrr_rec.data.raw.files import IdKind, RawFile, id_kind, open_table, quoted, readable, require_column
from intrr_rec.data.raw.items.item_schema import ItemSchema
from intrr_rec.data.raw.logs import bad_value
from intrr_rec.data.raw.text import Layout
from intrr_rec.errors import DataError

log = logging.getLogger(__name__)

_OUR_COLUMNS = ("item", "item_id", "first_seen", "_file", "_row")


def open_items(con: duckdb.DuckDBPyConnection, table: Path, config: PrepareConfig) -> list[RawFile]:
    """The files of the item table, each with the column of ids.

    Raises:
        DataError: one that cannot be opened, or without the column.
    """
    column = config.items_column or config.item_column
    layout = Layout(
        config.items_separator,
        config.items_column_names,
        ("prepare.items_separator", "prepare.items_column_names"),
        config.encoding,
    )
    raws = open_table(con, table, layout)
    for raw in raws:
        require_column(raw, column, "prepare.items_column")
    return [raw.as_json(column) for raw in raws]


def load_items(
    con: duckdb.DuckDBPyConnection,
    opened: Sequence[RawFile],
    kind: IdKind,
    config: PrepareConfig,
    schema: ItemSchema | None = None,
) -> list[str]:
    """Read the item table into `item_table(_file, _row, item_id, free columns)`; returns the free columns.

    The logs are in `events`, before any filter.

    Args:
        opened: its files.
        kind: of the item ids of the logs.
        schema: of the content that items have already.

    Raises:
        DataError: a column or value that cannot be used, or a table without a single item of the logs.
    """
    column = config.items_column or config.item_column
    raws, selects, free = list(opened), [], {}
    schema = ItemSchema() if schema is None else schema
    for n, raw in enumerate(raws):
        schema.add(replace(raw, columns={name: type_ for name, type_ in raw.columns.items() if name != column}))
        own = id_kind(con, raw, column) or kind
        if own != kind and config.id_type == "auto":
            raise DataError(
                f"{raw.path}: column '{column}' holds {own}s, but the item ids of the logs are {kind}s; write both the same way, "
                "or prepare.id_type=string reads all as text"
            )
        names = [name for name in raw.columns if name != column]
        clash = [name for name in names if name.lower() in _OUR_COLUMNS]
        if clash:
            raise DataError(f"{raw.path}: column '{clash[0]}' would hide one of the dataset's own; rename or remove it")
        free.update(dict.fromkeys(names))
        renamed = "".join(f", {quoted(name)}" for name in names)
        selects.append(
            f'SELECT {n} AS "_file", "row" AS "_row", {raw.id_sql(column, kind, numbers_too=config.id_type == "string")} AS item_id{renamed} '
            f"FROM {raw.scan(column, *names)}"
        )
    with readable(raws[0].path if len(raws) == 1 else raws[0].path.parent, raws[0].format, raws[0].packing):
        con.execute(f"CREATE TABLE item_table AS {' UNION ALL BY NAME '.join(selects)}")
    _check_items(con, raws, column, kind)
    if schema.is_new:
        _require_common_item(con, raws[0], column)
    return list(free)


def report_items(con: duckdb.DuckDBPyConnection) -> None:
    """Say how many of `items`, which the filters left, have no content in `item_table`, and the reverse."""
    missing = _scalar(con, "SELECT count(*) FROM items ANTI JOIN item_table USING (item_id)")
    unused = _scalar(con, "SELECT count(*) FROM item_table ANTI JOIN items USING (item_id)")
    if missing:
        log.warning("%d items of the logs are not in the item table: their content is null", missing)
    if unused:
        log.info("%d items of the item table have no interactions left: dropped", unused)


def _require_common_item(con: duckdb.DuckDBPyConnection, raw: RawFile, column: str) -> None:
    """Refuse a table of other items than those of the logs as they were read: what the filters drop counts too."""
    if con.execute("SELECT 1 FROM events SEMI JOIN item_table USING (item_id) LIMIT 1").fetchall():
        return
    logged = _scalar(con, "SELECT count(DISTINCT item_id) FROM events")
    ours, theirs = (
        con.execute(f"SELECT min(item_id) FROM {name}").fetchall()[0][0] for name in ("events", "item_table")
    )
    raise DataError(
        f"{raw.path}: has none of the {logged} items of the logs: their ids are such as {ours!r}, those of column '{column}' "
        f"such as {theirs!r}; write both the same way, or leave --items out"
    )


def _check_items(con: duckdb.DuckDBPyConnection, raws: Sequence[RawFile], column: str, kind: IdKind) -> None:
    empty = con.execute('SELECT "_file", "_row" FROM item_table WHERE item_id IS NULL ORDER BY ALL LIMIT 1').fetchall()
    if empty:
        raise bad_value(con, raws[empty[0][0]], empty[0][1], column, kind)
    twice = con.execute(
        'SELECT "_file", "_row", item_id, first FROM (SELECT *, lag("_row") OVER same AS first FROM item_table '
        'WINDOW same AS (PARTITION BY item_id ORDER BY "_file", "_row")) WHERE first IS NOT NULL '
        'ORDER BY "_file", "_row" LIMIT 1'
    ).fetchall()
    if twice:
        file, row, item, first = twice[0]
        raise DataError(
            f"{raws[file].path}: column '{column}', row {row}: item {item!r} already stands in row {first}; keep one"
        )
    if not _count(con, "item_table"):
        raise DataError(f"{raws[0].path}: holds no rows; remove it or write it again")


def _count(con: duckdb.DuckDBPyConnection, table: str) -> int:
    return _scalar(con, f"SELECT count(*) FROM {table}")


def _scalar(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    return int(con.execute(sql).fetchall()[0][0])
