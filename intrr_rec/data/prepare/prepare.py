"""Raw logs → dataset artefact.

Raw files are read, and their values judged, by DuckDB: what is wrong is said with file, column and row. What stays of the
events is then a matter of `relations.py`, on the engine of one's choice.
"""

from __future__ import annotations

import logging
import shutil
import string
from collections.abc import Sequence
from contextlib import closing
from itertools import zip_longest
from pathlib import Path

import duckdb
import pyarrow as pa

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import ITEMS, KIND, SEQUENCES, STATISTICS, USERS
from intrr_rec.data.prepare.append import Previous, write_rows_as_read
from intrr_rec.data.prepare.engines import DuckDBEngine, Engine, EngineChoice
from intrr_rec.data.prepare.filters import Relations, before_deduplication, filtered, numbered, relate
from intrr_rec.data.prepare.split import TimeSplit, split_in_time
from intrr_rec.data.prepare.writer import ROW_GROUP_EVENTS, ROW_GROUP_ROWS, write_rows, write_sequences
from intrr_rec.data.raw.files import (
    MAX_ID_CHARACTERS,
    IdKind,
    RawFile,
    csv_id_kind,
    id_kind,
    literal,
    open_raw,
    quoted,
    readable,
    require_column,
    table_files,
)
from intrr_rec.errors import DataError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import Manifest, file_hash, write_json

log = logging.getLogger(__name__)

_OUR_COLUMNS = ("item", "item_id", "first_seen", "_file", "_row")


def prepare_dataset(
    interactions: Sequence[Path],
    items: Path | None,
    out: Path,
    config: PrepareConfig,
    engine: EngineChoice = EngineChoice(),  # noqa: B008 - frozen
    *,
    append: bool = False,
) -> Manifest:
    """Validate, filter, order and number raw logs, and write them as a dataset artefact.

    Args:
        interactions: Parquet, CSV or JSON-lines files, or folders of Parquet shards; rows count in the order given.
        items: optional item table in one of these formats; its free columns are kept as they are.
        out: folder to write; a dataset there is replaced.
        config: column names, filters and split.
        engine: what runs the filter, the order and the numbering; the bytes do not depend on it.
        append: add to the dataset at `out`, by its settings; see `append.py`.

    Raises:
        ConfigError: the engine cannot be started; or a setting that is not that of the dataset to add to.
        DataError: a file, column, row or value that cannot be used, or nothing left after the filters.
        ArtefactError: `out` holds something else than a dataset, or one that cannot be added to.
    """
    previous = Previous.open(out, config, engine) if append else None
    config = previous.config if previous else config
    with artefact.writing(out, KIND, config.model_dump(mode="json")) as draft:
        scratch = draft.path / ".scratch"
        scratch.mkdir()
        with closing(_connect(scratch, engine.memory_gb)) as con:
            logs = _open_logs(con, interactions, config)
            if previous:
                previous.require_new(con, logs)
                kinds, first = previous.kinds, previous.files
            else:
                columns, first = (config.user_column, config.item_column), 0
                kinds = {column: _common_kind(con, logs, column) for column in columns}
            create_events(con, kinds, config)
            if previous:
                previous.copy_rows(draft.path)
                previous.read_rows(con)
            _load_events(con, logs, kinds, config, first)
            if config.keep_rows:
                write_rows_as_read(con, draft.path, first)
            with closing(engine.open(con, scratch)) as running:
                relations = relate(running, config, previous.known(con) if previous else None)
                draft.counts.update(relations.counts)
                _write_relations(running, relations, draft.path, kinds, config)
                _hand_over_items(con, running, relations, scratch, kinds[config.item_column])
            free = _load_items(con, items, kinds[config.item_column], config) if items else None
            if previous:
                free = previous.merge_items(con, free)
            reader = con.sql(_items_sql(free or [], config.text_template)).to_arrow_reader(ROW_GROUP_ROWS)
            write_rows(reader, reader.schema, draft.path / ITEMS)
        shutil.rmtree(scratch)
        tables = {"interactions": [raw.path for raw in logs], "items": table_files(items) if items else []}
        draft.parents.update(previous.manifest.parents if previous else {})
        for role, paths in tables.items():
            first = sum(known.startswith(f"{role}/") for known in draft.parents)
            draft.parents.update({f"{role}/{n}": file_hash(path) for n, path in enumerate(paths, first)})
    log.info("dataset %s: %s", out, ", ".join(f"{count} {name}" for name, count in draft.counts.items()))
    return artefact.read(out, KIND)


