"""Item table → the table `item_table(_file, _row, item_id, free columns)` of a DuckDB connection."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import duckdb

from intrr_rec.config import PrepareConfig
from intrr_rec.data.raw.files import IdKind, RawFile, id_kind, open_raw, quoted, readable, require_column, table_files
from intrr_rec.data.raw.item_schema import ItemSchema
from intrr_rec.data.raw.logs import bad_value
from intrr_rec.errors import DataError

log = logging.getLogger(__name__)

_OUR_COLUMNS = ("item", "item_id", "first_seen", "_file", "_row")


def load_items(
    con: duckdb.DuckDBPyConnection, table: Path, kind: IdKind, config: PrepareConfig, schema: ItemSchema | None = None
) -> list[str]:
    """Read the item table into `item_table(file, row, item_id, free columns)`; returns the free columns.

    Args:
        schema: of the content that items have already.

    Raises:
        DataError: a column or value that cannot be used, or a table without a single item of the logs.
    """
    column = config.items_column or config.item_column
    raws, selects, free = [], [], {}
    schema = ItemSchema() if schema is None else schema
    for n, file in enumerate(table_files(table)):
        raw = open_raw(con, file)
        require_column(raw, column, "prepare.items_column")
        schema.add(raw)
        raw = raw.as_json(column)
        own = id_kind(con, raw, column) or kind
        if own != kind:
            raise DataError(
                f"{file}: column '{column}' holds {own}s, but the item ids of the logs are {kind}s; write both the same way"
            )
        names = [name for name in raw.columns if name != column]
        clash = [name for name in names if name.lower() in _OUR_COLUMNS]
        if clash:
            raise DataError(f"{file}: column '{clash[0]}' would hide one of the dataset's own; rename or remove it")
        free.update(dict.fromkeys(names))
        renamed = "".join(f", {quoted(name)}" for name in names)
        raws.append(raw)
        selects.append(
            f'SELECT {n} AS "_file", "row" AS "_row", {raw.id_sql(column, kind)} AS item_id{renamed} '
            f"FROM {raw.scan(column, *names)}"
        )
    with readable(table, raws[0].format):
        con.execute(f"CREATE TABLE item_table AS {' UNION ALL BY NAME '.join(selects)}")
    _check_items(con, raws, column, kind)
    missing = _scalar(con, "SELECT count(*) FROM items ANTI JOIN item_table USING (item_id)")
    unused = _scalar(con, "SELECT count(*) FROM item_table ANTI JOIN items USING (item_id)")
    if missing and schema.is_new and missing == _count(con, "items"):
        ours, theirs = (
            con.execute(f"SELECT min(item_id) FROM {name}").fetchall()[0][0] for name in ("items", "item_table")
        )
        raise DataError(
            f"{table}: has none of the {missing} items of the logs: their ids are such as {ours!r}, those of column '{column}' "
            f"such as {theirs!r}; write both the same way, or leave --items out"
        )
    if missing:
        log.warning("%d items of the logs are not in %s: their content is null", missing, table)
    if unused:
        log.info("%d items of %s have no interactions left: dropped", unused, table)
    return list(free)


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
