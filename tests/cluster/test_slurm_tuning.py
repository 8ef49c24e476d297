"""`intrr tune` on a real Slurm: two trials, the second of them stopped early by `scancel`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from intrr_rec.config import load_recipe
from tests import tiny
from tests.cluster.slurm import Slurm
from tests.distributed.launch import ROOT
from tests.pipeline.test_tuning import trials_of, write

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_trials_are_jobs_of_slurm(slurm: Slurm, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="requirements/tune.txt installs it")
    line = tiny.make_line(tmp_path)
    words = [
        *tiny.SMALL,
        "train.epochs=200",
        "train.patience=200",
        "train.validate_every=4",
        "train.keep_checkpoints=1",
    ]
    one = {"train.learning_rate": {"values": [0.01, 1e-12]}}
    place = {"scheduler": "slurm", "options": {"partition": "main"}, "job": {"max_retries": 0}}
    asked = {"settings": words, "search": one, "trials": 2, "prune": {"trials": 1, "epochs": 8}, "seed": 3}
    path = write(tmp_path, line, **asked, **place)
    env = os.environ | slurm.environment | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "intrr_rec", "tune", str(path)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)
    logs = "\n".join(each.read_text(errors="replace")[-2000:] for each in (tmp_path / "study/jobs").glob("*.err"))
    assert done.returncode == 0, f"{done.stderr}\n{logs}"
    assert [state for state, _, _ in trials_of(path)] == ["COMPLETE", "PRUNED"], f"{done.stderr}\n{logs}"
    assert done.stderr.count("slurm://torchx/") >= 2
    assert load_recipe(tmp_path / "study/best.yaml").train.learning_rate == 0.01
