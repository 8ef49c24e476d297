"""Which files a raw table is: a path is a name, never a pattern, and no file of a folder is left out without a word.

A folder stands for all files below it, sorted by their path. Passed over are hidden files and those of Spark's and Hadoop's own
book-keeping: names that begin with `.` or `_` (`_SUCCESS`, `_temporary`), names that end in `.crc`, and the `manifest.json` of an
artefact. A file of any other format is refused by name.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import unquote

from intrr_rec.errors import DataError
from intrr_rec.io.artefact import file_hash

PARQUET = (".parquet", ".pq")
TEXT = (".csv", ".tsv", ".tab", ".txt", ".dat", ".data", ".inter", ".user", ".item")
JSON = (".jsonl", ".ndjson", ".json")
ORC = (".orc",)  # Spark alone reads it
FORMATS = {
    ending: name
    for name, endings in (("parquet", PARQUET), ("csv", TEXT), ("json", JSON), ("orc", ORC))
    for ending in endings
}
PACKED = (".gz", ".gzip", ".zst", ".zstd", ".bz2", ".xz", ".zip", ".lz4")
READ = f"{', '.join(FORMATS)}; text also packed as .gz or .zst"
# Folders of these hold files that are no longer part of the table, beside those that are.
TABLE_LOGS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def format_of(path: Path) -> str:
    """parquet, csv (text with separators), json or orc, by the end of the name.

    Raises:
        DataError: none of these.
    """
    name = path.name.lower()
    packing = next((ending for ending in PACKED if name.endswith(ending)), "")
    format_ = next((kind for end, kind in FORMATS.items() if name.removesuffix(packing).endswith(end)), None)
    if format_ is None:
        raise DataError(f"{path}: unknown extension; raw tables are {READ}")
    if format_ in ("parquet", "orc") and packing:
        raise DataError(f"{path}: {format_.capitalize()} packed once more cannot be read; unpack it")
    return format_


def table_files(path: Path) -> list[Path]:
    """The files of a raw table: `path` itself, or all files below a folder, sorted by their path.

    Raises:
        DataError: nothing there, a folder without files, or with one that is of no format we read.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; correct the path")
    if not path.is_dir():
        return [path]
    files = sorted(_below(path), key=lambda file: file.relative_to(path).parts)
    if not files:
        raise DataError(f"{path}: holds no files of a table; give a file, or a folder of {READ}")
    for file in files:
        _require_table(file, path)
    return files


def partitions(file: Path, folder: Path) -> dict[str, str | None]:
    """What the names of the folders between a named folder and its file say, as Spark's `partitionBy` writes it: key → value."""
    found: dict[str, str | None] = {}
    if folder != file:
        for part in file.relative_to(folder).parts[:-1]:
            key, equals, value = part.partition("=")
            if equals and key:
                found[unquote(key)] = None if value == NO_VALUE else unquote(value)
    return found


def no_pattern(path: Path) -> str:
    """The path for a reader that takes *, ? and [ for signs of a pattern: each is written as a set of one.

    Raises:
        DataError: a name that is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(f"{str(path)!a}: the name is not UTF-8; rename it") from None
    return re.sub(r"([*?[])", r"[\1]", str(path))


def files_hash(files: Collection[Path]) -> str:
    """SHA-256 over the contents of `files` in order, whatever they are called."""
    return hashlib.sha256("".join(file_hash(path) for path in files).encode()).hexdigest()


def _below(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); correct its permissions") from None

    seen: set[Path] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        for known, what in TABLE_LOGS.items():
            if known in folders:
                raise DataError(
                    f"{place}: is a {what} table, whose folder also holds outdated files; export it as Parquet"
                )
        real = Path(place).resolve()
        folders[:] = [] if real in seen else [name for name in folders if name[0] not in "._"]
        names = [] if real in seen else names
        seen.add(real)
        for name in names:
            is_ours = name == "manifest.json" and Path(place) == folder
            if name[0] not in "._" and not name.lower().endswith(".crc") and not is_ours:
                yield Path(place) / name


def _require_table(file: Path, folder: Path) -> None:
    try:
        format_of(file)
    except DataError as error:
        raise DataError(f"{error}; move it out of {folder}, or name the files one by one") from None
