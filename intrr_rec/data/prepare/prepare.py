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
from intrr_rec.config.time_units import TimeUnit
from intrr_rec.data.dataset import ITEMS, KIND, SEQUENCES, STATISTICS, USERS
from intrr_rec.data.features.columns import Column
from intrr_rec.data.features.prepare import FeatureTables
from intrr_rec.data.prepare.append import Previous, write_rows_as_read
from intrr_rec.data.prepare.engines import DuckDBEngine, Engine, EngineChoice
from intrr_rec.data.prepare.filters import Relations, before_deduplication, filtered, numbered, relate
from intrr_rec.data.prepare.split import TimeSplit, split_in_time
from intrr_rec.data.prepare.writer import ROW_GROUP_EVENTS, ROW_GROUP_ROWS, write_rows, write_sequences
from intrr_rec.data.raw.files import IdKind, literal, parquet_sql, quoted
from intrr_rec.data.raw.item_table import load_items, open_items, report_items
from intrr_rec.data.raw.logs import common_kinds, connect, create_events, load_events, open_logs
from intrr_rec.data.raw.paths import table_files
from intrr_rec.data.seen import SEEN
from intrr_rec.errors import DataError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import Manifest, file_hash
from intrr_rec.io.atomic import write_json

log = logging.getLogger(__name__)


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
        scratch = draft.path / ".scratch"
        scratch.mkdir()
        with closing(connect(scratch, engine.memory_gb)) as con:
            logs = open_logs(con, interactions, config)
            opened = open_items(con, items, config) if items else []
            if previous:
                previous.require_new(con, logs)
                kinds, first = previous.kinds, previous.files
            else:
                kinds, first = common_kinds(con, logs, config, opened), 0
            create_events(con, kinds, config)
            if previous:
                previous.copy_rows(draft.path)
                previous.read_rows(con)
            unit = load_events(con, logs, kinds, config, first, previous.unit if previous else None)
            if config.keep_rows:
                write_rows_as_read(con, draft.path, first)
            features = FeatureTables(con, config, previous.path if previous else None)
            features.encode_events()
            schema = previous.item_schema(con) if previous else None
            free = load_items(con, opened, kinds[config.item_column], config, schema) if items else None
            features.read_items(opened, kinds[config.item_column])
            features.read_users(users, kinds[config.user_column])
            with closing(engine.open(con, scratch)) as running:
                relations = relate(running, config, previous.known(con) if previous else None)
                draft.counts.update(relations.counts)
                _write_relations(running, relations, draft.path, kinds, config, unit, features.of_events)
                _hand_over_items(con, running, relations, scratch, kinds[config.item_column])
            if items:
                report_items(con)
            if previous:
                free = previous.merge_items(con, free)
            reader = con.sql(_items_sql(free or [], config.text_template)).to_arrow_reader(ROW_GROUP_ROWS)
            write_rows(reader, reader.schema, draft.path / ITEMS)
            features.write(draft.path)
        shutil.rmtree(scratch)
        files = [file for path in interactions for file in table_files(path)]
        tables = {"interactions": files, "items": table_files(items) if items else []}
        tables |= {"users": table_files(users)} if users else {}
        draft.parents.update(previous.manifest.parents if previous else {})
        for role, paths in tables.items():
            first = sum(known.startswith(f"{role}/") for known in draft.parents)
            draft.parents.update({f"{role}/{n}": file_hash(path) for n, path in enumerate(paths, first)})
    log.info("dataset %s: %s", out, ", ".join(f"{count} {name}" for name, count in draft.counts.items()))
    return artefact.read(out, KIND)


def _write_relations(
    engine: Engine,
    relations: Relations,
    folder: Path,
    kinds: dict[str, IdKind],
    config: PrepareConfig,
    unit: TimeUnit | None,
    features: Sequence[Column],
) -> None:
    events = engine.batches(relations.events, ROW_GROUP_EVENTS)
    part, total = folder / SEQUENCES / "part-00000.parquet", relations.counts["interactions"]
    write_sequences(events, part, total, features, marked=bool(config.targets))
    users = engine.batches(relations.users, ROW_GROUP_ROWS)
    schema = pa.schema([("user", pa.int64()), ("user_id", _arrow_type(kinds[config.user_column]))])
    write_rows(users, schema, folder / USERS)
    if relations.seen is not None:
        schema = pa.schema([("user", pa.int64()), ("item", pa.int64()), ("before", pa.int64())])
        write_rows(engine.batches(relations.seen, ROW_GROUP_ROWS), schema, folder / SEEN)
    write_json(folder / STATISTICS, relations.counts | relations.statistics | {"time_unit": unit})


def _hand_over_items(
    con: duckdb.DuckDBPyConnection, engine: Engine, relations: Relations, scratch: Path, kind: IdKind
) -> None:
    """Make the engine's items the table `items` of `con`: an item table's columns may be of types Spark has not."""
    schema = pa.schema([("item", pa.int64()), ("item_id", _arrow_type(kind)), ("first_seen", pa.int64())])
    file = scratch / "items.parquet"
    write_rows(engine.batches(relations.items, ROW_GROUP_ROWS), schema, file)
    con.execute(f"CREATE TABLE items AS SELECT * FROM {parquet_sql(file)}")


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
