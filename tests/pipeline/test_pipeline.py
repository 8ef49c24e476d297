"""What a pipeline finds wrong, stage by stage, and how it says so; tests/cluster runs a whole one."""

import os
import sys
from pathlib import Path

import pytest
import yaml

from intrr_rec.errors import ArtefactError, ConfigError, Stopped
from intrr_rec.pipeline.daily import stages_of
from intrr_rec.pipeline.description import load_pipeline
from intrr_rec.pipeline.listing import find_runs
from intrr_rec.pipeline.run import run_pipeline
from tests import tiny
from tests.distributed.launch import ROOT

INDEX = ("index.levels=2", "index.codes=5", "index.dedup_codes=8", "index.iterations=5")
SETTINGS = ("prepare.k_core=1", *INDEX, *tiny.SMALL, "train.epochs=1")


def write(folder, **changes):
    text = {"work": "work", "interactions": ["logs.parquet"], "vectors": "vectors.parquet", "settings": list(SETTINGS)}
    path = folder / "line.yaml"
    path.write_text(yaml.safe_dump(text | changes))
    return path


@pytest.fixture
def here(monkeypatch):
    """A shell as a user has it: the environment activated, the package importable from anywhere."""
    elsewhere = [place for place in os.environ["PATH"].split(os.pathsep) if place != str(Path(sys.executable).parent)]
    monkeypatch.setenv("PATH", os.pathsep.join(elsewhere))  # as where the environment is not activated
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def faults(path):
    """What is wrong, stage by stage, up to the first that is."""
    found = {}
    for stage in stages_of(load_pipeline(path)):
        found[stage.name] = stage.fault()
        if found[stage.name] is not None:
            break
    return found


def test_a_stage_is_judged_by_its_artefact_whoever_made_it(tmp_path):
    line = tiny.make_line(tmp_path)
    path = write(tmp_path, work=".")
    assert faults(path) == {"prepare": None, "index": None, "train": "not there"}
    assert (
        faults(write(tmp_path, work=".", settings=[*SETTINGS, "index.codes=6"]))["index"] == "made with another codes"
    )
    (tmp_path / "more.parquet").write_bytes((tmp_path / "logs.parquet").read_bytes())
    more = write(tmp_path, work=".", interactions=["logs.parquet", "more.parquet"])
    assert faults(more) == {"prepare": "made from other inputs"}
    damaged = next(file for file in line.dataset.rglob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert "was altered" in faults(path)["prepare"]


def test_a_failed_job_is_one_line_that_says_how_to_read_its_log(tmp_path, here):
    tiny.make_line(tmp_path)
    with pytest.raises(Stopped, match=r"prepare: local_cwd://\S+ is FAILED; `torchx log") as stop:
        run_pipeline(write(tmp_path, settings=["prepare.user_column=nobody"]), show=False)
    assert stop.value.exit_code == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scheduling": "slurm"}, "unknown key 'scheduling'; did you mean 'scheduler'"),
        ({"jobs": {"train": {"nodes": 2}}}, "unknown key 'jobs.train.nodes'"),
        ({"interactions": []}, "'interactions'"),
        ({"vectors": None}, "'vectors'"),
        ({"vectors": "nosuch://b/v"}, "'vectors': nosuch://b/v: no file system for such a URL"),
        ({"work": "nosuch://b/w"}, "'work': nosuch://b/w: no file"),
        ({"interactions": ["logs.parquet", "nosuch://b/l"]}, "'interactions': nosuch://b/l: no file"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        load_pipeline(write(tmp_path, **changes))


def test_runs_looks_only_where_something_is(tmp_path):
    with pytest.raises(ArtefactError, match="no such folder"):
        find_runs([tmp_path / "nowhere"])
    assert find_runs([tmp_path]) == []