def _write_relations(
    engine: Engine, relations: Relations, folder: Path, kinds: dict[str, IdKind], config: PrepareConfig
) -> None:
    events = engine.batches(relations.events, ROW_GROUP_EVENTS)
    write_sequences(events, folder / SEQUENCES / "part-00000.parquet", relations.counts["interactions"])
    users = engine.batches(relations.users, ROW_GROUP_ROWS)
    schema = pa.schema([("user", pa.int64()), ("user_id", _arrow_type(kinds[config.user_column]))])
    write_rows(users, schema, folder / USERS)
    write_json(folder / STATISTICS, relations.counts | relations.statistics)


def _hand_over_items(
    con: duckdb.DuckDBPyConnection, engine: Engine, relations: Relations, scratch: Path, kind: IdKind
) -> None:
    """Make the engine's items the table `items` of `con`: an item table's columns may be of types Spark has not."""
    schema = pa.schema([("item", pa.int64()), ("item_id", _arrow_type(kind)), ("first_seen", pa.int64())])
    file = scratch / "items.parquet"
    write_rows(engine.batches(relations.items, ROW_GROUP_ROWS), schema, file)
    con.read_parquet(str(file)).create("items")


def _arrow_type(kind: IdKind) -> pa.DataType:
    return pa.int64() if kind == "integer" else pa.string()


def _connect(scratch: Path, memory_gb: float = 4.0) -> duckdb.DuckDBPyConnection:
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


def _open_logs(con: duckdb.DuckDBPyConnection, paths: Sequence[Path], config: PrepareConfig) -> list[RawFile]:
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


def _common_kind(con: duckdb.DuckDBPyConnection, logs: Sequence[RawFile], column: str) -> IdKind:
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


def _load_events(
    con: duckdb.DuckDBPyConnection, logs: Sequence[RawFile], kinds: dict[str, IdKind], config: PrepareConfig, first: int
) -> None:
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
            raise _bad_value(con, raw, *worst, kinds.get(worst[1]))
        log.info("read %d interactions from %s", rows, raw.path)


