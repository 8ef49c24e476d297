"""docs/storage.md, walked as it is written, on an S3-compatible server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from intrr_rec.io.stores.storage import Folder

PAGE = Path(__file__).parents[1] / "docs/storage.md"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_line_on_a_bucket_works_as_written(bucket: pafs.FileSystem, tmp_path: Path) -> None:
    (block,) = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    scratch = tmp_path / "scratch"
    walked = tmp_path / "empty"
    walked.mkdir()
    done = subprocess.run(
        ["bash", "-e", "-c", block],
        cwd=walked,
        env=os.environ | {"PATH": path, "INTRR_SCRATCH": str(scratch)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    store = Folder.at("s3://bucket/line")
    for name in ("logs", "dataset", "semantic_ids", "bundle", "recommendations"):
        assert store.has(f"{name}/manifest.json"), name
    assert store.has("run/results.json") and store.has("run/report.html")
    assert not list(walked.iterdir()) and not list(scratch.iterdir()), "something stays on the disk"
