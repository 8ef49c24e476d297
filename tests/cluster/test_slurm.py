"""A pipeline on a real Slurm cluster, submitted through TorchX: two nodes that are preempted in mid-training end as two
local ranks that nobody disturbed."""

import json
import os
import re
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from torchx.runner import get_runner
from torchx.specs import AppState
from typer.testing import CliRunner

from intrr_rec.cli import app
from intrr_rec.io.formats.records import read_texts
from intrr_rec.pipeline.listing import find_runs, read_listed
from intrr_rec.pipeline.run import run_pipeline
from intrr_rec.pipeline.tracker import linked
from tests import tiny
from tests.distributed.launch import ROOT, free_port
from tests.faults.job import Job
from tests.pipeline.test_pipeline import SETTINGS, faults, write
from tests.training.figures import story

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WORDS = ("train.epochs=30", "train.validate_every=15", "model.hstu.dropout=0.2", "train.patience=9")
SECONDS = 300


@pytest.fixture
def runner(slurm, monkeypatch, tmp_path):
    for name, value in slurm.environment.items():
        monkeypatch.setenv(name, value)
    # What a user's shell has: the environment activated, the package importable from wherever the job runs.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    with get_runner() as runner:
        yield runner


def wait(until, what, folder):
    deadline = time.monotonic() + SECONDS
    while not (found := until()):
        if time.monotonic() > deadline:
            logs = [f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in folder.glob("slurm-*")]
            pytest.fail("\n".join([f"no {what}", *logs]))
        time.sleep(0.2)
    return found


def job_of(work, stage):
    return jobs_of(work).get(stage)


def jobs_of(work):
    return read_texts(work / "jobs.json", "")


def test_a_pipeline_preempted_in_training_ends_as_two_local_ranks_do(runner, slurm, tmp_path):
    line = tiny.make_line(tmp_path)
    assert Job(line, tmp_path / "local", WORDS, 2).codes() == [0, 0]
    place = {"scheduler": "slurm", "options": {"partition": "main"}, "rdzv_port": free_port()}
    place["jobs"] = {"train": {"j": "2x1", "max_retries": 1}}
    path, work = write(tmp_path, settings=[*SETTINGS, *WORDS], **place), tmp_path / "work"

    with ThreadPoolExecutor(1) as thread:
        whole = thread.submit(run_pipeline, path, show=False)
        figures = work / "run" / "metrics.jsonl"
        wait(lambda: whole.done() or (figures.is_file() and figures.read_text().count("\n") > 1), "step", work / "jobs")
        handle = job_of(work, "train")
        assert handle, whole.exception()
        assert runner.status(handle).state == AppState.RUNNING
        (listed,) = (read_listed(found, runner) for found in find_runs([work]))
        assert (listed.state, listed.job) == ("running", handle)
        slurm.scontrol("requeue", handle.rpartition("/")[2])
        whole.result(SECONDS)

    status = runner.status(handle)
    assert (status.state, status.num_restarts) == (AppState.SUCCEEDED, 1)
    assert [replica.hostname for replica in status.roles[0].replicas] == ["intrr-d0", "intrr-d1"]
    said = "\n".join(text for node in (0, 1) for text in runner.log_lines(handle, "train", node))
    assert re.search(r"SIGTERM: stopped, saved after step \d+", said) and "resuming" in said, said
    assert story(work / "run") == story(tmp_path / "local")

    # All is there, and nothing is made twice.
    assert faults(path) == dict.fromkeys(("prepare", "index", "train", "evaluate", "export"))
    jobs = jobs_of(work)
    assert set(jobs) == {"prepare", "index", "train", "export"}  # training leaves the test metrics
    made = {"prepare": "dataset", "index": "semantic_ids", "train": "run", "export": "bundle"}
    places = {name: str(work / folder) for name, folder in made.items()}
    assert {name: linked(work, job)[name][0] for name, job in jobs.items()} == places
    # As if nobody had been waiting when the jobs ended: the next one to ask links them.
    shutil.rmtree(work / "tracker")
    run_pipeline(path, show=False)
    assert jobs_of(work) == jobs
    assert {name: linked(work, job)[name][0] for name, job in jobs.items()} == places
    shown = CliRunner().invoke(app, ["pipeline", str(path), "--status"]).output
    assert shown.count("done") == 5 and handle in shown and str(work / "semantic_ids") in shown

    # Another beam: evaluated again, not trained again.
    write(tmp_path, settings=[*SETTINGS, *WORDS, "evaluate.beam=10"], **place)
    run_pipeline(path, show=False)
    again = jobs_of(work)
    assert again == jobs | {"evaluate": again["evaluate"]}
    assert json.loads((work / "run" / "results.json").read_text())["evaluate"]["beam"] == 10