def create_events(con: duckdb.DuckDBPyConnection, kinds: dict[str, IdKind], config: PrepareConfig) -> None:
    """An empty table `events`, for ids of these kinds by column."""
    types = ("BIGINT" if kinds[name] == "integer" else "VARCHAR" for name in (config.user_column, config.item_column))
    con.execute(
        'CREATE TABLE events (file INTEGER, "row" BIGINT, user_id {}, item_id {}, time BIGINT, event VARCHAR)'.format(
            *types
        )
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
    time_sql = "NULL" if time is None else raw.time_sql(time)
    event_sql = "NULL" if config.event_column is None else raw.text_sql(config.event_column)
    with readable(raw.path, raw.format):
        added = con.execute(
            f'INSERT INTO events SELECT {n}, "row", {raw.id_sql(user, kinds[user])}, '
            f"{raw.id_sql(item, kinds[item])}, {time_sql}, {event_sql} FROM {raw.scan(*read)}"
        ).fetchall()[0][0]
    if not added:
        raise DataError(f"{raw.path}: holds no rows; remove it or write it again")


def filter_events(con: duckdb.DuckDBPyConnection, config: PrepareConfig) -> dict[str, int]:
    """Reduce the table `events` to what a dataset would keep, and number its items in a table `items`.

    Returns how many interactions each filter dropped.

    Raises:
        DataError: nothing is left.
    """
    with closing(DuckDBEngine(con)) as engine:
        kept = filtered(engine, config)
        kept.events_left().to_native().create("events_left")
        numbered(kept.items.select("item_id", "first_seen"), "item").to_native().create("items")
    con.execute("DROP TABLE events")
    con.execute("ALTER TABLE events_left RENAME TO events")
    return dict(kept.statistics.get("dropped", {"k_core": kept.statistics["interactions_dropped"]}))


def counted_events(con: duckdb.DuckDBPyConnection, config: PrepareConfig) -> str:
    """The table, made if need be, of the rows of `events` that count as interactions before any is dropped as a repeat."""
    if not config.event_weights:
        return "events"
    with closing(DuckDBEngine(con)) as engine:
        before_deduplication(engine, config).to_native().create("counted")
    return "counted"


def split_events(con: duckdb.DuckDBPyConnection, config: PrepareConfig) -> TimeSplit:
    """How `prepare.split=global_time` divides the table `events`, once it is filtered.

    Raises:
        DataError: a part is empty.
    """
    with closing(DuckDBEngine(con)) as engine:
        return split_in_time(engine, engine.events(), config)


def _bad_value(con: duckdb.DuckDBPyConnection, raw: RawFile, row: int, column: str, kind: IdKind | None) -> DataError:
    """Say what is wrong with the value that became NULL (`kind` None: a timestamp)."""
    value = con.execute(f'SELECT {quoted(column)} FROM {raw.scan(column)} WHERE "row" = {row}').fetchall()[0][0]
    where = f"{raw.path}: column '{column}', row {row}"
    what = "timestamp" if kind is None else "id"
    if value is None or value in ("", '""'):
        return DataError(f"{where}: the {what} is missing; fill it in or remove the row")
    shown = repr(value) if len(str(value)) <= 80 else f"{str(value)[:40]!r}… ({len(str(value)):,} characters)"
    if kind is None:
        return DataError(
            f"{where}: {shown} is not a timestamp; write whole seconds since 1970 (not negative) or ISO 8601"
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


def _load_items(con: duckdb.DuckDBPyConnection, table: Path, kind: IdKind, config: PrepareConfig) -> list[str]:
    """Read the item table into `item_table(file, row, item_id, free columns)`; returns the free columns."""
    column = config.items_column or config.item_column
    raws, selects, free = [], [], {}
    for n, file in enumerate(table_files(table)):
        raw = open_raw(con, file)
        require_column(raw, column, "prepare.items_column")
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
    if missing:
        log.warning("%d items of the logs are not in %s: their content is null", missing, table)
    if unused:
        log.info("%d items of %s have no interactions left: dropped", unused, table)
    return list(free)


def _check_items(con: duckdb.DuckDBPyConnection, raws: Sequence[RawFile], column: str, kind: IdKind) -> None:
    empty = con.execute('SELECT "_file", "_row" FROM item_table WHERE item_id IS NULL ORDER BY ALL LIMIT 1').fetchall()
    if empty:
        raise _bad_value(con, raws[empty[0][0]], empty[0][1], column, kind)
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


def _items_sql(free: Sequence[str], template: str | None) -> str:
    names = "".join(f", {quoted(name)}" for name in free)
    join = "LEFT JOIN item_table USING (item_id)" if free else ""
    text = "" if template is None else f", {_text_sql(template, free)} AS text"
    return f"SELECT item, item_id, first_seen{names}{text} FROM items {join} ORDER BY item"


def _text_sql(template: str, free: Sequence[str]) -> str:
    """SQL of the item text; a missing value leaves its place empty, an item that the table lacks has no text."""
    where = f"prepare.text_template={template!r}"
    if "text" in free:
        raise DataError(
            f"{where}: the item table has a column 'text' already; leave the template out, or rename the column"
        )
    try:
        parts = [(before, name) for before, name, *_ in string.Formatter().parse(template)]
    except ValueError as error:
        raise DataError(f"{where}: cannot be read ({error}); write names of columns in braces") from None
    columns = [name for _, name in parts if name is not None]
    if unknown := [name for name in columns if name not in free]:
        raise DataError(f"{where}: the item table has no column '{unknown[0]}'; it has {', '.join(free) or 'none'}")
    if not columns:
        raise DataError(f"{where}: names no column; write it in braces, such as {{title}}")
    values = [f"coalesce(CAST({quoted(name)} AS VARCHAR), '')" for _, name in parts if name is not None]
    texts = [literal(before) for before, _ in parts]
    pieces = [piece for pair in zip_longest(texts, values, fillvalue="''") for piece in pair]
    absent = " AND ".join(f"{quoted(name)} IS NULL" for name in dict.fromkeys(columns))
    return f"CASE WHEN NOT ({absent}) THEN concat({', '.join(pieces)}) END"


def _count(con: duckdb.DuckDBPyConnection, table: str) -> int:
    return _scalar(con, f"SELECT count(*) FROM {table}")


def _scalar(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    return int(con.execute(sql).fetchall()[0][0])
