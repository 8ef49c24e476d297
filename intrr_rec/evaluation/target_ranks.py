"""ranks/: the place of every user's held-out item, so that any later comparison of runs is user by user.

Columns: `user_id` (the user's own), `split` ("valid" or "test"), `rank` (from 1; null where the item is not within the
beam). Shape suffix: B users.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from intrr_rec.distributed.world import World
from intrr_rec.errors import ArtefactError
from intrr_rec.evaluation.evaluator import Split, TargetRanks
from intrr_rec.io.disk.places import not_the_input
from intrr_rec.runs.parts import recorded_files, require_whole, write_part
from intrr_rec.runs.run_files import RANKS, RESULTS


def write_ranks(run: Path, user_ids: pa.ChunkedArray, ranks: Mapping[Split, TargetRanks], world: World) -> None:
    """Write the folder, one part a rank; every rank calls this.

    Args:
        user_ids: own ids, at the position of the dense ones.
        ranks: of this rank's users, a split a key.
    """
    parts = [
        pa.table(
            {
                "user_id": user_ids.take(pa.array(found.users)),
                "split": pa.repeat(split, len(found.users)),
                "rank": pa.array(found.rank_B.numpy().astype(np.int32), mask=(found.rank_B == 0).numpy()),
            }
        )
        for split, found in ranks.items()
    ]
    write_part(run / RANKS, pa.concat_tables(parts), world)


def read_ranks(run: Path, split: Split) -> tuple[pa.Array, NDArray[np.int64]]:
    """User ids in rising order, and the rank of each, 0 where missed, `[B]`.

    Raises:
        ArtefactError: the run has no such folder (it was evaluated by an earlier version), or it cannot be read.
    """
    again = f"run `intrr evaluate --run {run}`"
    if not (run / RANKS).is_dir():
        raise ArtefactError(f"{run}: has no {RANKS}/, the rank of each user's target; {again}")
    parts: Path | list[Path] = run / RANKS
    if (run / RESULTS).is_file():
        hashes = {n: digest for n, digest in recorded_files(run).items() if n.startswith(f"{RANKS}/")}
        require_whole(run, hashes)
        if hashes:  # no other file that lies there
            parts = [run / name for name in sorted(hashes)]
    try:
        table = pq.read_table(parts, filters=[("split", "=", split)], partitioning=None).sort_by("user_id")
        return table["user_id"].combine_chunks(), table["rank"].fill_null(0).to_numpy().astype(np.int64)
    except (OSError, KeyError, pa.ArrowException) as error:
        not_the_input(error)
        raise ArtefactError(f"{run / RANKS}: cannot be read ({error}); {again}") from None
