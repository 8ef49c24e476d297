"""Raw tables: what their columns must look like, and how each value becomes ours.

A raw table is Parquet, text with separators, or JSON lines. It is scanned by DuckDB with an explicit, 1-based `row` column, so
that file order is data and every error message can name its row. Which files a table is: `paths.py`; how text is written: `text.py`.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import yaml

from intrr_rec.config.logs.preparation import MAX_ID_CHARACTERS
from intrr_rec.data.raw.json_text import keys_of, malformed, type_of
from intrr_rec.data.raw.paths import format_of, no_pattern, partitions, table_files
from intrr_rec.data.raw.text import (
    UNREADABLE,
    Dialect,
    Layout,
    dialect_of,
    header_hint,
    looks_like_data,
    open_text,
    packing_of,
    reason_of,
    save_as_utf8,
    starts_with_mark,
    unreadable,
)
from intrr_rec.errors import DataError, nearest
from intrr_rec.io.disk.places import not_the_input

IdKind = Literal["integer", "string"]

INTEGERS = frozenset(f"{sign}{width}INT" for sign in ("", "U") for width in ("TINY", "SMALL", "", "BIG", "HUGE")) | {
    "INTEGER",
    "UINTEGER",
}
# "007" and "+7" are names, not numbers: only what prints back unchanged may become an integer.
CANONICAL_INTEGER = "0|-?[1-9][0-9]*"
# How other programs write a missing value as text; an id that is called so is told by `id_type=string`.
MISSING = ("nan", "null", "none", "nat", "<na>", "\\n")
_JSON_INTEGERS = "'UBIGINT', 'BIGINT'"


@dataclass(frozen=True)
class RawFile:
    """One raw file.

    Attributes:
        format: parquet, csv (text with separators), json or orc.
        columns: name → DuckDB type ("VARCHAR" throughout a text table).
        packing: uncompressed, gzip or zstd.
        dialect: of a text table.
        json_form: newline_delimited, array, or marked: lines after a byte order mark, which DuckDB's reader of JSON does not take.
        constants: columns that the names of the file's folders give, and their value.
    """

    path: Path
    format: str
    columns: dict[str, str]
    packing: str = "uncompressed"
    dialect: Dialect | None = None
    json_form: str = "newline_delimited"
    constants: dict[str, str | None] = field(default_factory=dict)

    def scan(self, *columns: str) -> str:
        """SQL of a relation with `row` (1, 2, ... in file order) and the raw `columns`."""
        if self.format == "orc":
            raise DataError(
                f"{self.path}: DuckDB reads no ORC; read the logs by --engine spark, or write them as Parquet"
            )
        source = literal(no_pattern(self.path))
        fixed = {name: "NULL" if value is None else literal(value) for name, value in self.constants.items()}
        own = [name for name in columns if name not in fixed]
        chosen = "".join(f", CAST({fixed[name]} AS VARCHAR) AS {quoted(name)}" for name in columns if name in fixed)
        # A `key=value` among the folders above is no column of the file.
        common = f"hive_partitioning = false, compression = {literal(self.packing)}"
        if self.format == "parquet":
            chosen += "".join(f", {quoted(name)}" for name in own)
            reader = f"read_parquet({source}, file_row_number = true, hive_partitioning = false)"
            return f'(SELECT file_row_number + 1 AS "row"{chosen} FROM {reader})'
        if self.dialect is not None:
            numbers = {name: n for n, name in enumerate(self.dialect.names)}
            chosen += "".join(f", c{numbers[name]} AS {quoted(name)}" for name in own)
            types = ", ".join(f"c{n}: 'VARCHAR'" for n in range(len(self.dialect.names) or 1))
            quote = literal(self.dialect.quote)
            reader = (
                f"read_csv({source}, {common}, auto_detect = false, header = {self.dialect.header}, skip = {self.dialect.skip}, "
                f"delim = {literal(self.dialect.separator)}, quote = {quote}, escape = {quote}, nullstr = '', encoding = {literal(self.dialect.encoding)}, "
                f"columns = {{{types}}})"
            )
        elif self.json_form == "marked":
            shape = literal(json.dumps({name: self.columns[name] for name in own}))
            chosen += "".join(f", made.{quoted(name)}" for name in own)
            reader = (  # no JSON text holds the control character that is named as separator
                f"(SELECT from_json(line, {shape}) AS made FROM read_csv({source}, {common}, auto_detect = false, header = false, "
                "delim = '\x1f', quote = '', escape = '', columns = {line: 'VARCHAR'}) WHERE line IS NOT NULL)"
            )
            if not own:
                reader = reader.replace(f"from_json(line, {shape})", "line")
        else:
            chosen += "".join(f", {quoted(name)}" for name in own)
            first = own or [name for name in self.columns if name not in fixed][:1]
            types = ", ".join(f"{literal(name)}: {literal(self.columns[name])}" for name in first)
            reader = f"read_json({source}, {common}, format = {literal(self.json_form)}, records = true, columns = {{{types}}})"
        return f'(SELECT row_number() OVER () AS "row"{chosen} FROM {reader})'

    def as_json(self, *columns: str) -> RawFile:
        """The same file with these columns left as raw JSON values, whose types can be told apart row by row."""
        if self.format != "json":
            return self
        own = [name for name in columns if name not in self.constants]
        return replace(self, columns={**self.columns, **dict.fromkeys(own, "JSON")})

    def is_typed(self, column: str) -> bool:
        """Whether the file says what type a column is; text and names of folders do not."""
        return self.format != "csv" and column not in self.constants

    def id_sql(self, column: str, kind: IdKind, *, numbers_too: bool = False) -> str:
        """SQL of an id as BIGINT or VARCHAR; NULL where the value is missing, blank, too long or of the other kind.

        Args:
            numbers_too: all ids are text whatever they look like: numbers of JSON, words for a missing value, blanks around.
        """
        name, text = quoted(column), self.text_sql(column)
        is_json = self.format == "json" and self.is_typed(column)
        if kind == "string":
            kinds = f"'VARCHAR', {_JSON_INTEGERS}" if numbers_too else "'VARCHAR'"
            typed = f"json_type({name}) IN ({kinds})" if is_json else "true"
            typed += f" AND trim({text}) <> ''"
            if not numbers_too:
                typed += f" AND lower({text}) NOT IN ({', '.join(map(literal, MISSING))})"
                typed += f" AND trim({text}) = {text}" if self.format == "csv" else ""
            return f"CASE WHEN {typed} AND length({text}) BETWEEN 1 AND {MAX_ID_CHARACTERS} THEN {text} END"
        if self.format == "parquet" and self.is_typed(column):
            return f"TRY_CAST({name} AS BIGINT)"
        canonical = f"regexp_full_match({text}, '{CANONICAL_INTEGER}')"
        return f"CASE WHEN {f'json_type({name}) IN ({_JSON_INTEGERS})' if is_json else canonical} THEN TRY_CAST({text} AS BIGINT) END"

    def text_sql(self, column: str) -> str:
        """SQL of a value as text."""
        name = quoted(column)
        return f"({name} ->> '$')" if self.columns[column] == "JSON" else f"CAST({name} AS VARCHAR)"


def open_table(con: duckdb.DuckDBPyConnection, path: Path, layout: Layout) -> list[RawFile]:
    """The files of a raw table that hold rows: `path`, or those of a folder, where parts without rows are passed over.

    Columns that only the names of a folder's own sub-folders give (`date=2024-01-01/`, as Spark's `partitionBy` writes) are text.
    A column that a file has is never replaced by them.

    Raises:
        DataError: nothing there, a file that cannot be read, or no row.
    """
    files = table_files(path)
    if not path.is_dir():
        raw = open_raw(con, path, layout)
        if raw.format != "parquet" and not raw.columns and not (raw.dialect and raw.dialect.names):
            raise DataError(f"{path}: holds nothing; remove it or write it again")
        return [raw]
    found = []
    for file in files:
        if file.stat().st_size:
            raw = open_raw(con, file, layout)
            present = {name.lower() for name in raw.columns}
            fixed = {name: value for name, value in partitions(file, path).items() if name.lower() not in present}
            raw = replace(raw, columns={**raw.columns, **dict.fromkeys(fixed, "VARCHAR")}, constants=fixed)
            if _has_rows(con, raw):
                found.append(raw)
    if not found:
        raise DataError(f"{path}: its {len(files)} files hold no rows; remove it or write it again")
    return found


def open_raw(con: duckdb.DuckDBPyConnection, path: Path, layout: Layout = Layout()) -> RawFile:  # noqa: B008 - frozen
    """Look at a raw file's columns.

    Raises:
        DataError: an extension we do not read, an empty or an unreadable file.
    """
    format_, source = format_of(path), literal(no_pattern(path))
    if not path.exists():
        raise DataError(f"{path}: no such file; correct the path")
    if not path.is_file():
        raise DataError(f"{path}: is no regular file; write the table to one")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty (0 bytes); remove it or write it again")
    if format_ == "parquet":
        with readable(path, format_):
            described = con.execute(
                f"DESCRIBE SELECT * FROM read_parquet({source}, hive_partitioning = false)"
            ).fetchall()
        return RawFile(path, format_, {name: type_ for name, type_, *_ in described})
    if format_ == "orc":
        try:
            table = orc.ORCFile(path).schema.empty_table()
        except pa.ArrowException as error:
            raise unreadable(path, error) from None
        described = con.from_arrow(table).types
        return RawFile(path, format_, dict(zip(table.column_names, map(str, described), strict=True)))
    packing = packing_of(path)
    if format_ == "csv":
        dialect = dialect_of(path, packing, layout)
        return RawFile(path, format_, {n: "VARCHAR" for n in dialect.names if n}, packing, dialect)
    return _open_json(con, path, packing)


def require_column(raw: RawFile, column: str, setting: str, otherwise: str = "") -> None:
    """Refuse a file without `column`, naming the columns there are and the nearest; `otherwise` is another way out.

    Raises:
        DataError: the column is missing.
    """
    require_columns(raw, {setting: column}, {setting: otherwise})


def require_columns(raw: RawFile, columns: Mapping[str, str], otherwise: Mapping[str, str]) -> None:
    """Refuse a file that lacks any of `columns`, by setting, and name all that it lacks in one line.

    Raises:
        DataError: columns are missing, or two differ in capitals only.
    """
    names = list(raw.columns)
    for column in columns.values():
        if (twin := twins(raw, column)) is not None:
            raise DataError(
                f"{raw.path}: columns '{column}' and '{twin}' differ in capitals only; rename or remove one"
            )
    missing = {setting: column for setting, column in columns.items() if column not in names}
    if not missing:
        return
    near = {setting: nearest(column, names) for setting, column in missing.items()}
    first = next(iter(missing))
    of = "items_" if first == "prepare.items_column" else ""
    told = _header_told(raw, missing[first], f"prepare.{of}separator") if len(missing) == len(columns) else ""
    if told:
        hint = told
    elif len(missing) == 1 and near[first]:
        hint = f"; did you mean '{near[first]}'? Then set {setting_word(first, near[first] or '')}"
    elif any(near.values()):
        hint = f"; name them by {' '.join(setting_word(setting, word or 'NAME') for setting, word in near.items())}"
    elif raw.dialect and raw.dialect.header and looks_like_data(names):
        hint = f"; if its first line is data, name its columns in order by prepare.{of}column_names='[NAME, NAME, ...]'"
    else:
        hint = f"; name {'it' if len(missing) == 1 else 'them'} by {' '.join(f'{each}=NAME' for each in missing)}"
    lacks = ", ".join(f"'{column}'" for column in missing.values())
    ways = otherwise.get(first, "") if len(missing) == 1 else ""
    raise DataError(f"{raw.path}: no column {lacks}; it has {', '.join(names) or 'none'}{hint}{ways}")


def _header_told(raw: RawFile, column: str, separator: str) -> str:
    """What the first lines of a text table say of a header that lacks `column`, and the fix; `separator` names the setting of it."""
    told = header_hint(raw.path, raw.packing, raw.dialect, column) if raw.dialect and raw.dialect.header else None
    if told is None:
        return ""
    fix, word = told
    return f"; {fix}" if word is None else f"; {fix}: set " + shlex.quote(f'{separator}="{word}"')


def names_in(raw: RawFile) -> list[str]:
    """The columns as the file calls them: DuckDB renames the second of two that differ in capitals only."""
    return list(pq.read_schema(raw.path).names) if raw.format == "parquet" else list(raw.columns)


def twins(raw: RawFile, column: str) -> str | None:
    """Another column of the file whose name is `column` but for capitals; None where there is none."""
    alike = [name for name in names_in(raw) if name.casefold() == column.casefold()]
    if raw.format == "json" and alike and column not in alike and f"{column}_1" in raw.columns:
        alike.append(column)  # what DuckDB makes of the second key
    if column not in alike or len(alike) < 2:
        return None
    return next((name for name in alike if name != column), column)


def setting_word(setting: str, value: str) -> str:
    """`setting=value` as it can be copied into a shell: quoted for YAML and for the shell where either needs it."""
    try:
        plain = yaml.safe_load(value) == value
    except yaml.YAMLError:
        plain = False
    return shlex.quote(f"{setting}={value if plain else json.dumps(value, ensure_ascii=False)}")


def id_kind(con: duckdb.DuckDBPyConnection, raw: RawFile, column: str) -> IdKind | None:
    """What ids a typed file holds; None for text, which has no types, and for JSON without a single id.

    Raises:
        DataError: the column's type can be neither.
    """
    if not raw.is_typed(column):
        return None
    if raw.format == "json":
        name = quoted(column)
        with readable(raw.path, raw.format, raw.packing):
            first = con.execute(
                f'SELECT "row", json_type({name}) FROM {raw.scan(column)} WHERE {name} IS NOT NULL LIMIT 1'
            ).fetchall()
        if not first:
            return None
        where, type_ = f", row {first[0][0]}", first[0][1].replace("UBIGINT", "BIGINT")
    else:
        where, type_ = "", "BIGINT" if raw.columns[column] in INTEGERS else raw.columns[column]
    if type_ not in ("BIGINT", "VARCHAR"):
        raise DataError(
            f"{raw.path}: column '{column}'{where} has type {type_}; ids must be integers or strings, write it as one"
        )
    return "integer" if type_ == "BIGINT" else "string"


def untyped_id_kind(con: duckdb.DuckDBPyConnection, raw: RawFile, column: str) -> tuple[IdKind, str]:
    """Integer if every id of a text table is the plain decimal form of an int64, else string; with the row that decided it."""
    name = quoted(column)
    with readable(raw.path, raw.format, raw.packing):
        row = con.execute(
            f'SELECT min("row") FROM {raw.scan(column)} WHERE {name} IS NOT NULL AND {raw.id_sql(column, "integer")} IS NULL'
        ).fetchall()[0][0]
    return ("integer", "all rows") if row is None else ("string", f"row {row}")


@contextmanager
def readable(path: Path, format_: str, packing: str = "uncompressed") -> Iterator[None]:
    """Turn the engine's complaint about a file into one line of ours."""
    try:
        yield
    except duckdb.Error as error:
        not_the_input(error)
        reason = (malformed(path, packing) if format_ == "json" else None) or reason_of(error, path)
        fix = save_as_utf8(format_) if "unicode" in reason else "write the file again or correct it"
        raise DataError(f"{path}: cannot be read as {format_} ({reason}); {fix}") from None


