"""Raw tables: which files we read, what their columns must look like, and how each value becomes ours.

A raw table is Parquet, CSV or JSON lines (the text ones may be gzipped). It is scanned by DuckDB with an explicit,
1-based `row` column, so that file order is data and every complaint can name its row.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO, cast

import duckdb

from intrr_rec.config.preparation import MAX_ID_CHARACTERS
from intrr_rec.errors import DataError, nearest
from intrr_rec.io.artefact import file_hash
from intrr_rec.io.places import not_the_input

IdKind = Literal["integer", "string"]

_FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".csv.gz": "csv",
    **{f".{name}{packed}": "json" for name in ("jsonl", "ndjson", "json") for packed in ("", ".gz")},
}
INTEGERS = frozenset(f"{sign}{width}INT" for sign in ("", "U") for width in ("TINY", "SMALL", "", "BIG", "HUGE")) | {
    "INTEGER",
    "UINTEGER",
}
# What reading text, gzipped or not, may raise.
_UNREADABLE = (OSError, EOFError, UnicodeDecodeError, zlib.error)
# "007" and "+7" are names, not numbers: only what prints back unchanged may become an integer.
_CANONICAL_INTEGER = "-?(0|[1-9][0-9]*)"


@dataclass(frozen=True)
class RawFile:
    """One raw file; `columns` maps each column name to its DuckDB type ("VARCHAR" throughout a CSV)."""

    path: Path
    format: str
    columns: dict[str, str]

    def scan(self, *columns: str) -> str:
        """SQL of a relation with `row` (1, 2, ... in file order) and the raw `columns`."""
        names = "".join(f", {quoted(name)}" for name in columns)
        source = literal(str(self.path))
        if self.format == "parquet":
            return f'(SELECT file_row_number + 1 AS "row"{names} FROM read_parquet({source}, file_row_number = true))'
        if self.format == "csv":
            types = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in self.columns)
            reader = (
                f"read_csv({source}, {_compression(self.path)}, auto_detect = false, header = true, delim = ',', quote = '\"', escape = '\"', "
                f"nullstr = '', columns = {{{types}}})"
            )
        else:
            types = ", ".join(f"{literal(name)}: {literal(self.columns[name])}" for name in columns)
            reader = (
                f"read_json({source}, {_compression(self.path)}, format = 'newline_delimited', columns = {{{types}}})"
            )
        return f'(SELECT row_number() OVER () AS "row"{names} FROM {reader})'

    def as_json(self, *columns: str) -> RawFile:
        """The same file with these columns left as raw JSON values, whose types can be told apart row by row."""
        if self.format != "json":
            return self
        return RawFile(self.path, self.format, {**self.columns, **dict.fromkeys(columns, "JSON")})

    def id_sql(self, column: str, kind: IdKind) -> str:
        """SQL of an id as BIGINT or VARCHAR; NULL where the value is missing, empty, too long or of the other kind."""
        name = quoted(column)
        text = f"({name} ->> '$')" if self.format == "json" else name
        if kind == "string":
            typed = f"json_type({name}) = 'VARCHAR'" if self.format == "json" else "true"
            return f"CASE WHEN {typed} AND length({text}) BETWEEN 1 AND {MAX_ID_CHARACTERS} THEN {text} END"
        if self.format == "parquet":
            return f"TRY_CAST({name} AS BIGINT)"
        typed = (
            f"json_type({name}) IN ('UBIGINT', 'BIGINT')"
            if self.format == "json"
            else f"regexp_full_match({text}, '{_CANONICAL_INTEGER}')"
        )
        return f"CASE WHEN {typed} THEN TRY_CAST({text} AS BIGINT) END"

    def text_sql(self, column: str) -> str:
        """SQL of a value as text."""
        name = quoted(column)
        return f"({name} ->> '$')" if self.format == "json" else f"CAST({name} AS VARCHAR)"


def table_files(path: Path) -> list[Path]:
    """The files of a raw table: `path` itself, or the Parquet shards of a folder, sorted by name.

    Raises:
        DataError: nothing there, or a folder without Parquet files.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; mend the path")
    if not path.is_dir():
        return [path]
    shards = sorted((p for p in path.glob("*.parquet") if p.name[0] not in "._"), key=lambda p: p.name)
    if not shards:
        raise DataError(f"{path}: holds no .parquet files; give a file, or a folder of Parquet shards")
    return shards


def files_hash(files: Collection[Path]) -> str:
    """SHA-256 over the contents of `files` in order, whatever they are called."""
    return hashlib.sha256("".join(file_hash(path) for path in files).encode()).hexdigest()


