"""Raw logs → dataset artefact.

Raw files are read, and their values judged, by the engine of one's choice: what is wrong is said with file, column and row. What stays
of the events is then a matter of `filters.py`. The tables of items and users are read by DuckDB.
"""

from __future__ import annotations

import logging
import shutil
import string
from collections.abc import Sequence
from contextlib import closing
from itertools import zip_longest
from pathlib import Path
from typing import Any

import duckdb
import narwhals as nw
import pyarrow as pa

from intrr_rec.config import PrepareConfig
from intrr_rec.config.logs.time_units import TimeUnit
from intrr_rec.data.dataset import ITEMS, KIND, STATISTICS, USERS
from intrr_rec.data.features.prepare import FeatureTables
from intrr_rec.data.prepare.append import Previous, write_rows_as_read
from intrr_rec.data.prepare.engines import DuckDBEngine, Engine, EngineChoice
from intrr_rec.data.prepare.filters import before_deduplication, filtered, relate
from intrr_rec.data.prepare.spark import HANDED_OVER, SparkEngine, spark_engine
from intrr_rec.data.prepare.spark_features import SparkValues
from intrr_rec.data.prepare.spark_logs import SparkLogs, require_readable
from intrr_rec.data.prepare.split import TimeSplit, split_in_time
from intrr_rec.data.prepare.writer import ROW_GROUP_ROWS, Sequences, write_rows
from intrr_rec.data.raw.files import IdKind, RawFile, literal, parquet_sql, quoted
from intrr_rec.data.raw.items.item_table import load_items, open_items, report_items
from intrr_rec.data.raw.logs import common_kinds, connect, create_events, load_events, open_logs
from intrr_rec.data.raw.paths import table_files
from intrr_rec.data.seen import SEEN
from intrr_rec.errors import DataError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import Draft, Manifest, file_hash
from intrr_rec.io.disk.atomic import write_json

log = logging.getLogger(__name__)
SCRATCH = ".scratch"


def prepare_dataset(
    interactions: Sequence[Path],
    items: Path | None,
    out: Path,
    config: PrepareConfig,
    engine: EngineChoice = EngineChoice(),  # noqa: B008 - frozen
    *,
    append: bool = False,
    users: Path | None = None,
) -> Manifest:
    """Validate, filter, order and number raw logs, and write them as a dataset artefact.

    Args:
        interactions: Parquet, text with separators or JSON files, or folders of such; rows count in the order given.
        items: optional item table in one of these formats; its free columns are kept as they are.
        out: folder to write; a dataset there is replaced.
        config: column names, filters and split.
        engine: what runs the filter, the order and the numbering; the bytes do not depend on it.
        append: add to the dataset at `out`, by its settings; see `append.py`. The version before is kept beside it.
        users: optional user table in one of these formats, for features of users.

    Raises:
        ConfigError: the engine cannot be started; or a setting that is not that of the dataset to add to.
        DataError: a file, column, row or value that cannot be used, or nothing left after the filters.
        ArtefactError: `out` holds something else than a dataset, or one that cannot be added to.
    """
    previous = Previous.open(out, config, engine) if append else None
    config = previous.config if previous else config
    with artefact.writing(out, KIND, config.model_dump(mode="json"), keep_old=append) as draft:
        scratch = draft.path / SCRATCH
        scratch.mkdir()
        files = [file for path in interactions for file in table_files(path)]
        with closing(connect(scratch, engine.memory_gb)) as con:
            logs = open_logs(con, interactions, config)
            opened = open_items(con, items, config) if items else []
            if engine.name == "spark":
                require_readable(logs, config)
                with spark_engine(engine, scratch, files) as running:
                    hashes = running.hashes(files)
                    kinds, unit = _load_into_spark(running, con, logs, opened, config, draft.path)
                    features, free = _read_tables(con, opened, users, kinds, config, None, running)
                    con.execute(f"SET memory_limit = '{round(engine.memory_gb * HANDED_OVER * 1000)}MB'")
                    _relate(running, con, draft, kinds, config, unit, features, None)
            else:
                hashes = [file_hash(path) for path in files]
                kinds, unit = _load(con, logs, opened, config, previous, draft.path)
                features, free = _read_tables(con, opened, users, kinds, config, previous)
                with closing(DuckDBEngine(con)) as running:
                    _relate(running, con, draft, kinds, config, unit, features, previous)
            if items:
                report_items(con)
            if previous:
                free = previous.merge_items(con, free)
            reader = con.sql(_items_sql(free or [], config.text_template)).to_arrow_reader(ROW_GROUP_ROWS)
            write_rows(reader, reader.schema, draft.path / ITEMS)
            features.write(draft.path)
        shutil.rmtree(scratch)
        tables = {"interactions": hashes, "items": [file_hash(path) for path in table_files(items)] if items else []}
        tables |= {"users": [file_hash(path) for path in table_files(users)]} if users else {}
        draft.parents.update(previous.manifest.parents if previous else {})
        for role, found in tables.items():
            first = sum(known.startswith(f"{role}/") for known in draft.parents)
            draft.parents.update({f"{role}/{n}": digest for n, digest in enumerate(found, first)})
    log.info("dataset %s: %s", out, ", ".join(f"{count} {name}" for name, count in draft.counts.items()))
    return artefact.read(out, KIND)