def quoted(name: str) -> str:
    """A column name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def parquet_sql(file: Path) -> str:
    """SQL of a Parquet file of ours, as it is: its path is no pattern and gives no columns."""
    return f"read_parquet({literal(no_pattern(file))}, hive_partitioning = false)"


def _has_rows(con: duckdb.DuckDBPyConnection, raw: RawFile) -> bool:
    if not raw.columns:
        return False
    if raw.format == "orc":
        return bool(orc.ORCFile(raw.path).nrows)
    with readable(raw.path, raw.format, raw.packing):
        return bool(con.execute(f"SELECT 1 FROM {raw.scan()} LIMIT 1").fetchall())


def _open_json(con: duckdb.DuckDBPyConnection, path: Path, packing: str) -> RawFile:
    try:
        with open_text(path, packing) as handle:
            first = handle.read(1)
            while first.isspace():
                first = handle.read(1)
            start = "array" if first == "[" else "newline_delimited"
            keys = keys_of(first + handle.readline()) if first == "{" else None
        has_bom = starts_with_mark(path, packing)
    except UNREADABLE as error:
        raise unreadable(path, error) from None
    if not first:
        return RawFile(path, "json", {}, packing)
    source = literal(no_pattern(path))
    common = f"hive_partitioning = false, compression = {literal(packing)}"
    with readable(path, "json", packing):
        if keys is not None and "" in keys:  # DuckDB takes no column without a name
            (shape,) = con.execute(
                f"SELECT json_group_structure(json) FROM read_ndjson_objects({source}, {common})"
            ).fetchall()[0]
            columns = {name: type_of(kind) for name, kind in json.loads(shape).items() if name}
        else:
            options = f"{common}, format = '{start}', records = true, sample_size = -1"
            described = con.execute(f"DESCRIBE SELECT * FROM read_json({source}, {options})").fetchall()
            columns = {name: type_ for name, type_, *_ in described}
    if columns.keys() == {"json"} and keys != {"json"}:  # the engine's name for lines that are no objects
        raise DataError(f"{path}: cannot be read as json (its lines are no objects); write one object a line")
    # What DuckDB recognises as a date stays the text it was; JSON of changing type becomes its text.
    columns = {n: "VARCHAR" if re.match("DATE|TIME|UUID|JSON", t) else t for n, t in columns.items()}
    return RawFile(path, "json", columns, packing, json_form="marked" if has_bom and start != "array" else start)