def open_raw(con: duckdb.DuckDBPyConnection, path: Path) -> RawFile:
    """Look at a raw file's columns.

    Raises:
        DataError: an extension we do not read, an empty or an unreadable file.
    """
    endings = [ending for ending in _FORMATS if path.name.lower().endswith(ending)]
    if not endings:
        raise DataError(f"{path}: unknown extension; raw tables are {', '.join(_FORMATS)}")
    format_ = _FORMATS[endings[0]]
    if path.stat().st_size == 0:
        raise DataError(f"{path}: is empty (0 bytes); remove it or write it again")
    if format_ == "csv":
        return RawFile(path, format_, dict.fromkeys(_csv_header(path), "VARCHAR"))
    options = f", {_compression(path)}, format = 'newline_delimited', sample_size = -1" if format_ == "json" else ""
    with readable(path, format_):
        described = con.execute(f"DESCRIBE SELECT * FROM read_{format_}({literal(str(path))}{options})").fetchall()
    columns = {name: type_ for name, type_, *_ in described}
    if format_ == "json":
        if columns.keys() == {"json"}:  # the engine's name for lines that are no objects
            raise DataError(f"{path}: cannot be read as json (its lines are no objects); write one object a line")
        # What DuckDB recognises as a date stays the text it was; JSON of changing type becomes its text.
        columns = {n: "VARCHAR" if re.match("DATE|TIME|UUID|JSON", t) else t for n, t in columns.items()}
    return RawFile(path, format_, columns)


def require_column(raw: RawFile, column: str, setting: str, otherwise: str = "") -> None:
    """Refuse a file without `column`, naming the columns there are and the nearest; `otherwise` is another way out.

    Raises:
        DataError: the column is missing.
    """
    if column not in raw.columns:
        near = nearest(column, raw.columns)
        hint = f"; did you mean '{near}'? Then set {setting}={near}" if near else f"; name it by {setting}=NAME"
        raise DataError(f"{raw.path}: no column '{column}'; it has {', '.join(raw.columns) or 'none'}{hint}{otherwise}")


def id_kind(con: duckdb.DuckDBPyConnection, raw: RawFile, column: str) -> IdKind | None:
    """What ids a typed file holds; None for CSV, which has no types, and for JSON without a single id.

    Raises:
        DataError: the column's type can be neither.
    """
    if raw.format == "csv":
        return None
    if raw.format == "json":
        name = quoted(column)
        with readable(raw.path, raw.format):
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


def csv_id_kind(con: duckdb.DuckDBPyConnection, raw: RawFile, column: str) -> tuple[IdKind, str]:
    """Integer if every id of a CSV is the plain decimal form of an int64, else string; with the row that decided it."""
    name = quoted(column)
    with readable(raw.path, raw.format):
        row = con.execute(
            f'SELECT min("row") FROM {raw.scan(column)} WHERE {name} IS NOT NULL AND {raw.id_sql(column, "integer")} IS NULL'
        ).fetchall()[0][0]
    return ("integer", "all rows") if row is None else ("string", f"row {row}")


@contextmanager
def readable(path: Path, format_: str) -> Iterator[None]:
    """Turn the engine's complaint about a file into one line of ours."""
    try:
        yield
    except duckdb.Error as error:
        not_the_input(error)
        reason = (_malformed_json(path) if format_ == "json" else None) or _reason(error, path)
        raise DataError(f"{path}: cannot be read as {format_} ({reason}); write the file again or mend it") from None


def quoted(name: str) -> str:
    """A column name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def _compression(path: Path) -> str:
    return f"compression = '{'gzip' if path.name.lower().endswith('.gz') else 'uncompressed'}'"


def _open_text(path: Path) -> TextIO:
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    return cast(TextIO, opener(path, "rt", encoding="utf-8-sig", newline=""))


def _csv_header(path: Path) -> list[str]:
    try:
        with _open_text(path) as handle:
            header = next(csv.reader(handle), [])
    except (*_UNREADABLE, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as csv ({error}); write the file again or mend it") from None
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DataError(f"{path}: column '{twice[0]}' stands twice in the header; rename one")
    return header


def _malformed_json(path: Path) -> str | None:
    """The first line that is no JSON: the engine's own line number is off by one."""
    try:
        with _open_text(path) as handle:
            for n, line in enumerate(handle, 1):
                if line.strip():
                    try:
                        json.loads(line)
                    except json.JSONDecodeError as error:
                        return f"line {n}, column {error.pos + 1}: {error.msg}"
    except _UNREADABLE as error:
        return str(error)
    return None


def _reason(error: duckdb.Error, path: Path) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    details = ("Expected Number of Columns", "Value with", "Invalid unicode", "Maximum line size")
    kept = lines[:1] + [line for line in lines[1:] if line.startswith(details)][:1]
    return re.sub(r"^[A-Za-z ]*Error: ", "", ": ".join(kept)).replace(str(path), path.name).rstrip(" .;")
