"""A dataset artefact with its histories in many small row groups and files, as a large one has them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from intrr_rec.data.dataset import KIND, SEQUENCES
from intrr_rec.io import artefact


def regroup(dataset: Path, out: Path, users_a_group: int, groups_a_file: int = 3) -> Path:
    """Write `dataset` to `out` with as many users a row group, and as many row groups a file."""
    manifest = artefact.read(dataset, KIND)
    with artefact.writing(out, KIND, manifest.config) as draft:
        draft.counts.update(manifest.counts)
        for name in manifest.files:
            if not name.startswith(SEQUENCES):
                shutil.copy(dataset / name, draft.path / name)
        (draft.path / SEQUENCES).mkdir()
        parts = sorted(name for name in manifest.files if name.startswith(SEQUENCES))
        table = pa.concat_tables(pq.read_table(dataset / name) for name in parts)
        users_a_file = users_a_group * groups_a_file
        for part, first in enumerate(range(0, len(table), users_a_file)):
            path = draft.path / SEQUENCES / f"part-{part:05d}.parquet"
            pq.write_table(table.slice(first, users_a_file), path, row_group_size=users_a_group)
    return out
