"""What a log reader is: files in a format of their maker's own → Arrow tables, a block of rows at a time."""

from __future__ import annotations

import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from intrr_rec.config import Section, component
from intrr_rec.errors import DataError
from intrr_rec.io.disk.places import not_the_input

BLOCK = 1 << 16  # rows
Rows = Iterator[dict[str, Any]]


class LogReader(ABC):
    """Reads one kind of file; a descriptor names it under `tables` (datasets/README.md).

    Attributes:
        Config: its settings, a `Section` whose every field has a default.
        schema: of the rows.

    Args:
        config: of the class `Config`.
    """

    Config: ClassVar[type[Section]] = Section
    schema: ClassVar[pa.Schema]

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def rows(self, path: Path) -> Rows:
        """The rows of a file in order, a value a column of `schema`.

        Raises:
            DataError: a row that is not of this format; the line names the file and the row.
        """

    def batches(self, path: Path) -> Iterator[pa.RecordBatch]:
        """The rows in blocks of `BLOCK`; at least one block, so that an empty file is an empty table.

        Raises:
            DataError: as `rows`; a truncated file, a missing member of an archive.
        """
        block: list[dict[str, Any]] = []
        try:
            for row in self.rows(path):
                block.append(row)
                if len(block) == BLOCK:
                    yield pa.RecordBatch.from_pylist(block, self.schema)
                    block = []
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, UnicodeDecodeError, KeyError) as error:
            not_the_input(error)
            raise DataError(f"{path}: cannot be read ({error}); download it again") from None
        yield pa.RecordBatch.from_pylist(block, self.schema)


def make_reader(name: str) -> LogReader:
    """The log reader of a name, with the defaults of its settings.

    Raises:
        ConfigError: `name` is no log reader.
    """
    found = component("readers", name)
    return found(found.Config())
