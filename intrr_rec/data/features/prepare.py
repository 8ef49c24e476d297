"""The features of a dataset under preparation: read, fitted, encoded and written beside the sequences."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from intrr_rec.config import PrepareConfig
from intrr_rec.config.logs.features import Side
from intrr_rec.data.dataset import ITEMS, USERS
from intrr_rec.data.features.columns import Column
from intrr_rec.data.features.encode import RawValues, encode, fit, raws_of
from intrr_rec.data.features.store import FEATURES, TABLES, FeatureRecord, table_schema
from intrr_rec.data.features.targets import target_sql
from intrr_rec.data.prepare.filters import TARGET
from intrr_rec.data.raw.files import IdKind, RawFile, open_table, parquet_sql, quoted, require_column
from intrr_rec.data.raw.logs import bad_value
from intrr_rec.data.raw.text import Layout
from intrr_rec.errors import ConfigError, DataError
from intrr_rec.io.disk.atomic import write_text

log = logging.getLogger(__name__)
ROW_GROUP = 1 << 16


class FeatureTables:
    """Takes the features of one preparation from raw files to the dataset; without any declared it does nothing.

    Args:
        con: has the table `events`, with the raw values of its features.
        config: declares them.
        previous: a dataset that is added to; None: there is none.

    Attributes:
        of_events: columns of events, once they are encoded.
        of_tables: columns of items and of users, once they are read.
    """

    def __init__(self, con: duckdb.DuckDBPyConnection, config: PrepareConfig, previous: Path | None = None) -> None:
        self.con, self.config, self.previous = con, config, previous
        self.of_events: list[Column] = []
        self.of_tables: dict[Side, list[Column]] = {"item": [], "user": []}
        self._known: tuple[Column, ...] = ()
        if previous is not None and config.features:
            self._known = FeatureRecord.model_validate_json((previous / FEATURES).read_text()).columns

    def encode_events(self, values_of: RawValues | None = None) -> None:
        """Replace the raw values of events by their numbers.

        Args:
            values_of: of another engine; None: the table `events`.
        """
        raws = raws_of(self.config.features, "event")
        if not raws:
            return
        if self.config.time_column is None and (clock := next((raw for raw in raws if raw.reads_clock), None)):
            raise ConfigError(
                f"prepare.features.event.{clock.name}: parts of the events' time, but prepare.time_column is null; name a column"
            )
        targets = self.config.targets
        values_of = values_of or RawValues(self.con, "events")
        marks = [f"{target_sql(values_of, raws, targets)} AS {TARGET}"] if targets else []
        self.of_events = fit(values_of, raws, self._known)
        values_of.number(raws, self.of_events, marks)

    def read_items(self, opened: Sequence[RawFile], kind: IdKind) -> None:
        """Read and fit the features of items from the files of the item table.

        Raises:
            ConfigError: features of items without an item table.
            DataError: a column that is missing, or a value that its kind has not.
        """
        self._read("item", opened, self.config.items_column or self.config.item_column, kind)

    def read_users(self, table: Path | None, kind: IdKind, columns: Sequence[Column] | None = None) -> None:
        """Read and fit the features of users from the user table.

        Args:
            columns: fitted already, in the order of their names; None: they are fitted on this table.

        Raises:
            ConfigError: features of users without a user table, or a table whose features none declares.
            DataError: a file, column or value that cannot be used, or a user who stands twice.
        """
        if table is not None and not self.config.features.user:
            raise ConfigError(
                f"--users {table}: no feature of users is declared; declare some by prepare.features.user"
            )
        column = self.config.users_column or self.config.user_column
        opened: list[RawFile] = []
        if table is not None:
            settings = ("prepare.users_separator", "prepare.users_column_names")
            layout = Layout(self.config.users_separator, self.config.users_column_names, settings, self.config.encoding)
            opened = [raw.as_json(column) for raw in open_table(self.con, table, layout)]
            for raw in opened:
                require_column(raw, column, "prepare.users_column")
        self._read("user", opened, column, kind, columns)

    def write(self, folder: Path) -> None:
        """Write `features.json` and the tables by dense id, once `items.parquet` and `users.parquet` are there."""
        if not self.config.features:
            return
        columns = [*self.of_events, *self.of_tables["item"], *self.of_tables["user"]]
        record = FeatureRecord(columns=tuple(columns)).model_dump(mode="json", exclude_defaults=True)
        write_text(folder / FEATURES, json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
        tables: dict[Side, str] = {"item": ITEMS, "user": USERS}
        for side, name in tables.items():
            if self.of_tables[side]:
                self._write_table(side, folder / name, folder / TABLES[side])

    def encoded(self, side: Side) -> str:
        """SQL of the rows of the item or user table as they were read: `id`, and the numbers of each column."""
        raws = raws_of(self.config.features, side)
        return encode(self.con, f"raw_{side}s", raws, self.of_tables[side], ["id"])

    def _read(
        self,
        side: Side,
        opened: Sequence[RawFile],
        id_column: str,
        kind: IdKind,
        columns: Sequence[Column] | None = None,
    ) -> None:
        raws = raws_of(self.config.features, side)
        if not raws:
            return
        if not opened and self.previous is not None:
            kept = "".join(f", {raw.kept} {raw.type}" for raw in raws)
            self.con.execute(f"CREATE TABLE raw_{side}s (id {'BIGINT' if kind == 'integer' else 'VARCHAR'}{kept})")
            self.of_tables[side] = [column for column in self._known if column.side == side]
            return
        if not opened:
            raise ConfigError(
                f"prepare.features.{side}: needs a table of {side}s; give it by --{side}s, or declare no features of {side}s"
            )
        numbers_too = self.config.id_type == "string"
        selects = []
        for n, raw in enumerate(opened):
            for feature in raws:
                feature.require(self.con, raw)
            read = dict.fromkeys([id_column, *(column for feature in raws for column in feature.columns)])
            values = ", ".join(f"{feature.sql(raw)} AS {feature.kept}" for feature in raws)
            own = raw.id_sql(id_column, kind, numbers_too=numbers_too)
            selects.append(f'SELECT {n} AS file, "row", {own} AS id, {values} FROM {raw.scan(*read)}')
        self.con.execute(f"CREATE TABLE raw_{side}s AS {' UNION ALL BY NAME '.join(selects)}")
        self._require_ids(side, opened, id_column, kind)
        values_of = RawValues(self.con, f"raw_{side}s")
        self.of_tables[side] = fit(values_of, raws, self._known) if columns is None else list(columns)

    def _require_ids(self, side: Side, opened: Sequence[RawFile], column: str, kind: IdKind) -> None:
        table = f"raw_{side}s"
        bad = self.con.execute(f'SELECT file, "row" FROM {table} WHERE id IS NULL ORDER BY ALL LIMIT 1').fetchall()
        if bad:
            raise bad_value(self.con, opened[bad[0][0]], bad[0][1], column, kind)
        twice = self.con.execute(
            f'SELECT arg_min(file, "row"), max("row"), id FROM {table} GROUP BY id HAVING count(*) > 1 ORDER BY id LIMIT 1'
        ).fetchall()
        if twice:
            file, row, own = twice[0]
            raise DataError(
                f"{opened[file].path}: column '{column}', row {row}: {side} {own!r} stands twice; keep one row"
            )

    def _write_table(self, side: Side, ids: Path, out: Path) -> None:
        """Rows by dense id; who is not in the table has missing values, or what a dataset that is added to knew of him."""
        columns = self.of_tables[side]
        encoded = self.encoded(side)
        old = self._older(side)
        places = f"SELECT {quoted(side)} AS place, {quoted(side + '_id')} AS id FROM {parquet_sql(ids)}"
        chosen = []
        for n, column in enumerate(columns):
            missing = "[0]" if column.is_multi else "0"
            values = [f"e.feature_{n}", *([f"o.{quoted(column.name)}"] if old else []), missing]
            chosen.append(f"coalesce({', '.join(values)}) AS {quoted(column.name)}")
        reader = self.con.sql(
            f"SELECT p.place AS {side}, {', '.join(chosen)} FROM ({places}) p LEFT JOIN ({encoded}) e USING (id)"
            f"{old and f' LEFT JOIN ({old}) o ON o.{side} = p.place'} ORDER BY p.place"
        ).to_arrow_reader(ROW_GROUP)
        schema = table_schema(side, columns)
        with pq.ParquetWriter(out, schema, compression="zstd") as writer:
            for batch in reader:
                writer.write_table(pa.Table.from_batches([batch]).cast(schema), row_group_size=ROW_GROUP)
        without = self.con.execute(f"SELECT count(*) FROM ({places}) p ANTI JOIN raw_{side}s USING (id)").fetchall()[0][
            0
        ]
        if without:
            log.warning("%d %ss of the logs are not in the %s table: their features are missing", without, side, side)

    def _older(self, side: Side) -> str:
        if self.previous is None or not (self.previous / TABLES[side]).exists():
            return ""
        return f"SELECT * FROM {parquet_sql(self.previous / TABLES[side])}"
