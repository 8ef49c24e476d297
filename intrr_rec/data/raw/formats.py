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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from intrr_rec.data.raw.reader import LogReader, Rows
from intrr_rec.errors import DataError

_METADATA = pa.schema([(name, pa.string()) for name in ("item_id", "title", "brand", "categories", "description")])
_RATINGS = pa.schema(
    [("user_id", pa.int64()), ("item_id", pa.int64()), ("rating", pa.string()), ("timestamp", pa.int64())]
)
_MOVIES = pa.schema([("item_id", pa.int64()), ("title", pa.string()), ("genres", pa.string())])


class AmazonMetadata(LogReader):
    """`asin`, `title`, `brand`, `description`, and `categories`: the paths as "A > B | A > C"."""

    schema = _METADATA

    def rows(self, path: Path) -> Rows:
        """A product a line."""
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
    except (ValueError, SyntaxError, TypeError, AttributeError, KeyError, RecursionError, MemoryError) as error:
        raise DataError(f"{path}: line {number} is no product of the Amazon 2014 metadata ({error})") from None


class _Member(LogReader):
    """A table of separated values in a ZIP archive."""

    member: ClassVar[str]

    def rows(self, path: Path) -> Rows:
        """A row a line of the member."""
        plain, names = self.member.endswith(".dat"), tuple(self.schema.names)
        with zipfile.ZipFile(path) as archive, archive.open(self.member) as raw:
            lines = io.TextIOWrapper(raw, encoding="latin-1" if plain else "utf-8", newline="")
            for number, values in enumerate(_dat(lines) if plain else _headed_csv(lines), 1):
                yield _record(values, names, f"{path}: {self.member}, row {number}")


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


class MovieLens1MRatings(_Member):
    """`ml-1m/ratings.dat`."""

    schema, member = _RATINGS, "ml-1m/ratings.dat"


class MovieLens1MMovies(_Member):
    """`ml-1m/movies.dat`."""

    schema, member = _MOVIES, "ml-1m/movies.dat"


class MovieLens20MRatings(_Member):
    """`ml-20m/ratings.csv`."""

    schema, member = _RATINGS, "ml-20m/ratings.csv"


class MovieLens20MMovies(_Member):
    """`ml-20m/movies.csv`."""

    schema, member = _MOVIES, "ml-20m/movies.csv"
