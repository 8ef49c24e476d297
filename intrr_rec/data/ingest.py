"""Raw logs → dataset artefact.

The preparation is relational: SQL over `events(file, row, user_id, item_id, time)`, run by DuckDB out of core. File order
is the pair (file, row), so nothing hangs on the order in which an engine happens to return rows.

Shape suffixes: E events, U users.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress

from intrr_rec import artefact
from intrr_rec.artefact import Manifest, file_hash, write_json
from intrr_rec.config import PrepareConfig
from intrr_rec.data.prepared import ITEMS, KIND, SEQUENCE_SCHEMA, SEQUENCES, SPLIT, STATISTICS, USERS
from intrr_rec.data.schema import (
    MAX_ID_CHARACTERS,
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
from intrr_rec.errors import DataError

log = logging.getLogger(__name__)

ROW_GROUP_EVENTS = 1 << 20
ROW_GROUP_ROWS = 1 << 16
NO_TIME = -1  # real times are not negative
_OUR_COLUMNS = ("item", "item_id", "first_seen", "_file", "_row")


def prepare_dataset(interactions: Sequence[Path], items: Path | None, out: Path, config: PrepareConfig) -> Manifest:
    """Validate, filter, order and number raw logs, and write them as a dataset artefact.

    Args:
        interactions: Parquet, CSV or JSON-lines files, or folders of Parquet shards; rows count in the order given.
        items: optional item table in one of these formats; its free columns are kept as they are.
        out: folder to write; a dataset there is replaced.
        config: column names, k-core and shortest history.

    Raises:
        DataError: a file, column, row or value that cannot be used, or nothing left after the k-core.
        ArtefactError: `out` holds something else than a dataset.
    """
    settings = {**config.model_dump(mode="json"), "split": SPLIT}
    with artefact.writing(out, KIND, settings) as draft:
        scratch = draft.path / ".scratch"
        scratch.mkdir()
        with closing(_connect(scratch)) as con:
            logs = _open_logs(con, interactions, config)
            kinds = {column: _common_kind(con, logs, column) for column in (config.user_column, config.item_column)}
            _load_events(con, logs, kinds, config)
            raw = _count(con, "events")
            rounds = _filter(con, config)
            _number(con)
            free = _load_items(con, items, kinds[config.item_column], config) if items else []
            draft.counts.update(
                users=_count(con, "users"), items=_count(con, "items"), interactions=_count(con, "events")
            )
            _write_sequences(con, draft.path / SEQUENCES / "part-00000.parquet", draft.counts["interactions"])
            _write_rows(con, draft.path / USERS, 'SELECT "user", user_id FROM users ORDER BY "user"')
            _write_rows(con, draft.path / ITEMS, _items_sql(free))
            write_json(draft.path / STATISTICS, _statistics(con, draft.counts, raw, rounds))
        shutil.rmtree(scratch)
        tables = {"interactions": [raw.path for raw in logs], "items": table_files(items) if items else []}
        draft.parents.update(
            {f"{role}/{n}": file_hash(path) for role, paths in tables.items() for n, path in enumerate(paths)}
        )
    log.info("dataset %s: %s", out, ", ".join(f"{count} {name}" for name, count in draft.counts.items()))
    return artefact.read(out, KIND)


def _connect(scratch: Path) -> duckdb.DuckDBPyConnection:
    settings = {"temp_directory": str(scratch / "spill"), "autoinstall_known_extensions": "false"}
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
    con: duckdb.DuckDBPyConnection, logs: Sequence[RawFile], kinds: dict[str, IdKind], config: PrepareConfig
) -> None:
    user, item, time = config.user_column, config.item_column, config.time_column
    create_events(con, kinds, config)
    for n, raw in enumerate(logs):
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
    con.execute('CREATE TABLE events (file INTEGER, "row" BIGINT, user_id {}, item_id {}, time BIGINT)'.format(*types))


def read_events(
    con: duckdb.DuckDBPyConnection, n: int, raw: RawFile, kinds: dict[str, IdKind], config: PrepareConfig
) -> None:
    """Add the rows of file number `n` to `events`; a value that cannot be used is NULL, or a time below 0.

    Raises:
        DataError: the file cannot be read, or holds no rows.
    """
    user, item, time = config.user_column, config.item_column, config.time_column
    read = dict.fromkeys((user, item) if time is None else (user, item, time))
    time_sql = "NULL" if time is None else raw.time_sql(time)
    with readable(raw.path, raw.format):
        added = con.execute(
            f'INSERT INTO events SELECT {n}, "row", {raw.id_sql(user, kinds[user])}, '
            f"{raw.id_sql(item, kinds[item])}, {time_sql} FROM {raw.scan(*read)}"
        ).fetchall()[0][0]
    if not added:
        raise DataError(f"{raw.path}: holds no rows; remove it or write it again")


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


def _filter(con: duckdb.DuckDBPyConnection, config: PrepareConfig) -> int:
    """Drop users and items with too few interactions until none is left; returns the rounds it took."""
    users_min, items_min = max(config.k_core, config.min_sequence), config.k_core
    before = start = _count(con, "events")
    rounds = 0
    while True:
        con.execute(
            "CREATE TABLE kept AS SELECT * FROM events "
            f"WHERE user_id IN (SELECT user_id FROM events GROUP BY user_id HAVING count(*) >= {users_min}) "
            f"AND item_id IN (SELECT item_id FROM events GROUP BY item_id HAVING count(*) >= {items_min})"
        )
        con.execute("DROP TABLE events")
        con.execute("ALTER TABLE kept RENAME TO events")
        after = _count(con, "events")
        if after == before:
            return rounds
        rounds += 1
        log.info("k-core round %d: %d of %d interactions left", rounds, after, before)
        if not after:
            raise DataError(
                f"the filter (k-core: at least {users_min} interactions a user, {items_min} an item) leaves none of the "
                f"{start} interactions; lower prepare.k_core (1 keeps all) or prepare.min_sequence, or give more logs"
            )
        before = after


def _number(con: duckdb.DuckDBPyConnection) -> None:
    """Dense ids by sorted original id: integers by value, strings by their bytes."""
    con.execute(
        'CREATE TABLE users AS SELECT row_number() OVER (ORDER BY user_id) - 1 AS "user", user_id '
        "FROM (SELECT DISTINCT user_id FROM events)"
    )
    con.execute(
        "CREATE TABLE items AS SELECT row_number() OVER (ORDER BY item_id) - 1 AS item, item_id, first_seen "
        "FROM (SELECT item_id, min(time) AS first_seen FROM events GROUP BY item_id)"
    )


def _load_items(con: duckdb.DuckDBPyConnection, table: Path, kind: IdKind, config: PrepareConfig) -> list[str]:
    """Read the item table into `item_table(file, row, item_id, free columns)`; returns the free columns."""
    column = config.item_column
    raws, selects, free = [], [], {}
    for n, file in enumerate(table_files(table)):
        raw = open_raw(con, file)
        require_column(raw, column, "prepare.item_column")
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


def _items_sql(free: Sequence[str]) -> str:
    names = "".join(f", {quoted(name)}" for name in free)
    join = "LEFT JOIN item_table USING (item_id)" if free else ""
    return f"SELECT item, item_id, first_seen{names} FROM items {join} ORDER BY item"


def _write_sequences(con: duckdb.DuckDBPyConnection, path: Path, total: int) -> None:
    path.parent.mkdir()
    # Streamed from an external sort: a list aggregate would hold all histories in memory.
    query = con.sql(
        'SELECT "user", item, time FROM events JOIN users USING (user_id) JOIN items USING (item_id) '
        'ORDER BY "user", time, file, "row"'
    )
    pending_3E = np.empty((3, 0), np.int64)
    progress = Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())
    with pq.ParquetWriter(path, SEQUENCE_SCHEMA, compression="zstd") as writer, progress:
        task = progress.add_task("writing sequences", total=total)
        for batch in query.to_arrow_reader(ROW_GROUP_EVENTS):
            new_3E = np.stack([column.fill_null(NO_TIME).to_numpy() for column in batch.columns])
            pending_3E = np.concatenate([pending_3E, new_3E], axis=1)
            while cut := _row_group_end(pending_3E[0]):
                _write_group(writer, pending_3E[:, :cut])
                pending_3E = pending_3E[:, cut:]
            progress.advance(task, batch.num_rows)
        _write_group(writer, pending_3E)


def _row_group_end(users_E: np.ndarray) -> int:
    """The first change of user at or after ROW_GROUP_EVENTS; 0 while it is not in sight."""
    if len(users_E) <= ROW_GROUP_EVENTS:
        return 0
    end = int(np.searchsorted(users_E, users_E[ROW_GROUP_EVENTS - 1], side="right"))
    return end if end < len(users_E) else 0


def _write_group(writer: pq.ParquetWriter, events_3E: np.ndarray) -> None:
    users_U, starts_U = np.unique(events_3E[0], return_index=True)
    offsets = pa.array(np.append(starts_U, events_3E.shape[1]), pa.int32())
    items_U, times_U = (pa.ListArray.from_arrays(offsets, pa.array(values_E)) for values_E in events_3E[1:])
    if events_3E[2, 0] == NO_TIME:
        times_U = pa.nulls(len(users_U), times_U.type)
    writer.write_batch(pa.record_batch([pa.array(users_U), items_U, times_U], schema=SEQUENCE_SCHEMA))


def _write_rows(con: duckdb.DuckDBPyConnection, path: Path, sql: str) -> None:
    reader = con.sql(sql).to_arrow_reader(ROW_GROUP_ROWS)
    with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
        for table in _rebatch(reader):
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)


def _rebatch(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Tables of exactly ROW_GROUP_ROWS rows (the last: fewer), so that the bytes do not hang on the engine's batches."""
    pending = reader.schema.empty_table()
    for batch in reader:
        pending = pa.concat_tables([pending, pa.Table.from_batches([batch])])
        while pending.num_rows > ROW_GROUP_ROWS:
            yield pending.slice(0, ROW_GROUP_ROWS)
            pending = pending.slice(ROW_GROUP_ROWS)
    yield pending


def _statistics(con: duckdb.DuckDBPyConnection, counts: dict[str, int], raw: int, rounds: int) -> dict[str, object]:
    shortest, mean, median, longest = con.execute(
        "SELECT min(n), avg(n), median(n), max(n) FROM (SELECT count(*) AS n FROM events GROUP BY user_id)"
    ).fetchall()[0]
    first, last = con.execute("SELECT min(time), max(time) FROM events").fetchall()[0]
    return {
        **counts,
        "density": counts["interactions"] / (counts["users"] * counts["items"]),
        "sequence_length": {"min": shortest, "mean": mean, "median": median, "max": longest},
        "time": None if first is None else {"first": first, "last": last},
        "interactions_read": raw,
        "interactions_dropped": raw - counts["interactions"],
        "filter_rounds": rounds,
    }


def _count(con: duckdb.DuckDBPyConnection, table: str) -> int:
    return _scalar(con, f"SELECT count(*) FROM {table}")


def _scalar(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    return int(con.execute(sql).fetchall()[0][0])
