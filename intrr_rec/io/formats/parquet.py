"""Parquet files read some rows at a time, in memory that does not grow with the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


def batches(file: pq.ParquetFile, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """All rows in order, at most `rows` at a time, row group by row group.

    Asked for all row groups at once, `iter_batches` holds what it has read of each until its end: 6 bytes per id of a column.
    """
    for group in range(file.num_row_groups):
        yield from file.iter_batches(rows, row_groups=[group], columns=columns)
