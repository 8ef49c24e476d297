"""Text tables before DuckDB reads them: packing, encoding, separator, header line.

What is decided here is told to DuckDB in full; nothing is left to its own detection, so that all its releases read alike.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import string
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

import pyarrow as pa

from intrr_rec.config.logs.preparation import Encoding
from intrr_rec.data.raw.paths import no_pattern
from intrr_rec.errors import DataError

# What reading text, packed or not, may raise.
UNREADABLE = (OSError, EOFError, UnicodeDecodeError, zlib.error, pa.ArrowException)
SEPARATORS = (",", "\t", ";", "|", "::")  # of equal counts the first
_PACKINGS = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"PK\x03\x04": "zip"}
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_TYPED = re.compile(r"(.+):(token|float|token_seq|float_seq)")  # of RecBole's atomic files
_ATOMIC = (".inter", ".user", ".item")
_BLOCK = 1 << 20
_PREAMBLE = 20  # lines looked at for a header that stands later
# Marks that no eye sees, which editors and spreadsheets leave around a name.
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"


@dataclass(frozen=True)
class Layout:
    """What a person says of text tables.

    Attributes:
        separator: between fields; None: told by the first line.
        names: of the columns, in order, of files without a header line; None: the first line names them.
        settings: what the two are called on the command line.
        encoding: of the text.
    """

    separator: str | None = None
    names: tuple[str, ...] | None = None
    settings: tuple[str, str] = ("prepare.separator", "prepare.column_names")
    encoding: Encoding = "utf-8"


@dataclass(frozen=True)
class Dialect:
    """How a text table is written.

    Attributes:
        names: of all columns in order; None where the header names none.
        separator: between fields.
        quote: what may stand around a field; empty: nothing.
        skip: lines before the header line and the rows: blank ones.
        header: whether a header line follows them.
        encoding: of the text.
    """

    names: tuple[str | None, ...]
    separator: str
    quote: str
    skip: int
    header: bool
    encoding: Encoding = "utf-8"


def packing_of(path: Path) -> str:
    """`uncompressed`, `gzip` or `zstd`, by the first bytes; the whole of a packed file is unpacked once, to know that it is whole.

    Raises:
        DataError: cannot be read, is cut short or broken, is packed otherwise, or is UTF-16.
    """
    try:
        with open(path, "rb") as handle:
            head = handle.read(8)
        packing = next((name for magic, name in _PACKINGS.items() if head.startswith(magic)), "uncompressed")
        if packing in ("gzip", "zstd"):
            with _unpacked(path, packing) as handle:
                while handle.read(_BLOCK):
                    pass
    except UNREADABLE as error:
        raise unreadable(path, error) from None
    if packing not in ("uncompressed", "gzip", "zstd"):
        raise DataError(f"{path}: is packed as {packing}; unpack it, or pack it as .gz or .zst")
    if head.startswith(_UTF16) or (packing == "uncompressed" and b"\0" in head):
        format_ = _format(path)
        raise DataError(f"{path}: cannot be read as {format_} (it is UTF-16, UTF-32 or no text); save it as UTF-8")
    return packing


def unreadable(path: Path, error: Exception) -> DataError:
    """One line about a file that cannot be read."""
    reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    if isinstance(error, UnicodeDecodeError):
        return DataError(
            f"{path}: cannot be read as {_format(path)} (not UTF-8: {reason}); {save_as_utf8(_format(path))}"
        )
    return DataError(f"{path}: cannot be read as {_format(path)} ({reason}); write the file again")


def reason_of(error: Exception, path: Path) -> str:
    """DuckDB's reason why a file cannot be read, in a line."""
    if "non-record JSON" in str(error):
        return "its lines are no objects"
    if "reached an invalid state" in str(error):
        return "it has line ends of several kinds, or a carriage return within a field that has no quotes"
    lines = [line for line in str(error).splitlines() if line.strip()]
    details = ("Expected Number of Columns", "Value with", "Invalid unicode", "Maximum line size")
    kept = lines[:1] + [line for line in lines[1:] if line.startswith(details)][:1]
    return (
        re.sub(r"^[A-Za-z ]*Error: ", "", ": ".join(kept))
        .replace(no_pattern(path), path.name)
        .replace(str(path), path.name)
        .rstrip(" .;")
    )


def save_as_utf8(format_: str) -> str:
    """What a user does about a file that is not UTF-8, in words."""
    return "save it as UTF-8" + (", or, if it is Latin-1, set prepare.encoding=latin-1" if format_ == "csv" else "")


def _format(path: Path) -> str:
    name = path.name.lower()
    return "json" if ".json" in name or ".ndjson" in name else "orc" if name.endswith(".orc") else "csv"


def starts_with_mark(path: Path, packing: str) -> bool:
    """Whether a byte order mark stands before the text."""
    with open(path, "rb") if packing == "uncompressed" else _unpacked(path, packing) as handle:
        return handle.read(3) == codecs.BOM_UTF8


def open_text(path: Path, packing: str, encoding: Encoding = "utf-8") -> TextIO:
    """A text table as text, without a byte order mark."""
    handle = open(path, "rb") if packing == "uncompressed" else _unpacked(path, packing)  # noqa: SIM115 - closed with what is returned
    return io.TextIOWrapper(
        cast(io.BufferedReader, handle), encoding="utf-8-sig" if encoding == "utf-8" else encoding, newline=""
    )


