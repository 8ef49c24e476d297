"""A run at a URL by ranks that share no disk: its tables come from all of them, and it measures what one rank measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from intrr_rec.io.storage import Folder
from intrr_rec.io.stores.staging import staged
from intrr_rec.runs.parts import recorded_files, require_whole
from tests.distributed.launch import free_port
from tests.tiny import SMALL, make_line

pytestmark = pytest.mark.slow


def test_ranks_that_share_no_disk(bucket: pafs.FileSystem, tmp_path: Path) -> None:
    line = make_line(tmp_path)
    results = {}
    for size in (1, 2):
        url = f"s3://bucket/apart-{size}"
        words = [*SMALL, f"train.batch_users={16 // size}", "train.epochs=1", "train.sharding.uid=row_wise"]
        asked = {"dataset": str(line.dataset), "ids": str(line.semantic_ids), "run": url, "words": words}
        ranks = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        environment = os.environ | ranks | {"INTRR_SCRATCH": str(tmp_path / "scratch"), "OMP_NUM_THREADS": "1"}
        jobs = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.distributed.lake_worker", json.dumps(asked)],
                env=environment | {"RANK": str(rank), "LOCAL_RANK": "0"},
            )
            for rank in range(size)
        ]
        assert [job.wait(200) for job in jobs] == [0] * size
        results[size] = json.loads(Folder.at(url).read("results.json"))["test"]
        with staged() as places:
            run = places.run(url, write=False)
            require_whole(run, recorded_files(run))
            assert len(list((run / "ranks").glob("part-*.parquet"))) == size
        assert not [name for name in Folder.at(url).names() if name.startswith((".results", ".lease"))]
    assert results[1] == pytest.approx(results[2], abs=1e-5)
    assert not list(tmp_path.glob("scratch*/*"))
