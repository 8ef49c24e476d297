"""Files of public datasets in their makers' own formats → Arrow tables, a block of rows at a time.

* Amazon 2014 (McAuley et al., SIGIR 2015): `reviews_*_5.json.gz` is JSON lines and needs nothing of this; `meta_*.json.gz` is
  a Python literal a line, in single quotes, which no JSON parser takes.
* MovieLens (Harper & Konstan, TiiS 2015): a ZIP; 1M holds `.dat` files with `::` between fields and Latin-1 titles, 20M CSV.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from intrr_rec.errors import DataError

BLOCK = 1 << 16
Rows = Iterator[dict[str, Any]]

_METADATA = pa.schema([(name, pa.string()) for name in ("item_id", "title", "brand", "categories", "description")])
_RATINGS = pa.schema(
    [("user_id", pa.int64()), ("item_id", pa.int64()), ("rating", pa.string()), ("timestamp", pa.int64())]
)
_MOVIES = pa.schema([("item_id", pa.int64()), ("title", pa.string()), ("genres", pa.string())])


def read_official(format_: str, path: Path) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The rows of a file in an official format.

    Args:
        format_: a key of `FORMATS`.

    Raises:
        DataError: (while the rows are read) a line that is not of this format, a truncated file, a missing member.
    """
    schema, rows = FORMATS[format_]
    return schema, _blocks(rows(path), schema, path)


def _blocks(rows: Rows, schema: pa.Schema, path: Path) -> Iterator[pa.RecordBatch]:
    block: list[dict[str, Any]] = []
    try:
        for row in rows:
            block.append(row)
            if len(block) == BLOCK:
                yield pa.RecordBatch.from_pylist(block, schema)
                block = []
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, UnicodeDecodeError, KeyError) as error:
        raise DataError(f"{path}: cannot be read ({error}); download it again") from None
    yield pa.RecordBatch.from_pylist(block, schema)


def _amazon_metadata(path: Path) -> Rows:
    """`asin`, `title`, `brand`, `description`, and `categories`: the paths as "A > B | A > C"."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            yield _product(line, path, number)


def _product(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        found = ast.literal_eval(line)
        paths = found.get("categories") or []
        return {
            "item_id": found["asin"],
            "title": found.get("title"),
            "brand": found.get("brand") or None,
            "categories": " | ".join(" > ".join(path) for path in paths) or None,
            "description": found.get("description"),
        }
    except (ValueError, SyntaxError, TypeError, AttributeError, KeyError) as error:
        raise DataError(f"{path}: line {number} is no product of the Amazon 2014 metadata ({error})") from None


def _fields(
    path: Path, member: str, names: tuple[str, ...], split: Callable[[io.TextIOBase], Iterable[list[str]]]
) -> Rows:
    encoding = "latin-1" if member.endswith(".dat") else "utf-8"
    with zipfile.ZipFile(path) as archive, archive.open(member) as raw:
        for number, values in enumerate(split(io.TextIOWrapper(raw, encoding=encoding, newline="")), 1):
            yield _record(values, names, f"{path}: {member}, row {number}")


def _record(values: list[str], names: tuple[str, ...], where: str) -> dict[str, Any]:
    try:
        row: dict[str, Any] = dict(zip(names, values, strict=True))
        return row | {name: int(row[name]) for name in ("user_id", "item_id", "timestamp") if name in row}
    except ValueError as error:
        raise DataError(f"{where}: {error}; it should hold {', '.join(names)}") from None


def _dat(lines: io.TextIOBase) -> Iterator[list[str]]:
    return (line.rstrip("\r\n").split("::") for line in lines)


def _headed_csv(lines: io.TextIOBase) -> Iterator[list[str]]:
    reader = csv.reader(lines)
    next(reader, None)
    return reader


_RATING, _MOVIE = tuple(_RATINGS.names), tuple(_MOVIES.names)
FORMATS: dict[str, tuple[pa.Schema, Callable[[Path], Rows]]] = {
    "amazon_2014_metadata": (_METADATA, _amazon_metadata),
    "movielens_1m_ratings": (_RATINGS, lambda path: _fields(path, "ml-1m/ratings.dat", _RATING, _dat)),
    "movielens_1m_movies": (_MOVIES, lambda path: _fields(path, "ml-1m/movies.dat", _MOVIE, _dat)),
    "movielens_20m_ratings": (_RATINGS, lambda path: _fields(path, "ml-20m/ratings.csv", _RATING, _headed_csv)),
    "movielens_20m_movies": (_MOVIES, lambda path: _fields(path, "ml-20m/movies.csv", _MOVIE, _headed_csv)),
}