def dialect_of(path: Path, packing: str, layout: Layout) -> Dialect:
    """Separator and columns of a text table, by its first line and what `layout` says.

    Raises:
        DataError: a first line that cannot be read, has no such fields, or names a column twice.
    """
    try:
        blank, line = _first_line(path, packing, layout.encoding)
        separator = layout.separator or _separator(path, line)
        quote = "" if separator == "::" or is_atomic(path) else '"'
        fields = _fields(line, separator, quote)
    except (*UNREADABLE, csv.Error) as error:
        raise unreadable(path, error) from None
    names = layout.names
    if names is None:
        return Dialect(_named(path, fields), separator, quote, blank, header=True, encoding=layout.encoding)
    if fields == list(names):  # the header line is there after all
        return Dialect(names, separator, quote, blank, header=True, encoding=layout.encoding)
    if fields and len(fields) != len(names):
        found = " ".join(repr(field) for field in fields[:8])
        raise DataError(
            f"{path}: the first line has {len(fields)} fields ({found}), but {layout.settings[1]} names {len(names)}; name all of "
            f"them in order, or correct {layout.settings[0]}"
        )
    return Dialect(names, separator, quote, blank, header=False, encoding=layout.encoding)


def looks_like_data(names: list[str]) -> bool:
    """Whether the words of a first line are values, not names of columns."""
    return any(re.fullmatch(r"-?[0-9]+([.][0-9]+)?|[0-9]{4}-[0-9]{2}-[0-9]{2}.*", name) for name in names)


def header_hint(path: Path, packing: str, dialect: Dialect, column: str) -> tuple[str, str | None] | None:
    """Why a text table's header does not name `column`, where its first lines tell, and the separator it has, as YAML writes it."""
    names = [name for name in dialect.names if name]
    one = re.escape(column)
    if len(names) == 1 and (found := re.search(rf"\b{one}(\W+)\w|\w(\W+){one}\b", names[0])):
        mark = found[1] or found[2]
        plain = mark == " " or (mark.isprintable() and " " not in mark and mark.isascii() and mark not in '\\"')
        return "its fields have another separator", mark if plain else "".join(f"\\x{ord(sign):02x}" for sign in mark)
    try:
        with open_text(path, packing, dialect.encoding) as handle:
            for n, line in zip(range(1, _PREAMBLE), handle, strict=False):
                for separator in SEPARATORS:
                    fields = [each.strip() for each in _fields(line, separator, '"')]
                    if n > dialect.skip + 1 and len(fields) > 1 and column in fields:
                        return (
                            f"line {n} names it: remove the lines before that, for the first line is the header",
                            None,
                        )
    except (*UNREADABLE, csv.Error):
        return None
    return None


def is_atomic(path: Path) -> bool:
    """Whether the name is that of an atomic file of RecBole's: tabs, no quotes, types in the header."""
    name = path.name.lower()
    return any(name.removesuffix(packed).endswith(_ATOMIC) for packed in ("", ".gz", ".zst"))


def _unpacked(path: Path, packing: str) -> io.BufferedIOBase:
    if packing == "gzip":
        return cast(io.BufferedIOBase, gzip.open(path, "rb"))
    return cast(io.BufferedIOBase, pa.input_stream(str(path), compression="zstd"))


def _first_line(path: Path, packing: str, encoding: Encoding) -> tuple[int, str]:
    """How many lines are blank before the first that is not, and that one as it is written: a quoted field may hold line ends."""
    with open_text(path, packing, encoding) as handle:
        blank, line = 0, handle.readline()
        while line and not line.strip():
            blank, line = blank + 1, handle.readline()
        while line.count('"') % 2 and "::" not in line and not is_atomic(path) and len(line) < _BLOCK:
            more = handle.readline()
            if not more:
                break
            line += more
    return blank, line


def _separator(path: Path, line: str) -> str:
    if is_atomic(path):
        return "\t"
    counts = {separator: len(_fields(line, separator, '"')) for separator in SEPARATORS}
    return max(SEPARATORS, key=lambda separator: counts[separator])


def _fields(line: str, separator: str, quote: str) -> list[str]:
    if len(separator) > 1 or not quote:
        return line.rstrip("\r\n").split(separator) if line else []
    return next(csv.reader(io.StringIO(line, newline=""), delimiter=separator), [])


def _named(path: Path, fields: list[str]) -> tuple[str | None, ...]:
    """Names of a header: without blanks around them and without RecBole's types; None for the column of an index."""
    names = [field.strip(_INVISIBLE + string.whitespace + "\xa0") for field in fields]
    typed = [_TYPED.fullmatch(name) for name in names]
    if names and all(typed):
        names = [match[1] for match in typed if match]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        data = "; or, if the first line is data, name its columns in order by prepare.column_names='[NAME, NAME, ...]'"
        raise DataError(
            f"{path}: column '{twice[0]}' stands twice in the header; rename one{data if looks_like_data(names) else ''}"
        )
    return tuple(name or None for name in names)
