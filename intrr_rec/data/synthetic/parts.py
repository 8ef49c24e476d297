"""Generated rows → Parquet files, with a sign of life."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import Progress

from intrr_rec.data.synthetic.draws import Ints

log = logging.getLogger(__name__)


def write_parts(
    folder: Path,
    total: int,
    shard: int,
    block: int,
    table_of: Callable[[Ints], pa.Table],
    advance: Callable[[int], None],
) -> int:
    """Write rows of ids [0, total) as `part-*.parquet`, `shard` ids a file, `block` ids a row group; returns the rows."""
    folder.mkdir()
    rows = 0
    for part, first in enumerate(range(0, total, shard)):
        end = min(first + shard, total)
        with ExitStack() as stack:
            writer = None
            for start in range(first, end, block):
                ids_B = np.arange(start, min(start + block, end))
                table = table_of(ids_B)
                if writer is None:
                    writer = stack.enter_context(_writer(folder / f"part-{part:05d}.parquet", table.schema))
                writer.write_table(table)
                rows += table.num_rows
                advance(len(ids_B))
    return rows


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # dictionaries pay only for columns that repeat
    repeated = [name for name in ("user_id", "categories", "brand") if name in schema.names]
    return pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=repeated)


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, a log line every ten seconds elsewhere; yields what counts the work done."""
    if sys.stderr.isatty():
        with Progress() as bar:
            task = bar.add_task("generate", total=total)
            yield lambda amount: bar.advance(task, amount)
        return
    done, spoke = 0, time.monotonic()

    def count(amount: int) -> None:
        nonlocal done, spoke
        done += amount
        if time.monotonic() - spoke > 10:
            spoke = time.monotonic()
            log.info("generate: %d %%", 100 * done // total)

    yield count
