"""Tables of a run that all ranks write together: a folder of Parquet files, one a rank, whole or absent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from intrr_rec.distributed.world import World
from intrr_rec.io.atomic import swap_into_place


def write_parts(target: Path, table: pa.Table, world: World) -> None:
    """Put every rank's `table` into the folder `target`, replaced in one step; every rank calls this."""
    staging = target.with_name(f".{target.name}.tmp")
    if world.is_main:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    world.barrier()
    pq.write_table(table, staging / f"part-{world.rank:05d}.parquet")
    world.barrier()
    if world.is_main:
        swap_into_place(staging, target)
        shutil.rmtree(staging, ignore_errors=True)
    world.barrier()