def _load(
    con: duckdb.DuckDBPyConnection,
    logs: Sequence[RawFile],
    items: Sequence[RawFile],
    config: PrepareConfig,
    previous: Previous | None,
    folder: Path,
) -> tuple[dict[str, IdKind], TimeUnit | None]:
    """Put the logs into the table `events`; the kinds of ids by column, and the unit of times."""
    if previous:
        previous.require_new(con, logs)
        kinds, first = previous.kinds, previous.files
    else:
        kinds, first = common_kinds(con, logs, config, items), 0
    create_events(con, kinds, config)
    if previous:
        previous.copy_rows(folder)
        previous.read_rows(con)
    unit = load_events(con, logs, kinds, config, first, previous.unit if previous else None)
    if config.keep_rows:
        write_rows_as_read(con, folder, first)
    return kinds, unit


def _load_into_spark(
    engine: SparkEngine,
    con: duckdb.DuckDBPyConnection,
    logs: Sequence[RawFile],
    items: Sequence[RawFile],
    config: PrepareConfig,
    folder: Path,
) -> tuple[dict[str, IdKind], TimeUnit | None]:
    """As `_load`; where there is an item table, `events` then holds the ids of the logs' items."""
    source = SparkLogs(engine.session, logs, config)
    kinds = common_kinds(con, logs, config, items, source.kind_of_text)
    events, unit = source.load(con, kinds)
    engine.set_events(events, by_user=not config.features.event)  # else they are once they are numbered
    if config.keep_rows:
        _keep_rows(engine, con, kinds, config, folder)
    if items:
        ids = engine.events().select("item_id").unique()
        _hand_over(
            con, engine, ids, "events", pa.schema([("item_id", _arrow_type(kinds[config.item_column]))]), engine.scratch
        )
    return kinds, unit


def _keep_rows(
    engine: SparkEngine, con: duckdb.DuckDBPyConnection, kinds: dict[str, IdKind], config: PrepareConfig, folder: Path
) -> None:
    """Write the rows as read: they pass through this process, in order of files and rows, which are counted here."""
    create_events(con, kinds, config)
    schema = con.sql("FROM events").to_arrow_table().schema
    rows = engine.events().sort("file", "row")
    if config.event_column is None:
        rows = rows.with_columns(event=nw.lit(None, nw.String))
    file = engine.scratch / "rows.parquet"
    write_rows(engine.batches(rows.select(*schema.names), ROW_GROUP_ROWS), schema, file)
    source = f"read_parquet({literal(str(file))}, file_row_number = true)"
    con.execute(
        f'INSERT INTO events SELECT r.* EXCLUDE (file_row_number) REPLACE (file_row_number - first + 1 AS "row") FROM {source} r '
        f"JOIN (SELECT file, min(file_row_number) AS first FROM {source} GROUP BY file) USING (file)"
    )
    write_rows_as_read(con, folder, 0)
    con.execute("DROP TABLE events")
    file.unlink()


