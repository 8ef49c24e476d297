"""The pipeline of every day with nothing but URLs: two days on a bucket, and a start that has nothing to do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import yaml

from intrr_rec.io import artefact
from intrr_rec.io.registry import read_registry
from intrr_rec.io.storage import Folder
from tests.pipeline.test_daily import RULE, SETTINGS
from tests.runs.test_versions import day, vectors


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_days_on_a_bucket(bucket: pafs.FileSystem, tmp_path: Path) -> None:
    lake, place = Folder.at("s3://bucket"), "s3://bucket/line"
    (tmp_path / "rule.yaml").write_text(yaml.safe_dump(RULE))
    lake.put("rule.yaml", tmp_path / "rule.yaml")
    tree = {"work": place, "interactions": ["s3://bucket/logs"], "vectors": "s3://bucket/vectors.parquet"}
    daily = {"settings": ["train.epochs=1"], "rule": "s3://bucket/rule.yaml"}
    file = tmp_path / "daily.yaml"
    file.write_text(yaml.safe_dump(tree | {"settings": list(SETTINGS), "daily": daily}))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "INTRR_SCRATCH": str(tmp_path / "scratch")}

    def start() -> str:
        words = [sys.executable, "-m", "intrr_rec", "pipeline", str(file)]
        done = subprocess.run(words, capture_output=True, text=True, env=env, check=False)
        logs = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("stderr.log"))
        assert done.returncode == 0, f"{done.stderr}\n{logs}"
        return done.stderr

    served = []
    for number in (0, 1):
        log = day(tmp_path, number)
        vectors(tmp_path, number)
        lake.put(f"logs/{log.name}", log)
        lake.put("vectors.parquet", tmp_path / "vectors.parquet")
        assert start().count("was submitted") == 5
        found = read_registry(f"{place}/registry")
        assert found is not None
        served.append(found.current)
    assert served[0] != served[1] and found.previous == served[0]
    assert served[1] == artefact.peek(f"{place}/bundle").content_hash
    assert len(Folder.at(f"{place}/runs").folders()) == 2
    assert start().count("was submitted") == 0
