"""A dataset that more logs are added to: what it keeps for that, and what of it stays (`intrr prepare --append`).

With `prepare.keep_rows` a dataset holds the rows it was made of, since what a filter drops today may join tomorrow. Adding
logs runs the whole preparation over these rows and the new ones, so the result is that of a full rebuild, but for numbers:
who has one keeps it, and newcomers follow in the order of their own ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import narwhals as nw
import pyarrow as pa
import pyarrow.parquet as pq

from intrr_rec.config import PrepareConfig
from intrr_rec.config.logs.time_units import TimeUnit
from intrr_rec.data.dataset import ITEMS, KIND, STATISTICS, USERS
from intrr_rec.data.prepare.engines import EngineChoice
from intrr_rec.data.prepare.filters import Known
from intrr_rec.data.raw.files import IdKind, RawFile, id_kind, literal, parquet_sql, quoted
from intrr_rec.data.raw.items.item_schema import ItemSchema
from intrr_rec.errors import ArtefactError, ConfigError, DataError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import MANIFEST, Manifest, file_hash
from intrr_rec.io.formats.records import as_record
from intrr_rec.io.versions import link_tree

ROWS = "rows"
_NUMBERED = ("item", "item_id", "first_seen")


def write_rows_as_read(con: duckdb.DuckDBPyConnection, folder: Path, first_file: int) -> None:
    """Keep the rows of `events` from file number `first_file` on, as they were read."""
    (folder / ROWS).mkdir(exist_ok=True)
    number = len(list((folder / ROWS).iterdir()))
    target = literal(str(folder / ROWS / f"part-{number:05d}.parquet"))
    con.execute(
        f'COPY (SELECT * FROM events WHERE file >= {first_file} ORDER BY file, "row") TO {target} '
        "(FORMAT parquet, COMPRESSION zstd)"
    )


@dataclass(frozen=True)
class Previous:
    """The dataset that logs are added to.

    Attributes:
        path: its folder.
        config: what it was prepared with, and is again.
        kinds: of its ids, by column.
        files: raw files it was made of: the number of the next.
        unit: that numbers in their time column count; None: there were none.
    """

    path: Path
    manifest: Manifest
    config: PrepareConfig
    kinds: dict[str, IdKind]
    files: int
    unit: TimeUnit | None

    @classmethod
    def open(cls, path: Path, asked: PrepareConfig, engine: EngineChoice) -> Previous:
        """Verify the dataset and that it can be added to.

        Raises:
            ArtefactError: not a whole dataset, or one that kept no rows.
            ConfigError: a setting that is not the dataset's, or another engine than DuckDB.
        """
        if engine.name != "duckdb":
            raise ConfigError("--append runs on DuckDB; leave --engine out, or prepare all logs anew")
        manifest = artefact.read(path, KIND)
        config = as_record(manifest.config, PrepareConfig, f"{path}/{MANIFEST}", "prepare the logs again")
        if not config.keep_rows:
            raise ArtefactError(
                f"{path}: kept no rows to add to; prepare all logs once more, with prepare.keep_rows=true"
            )
        for name in sorted(asked.model_fields_set):
            if getattr(asked, name) != getattr(config, name):
                raise ConfigError(
                    f"prepare.{name}: {getattr(asked, name)!r} was asked for, but {path} was prepared with "
                    f"{getattr(config, name)!r}; leave the setting out, or prepare all logs anew"
                )
        parts = sorted(name for name in manifest.files if name.startswith(f"{ROWS}/"))
        schema = pq.read_schema(path / parts[0])
        kinds: dict[str, IdKind] = {
            name: "integer" if pa.types.is_integer(schema.field(ours).type) else "string"
            for ours, name in (("user_id", config.user_column), ("item_id", config.item_column))
        }
        files = sum(role.startswith("interactions/") for role in manifest.parents)
        unit = json.loads((path / STATISTICS).read_text()).get("time_unit")
        return cls(path, manifest, config, kinds, files, unit)

    def require_new(self, con: duckdb.DuckDBPyConnection, logs: Sequence[RawFile]) -> None:
        """Refuse logs that were added before, or whose ids are of another kind.

        Raises:
            DataError: which, and where.
        """
        known = {digest for role, digest in self.manifest.parents.items() if role.startswith("interactions/")}
        for raw in logs:
            if file_hash(raw.path) in known:
                raise DataError(f"{raw.path}: is in {self.path} already; its interactions would count double")
            for column, kind in self.kinds.items():
                if (own := id_kind(con, raw, column) or kind) != kind and self.config.id_type == "auto":
                    raise DataError(
                        f"{raw.path}: column '{column}' holds {own}s, but the ids of {self.path} are {kind}s; write both the "
                        "same way"
                    )

    def read_rows(self, con: duckdb.DuckDBPyConnection) -> None:
        """Put the kept rows into `events`."""
        for part in sorted((self.path / ROWS).iterdir()):
            con.execute(f"INSERT INTO events BY NAME SELECT * FROM {parquet_sql(part)}")

    def known(self, con: duckdb.DuckDBPyConnection) -> Known:
        """Who has a number."""
        users, items = (nw.from_native(con.sql(f"FROM {parquet_sql(self.path / name)}")) for name in (USERS, ITEMS))
        counts = self.manifest.counts
        return Known(users.select("user", "user_id"), items.select("item", "item_id"), counts["users"], counts["items"])

    def item_schema(self, con: duckdb.DuckDBPyConnection) -> ItemSchema:
        """Columns of the content that items have."""
        described = con.execute(f"DESCRIBE SELECT * FROM read_parquet({literal(str(self.path / ITEMS))})").fetchall()
        own = {*_NUMBERED, *(["text"] if self.config.text_template is not None else [])}
        return ItemSchema({name: type_ for name, type_, *_ in described if name not in own}, str(self.path))

    def copy_rows(self, folder: Path) -> None:
        """Take the kept rows over: the two versions share the files."""
        link_tree(self.path / ROWS, folder / ROWS)

    def merge_items(self, con: duckdb.DuckDBPyConnection, free: Sequence[str] | None) -> list[str]:
        """Complete `item_table` by the content that items had; returns all free columns.

        Args:
            free: columns of `item_table`; None: there is none yet.
        """
        known = parquet_sql(self.path / ITEMS)
        present = [name for name in pq.read_schema(self.path / ITEMS).names if name not in _NUMBERED]
        if self.config.text_template is not None:
            present = [name for name in present if name != "text"]
        own = ", ".join(["item_id", *map(quoted, present)])
        if free is None:
            con.execute(f"CREATE TABLE item_table AS SELECT {own} FROM {known}")
            return present
        con.execute(
            f"CREATE TABLE merged AS SELECT * FROM item_table UNION ALL BY NAME SELECT {own} FROM {known} "
            "ANTI JOIN item_table USING (item_id)"
        )
        con.execute("DROP TABLE item_table")
        con.execute("ALTER TABLE merged RENAME TO item_table")
        return list(dict.fromkeys([*free, *present]))
