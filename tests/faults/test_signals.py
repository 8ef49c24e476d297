"""SIGTERM and Ctrl-C: saved at the next step on all ranks, an exit code a scheduler understands, one line, nothing lost."""

import os
import signal
import subprocess
import sys
import time

import pytest

from intrr_rec.training.trainer import train
from tests import tiny
from tests.distributed.launch import ROOT, environment, free_port
from tests.faults.job import WORDS, Job, Slowly
from tests.training.figures import story

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGTERM, 75, marks=pytest.mark.slow), (signal.SIGINT, 130)]
)
def test_one_process_saves_itself_and_goes_on_to_the_same_figures(line, whole, tmp_path, number, code):
    job = Job(line, tmp_path / "run", WORDS, fault=Slowly())
    job.wait_for_step(6)
    job.signal(number, 0)
    assert job.codes() == [code]
    (said,) = job.said()
    step = int(said.split("after step ")[1].split(";")[0])
    assert said == f"intrr: {number.name}: stopped, saved after step {step}; the same command goes on from there"
    assert 6 <= step < 12 and (tmp_path / f"run/checkpoints/step-{step:08d}").is_dir()
    train(tiny.recipe(*WORDS), **line.inputs(), out=tmp_path / "run")
    assert story(tmp_path / "run") == whole(1)


@pytest.mark.parametrize(
    "told", [(1,), pytest.param((0,), marks=pytest.mark.slow), pytest.param((0, 1), marks=pytest.mark.slow)]
)
def test_two_ranks_stop_together_whoever_is_told(line, whole, tmp_path, told):
    job = Job(line, tmp_path / "run", WORDS, 2, Slowly())
    job.wait_for_step(2)
    job.signal(signal.SIGTERM, *told)
    assert job.codes() == [75, 75]
    assert len(job.said()) == 1 and job.said(1) == []
    again = Job(line, tmp_path / "run", WORDS, 2)
    assert again.codes() == [0, 0]
    assert story(tmp_path / "run") == whole(2)


class Stuck:
    """The second step takes for ever."""

    def __call__(self, run):
        time.sleep(1000 * run.state["step"])


def test_a_second_signal_ends_at_once_but_an_echo_does_not(line, tmp_path):
    job = Job(line, tmp_path / "run", WORDS, fault=Stuck())
    job.wait_for_step(1)
    job.signal(signal.SIGTERM, 0)
    job.signal(signal.SIGTERM, 0)
    time.sleep(1.3)
    assert job.ranks[0].is_alive()
    job.signal(signal.SIGTERM, 0)
    assert job.codes() == [75]
    assert job.said() == ["intrr: stopped at once; the newest checkpoint stands"]


@pytest.mark.slow
def test_under_torchrun(line, whole, tmp_path):
    """The launcher passes its own signal on to both ranks."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    verb = ["-m", "intrr_rec", "train", "--dataset", str(line.dataset), "--semantic-ids", str(line.semantic_ids)]
    verb += ["--vectors", str(line.vectors), "--out", str(tmp_path / "run"), *tiny.SMALL, *WORDS, "train.epochs=5000"]
    with open(tmp_path / "log", "w") as log:
        words = [sys.executable, *launcher, *verb]
        job = subprocess.Popen(words, cwd=ROOT, env=environment(), stderr=log, start_new_session=True)
    metrics = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.is_file() and metrics.stat().st_size):
        assert time.monotonic() < deadline and job.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    job.terminate()
    try:
        assert job.wait(60) == 1
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
    said = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("intrr: ")]
    assert len(said) == 1 and "SIGTERM: stopped, saved after step" in said[0]
    epochs = len(metrics.read_text().splitlines()) // 2 + 1
    for out in (tmp_path / "run", tmp_path / "never-stopped"):
        assert Job(line, out, (*WORDS, f"train.epochs={epochs}"), 2).codes() == [0, 0]
    assert story(tmp_path / "run") == story(tmp_path / "never-stopped")