def _read_tables(
    con: duckdb.DuckDBPyConnection,
    items: Sequence[RawFile],
    users: Path | None,
    kinds: dict[str, IdKind],
    config: PrepareConfig,
    previous: Previous | None,
    engine: SparkEngine | None = None,
) -> tuple[FeatureTables, list[str] | None]:
    """Read the tables of items and users; the features, and the free columns of items."""
    features = FeatureTables(con, config, previous.path if previous else None)
    features.encode_events(SparkValues(engine) if engine else None)
    schema = previous.item_schema(con) if previous else None
    free = load_items(con, items, kinds[config.item_column], config, schema) if items else None
    features.read_items(items, kinds[config.item_column])
    features.read_users(users, kinds[config.user_column])
    return features, free


def _relate(
    engine: Engine,
    con: duckdb.DuckDBPyConnection,
    draft: Draft,
    kinds: dict[str, IdKind],
    config: PrepareConfig,
    unit: TimeUnit | None,
    features: FeatureTables,
    previous: Previous | None,
) -> None:
    """Filter and number the events, write them and their users, and make the table `items` of `con`."""
    folder = draft.path
    relations = relate(engine, config, previous.known(con) if previous else None)
    draft.counts.update(relations.counts)
    size = relations.counts
    layout = Sequences(
        folder, size["users"], size["interactions"], tuple(features.of_events), marked=bool(config.targets)
    )
    draft.hashes.update(engine.write_sequences(relations.events, layout))
    users = engine.batches(relations.users, ROW_GROUP_ROWS)
    schema = pa.schema([("user", pa.int64()), ("user_id", _arrow_type(kinds[config.user_column]))])
    write_rows(users, schema, folder / USERS)
    if relations.seen is not None:
        schema = pa.schema([("user", pa.int64()), ("item", pa.int64()), ("before", pa.int64())])
        write_rows(engine.batches(relations.seen, ROW_GROUP_ROWS), schema, folder / SEEN)
    write_json(folder / STATISTICS, relations.counts | relations.statistics | {"time_unit": unit})
    own = ("item_id", _arrow_type(kinds[config.item_column]))
    # An item table's columns may be of types that Spark has not.
    schema = pa.schema([("item", pa.int64()), own, ("first_seen", pa.int64())])
    _hand_over(con, engine, relations.items, "items", schema, folder / SCRATCH)


def _hand_over(
    con: duckdb.DuckDBPyConnection,
    engine: Engine,
    rows: nw.LazyFrame[Any],
    table: str,
    schema: pa.Schema,
    scratch: Path,
) -> None:
    """Make rows of the engine a table of `con`."""
    file = scratch / f"{table}.parquet"
    write_rows(engine.batches(rows, ROW_GROUP_ROWS), schema, file)
    con.execute(f"CREATE TABLE {table} AS SELECT * FROM {parquet_sql(file)}")


def _arrow_type(kind: IdKind) -> pa.DataType:
    return pa.int64() if kind == "integer" else pa.string()


def filter_events(con: duckdb.DuckDBPyConnection, config: PrepareConfig) -> dict[str, int]:
    """Reduce the table `events` to what a dataset would keep, and number its items in a table `items`.

    Returns how many interactions each filter dropped.

    Raises:
        DataError: nothing is left.
    """
    with closing(DuckDBEngine(con)) as engine:
        kept = filtered(engine, config)
        kept.events_left().to_native().create("events_left")
        engine.numbered(kept.items.select("item_id", "first_seen"), "item").to_native().create("items")
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
