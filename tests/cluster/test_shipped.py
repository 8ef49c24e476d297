"""The image and the examples: every option is one that TorchX knows, every file that is copied is there."""

import configparser
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from torchx.runner import get_runner
from torchx.runner.config import load

from intrr_rec.pipeline.daily import stages_of
from intrr_rec.pipeline.description import load_pipeline
from tests.distributed.launch import ROOT
from torchx_components import jobs

EXAMPLES = sorted((ROOT / "configs" / "torchx").iterdir())


@pytest.mark.filterwarnings("ignore")  # of TorchX, that there is no cluster to ask
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_has_known_options_only(path):
    parsed = configparser.ConfigParser()
    parsed.read(path)
    scheduler = parsed["cli:run"]["scheduler"]
    assert path.stem == scheduler
    # torchx passes over what it does not know, without a word
    options = {}
    with path.open() as handle:
        load(scheduler, handle, options)
    assert set(options) == set(parsed[scheduler])
    component = dict(parsed["component:intrr.train"]) if "component:intrr.train" in parsed else {}
    assert set(component) <= set(inspect.signature(jobs.train).parameters)
    words = [word for key, value in component.items() for word in (f"--{key}" if len(key) > 1 else f"-{key}", value)]
    words += ["--dataset", "/data/dataset", "--semantic_ids", "/data/ids", "--out", "/data/run"]
    with get_runner() as runner:
        role = runner.dryrun_component("intrr.train", words, scheduler, options)._app.roles[0]
    nodes, ranks = component.get("j", "1x1").split("x")
    assert role.num_replicas == int(nodes) and f"--nproc_per_node {ranks}" in role.args[-1]


def test_example_of_a_pipeline():
    pipeline = load_pipeline(ROOT / "configs" / "pipelines" / "slurm.yaml")
    assert [stage.job().name for stage in stages_of(pipeline)] == ["prepare", "index", "train", "evaluate", "export"]
    assert pipeline.recipe.is_file()


def test_image_copies_what_there_is_and_nothing_else_is_sent():
    steps = [line.split() for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY")]
    copied = {name for step in steps for name in step[1:-1]}
    assert all((ROOT / name).exists() for name in copied)
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == sent
    for stack in ("cpu", "cuda"):
        assert (ROOT / "requirements" / f"{stack}.txt").is_file()


def test_image_is_linted():
    linter = Path(sys.executable).with_name("hadolint")
    if not linter.is_file():
        pytest.skip("THE IMAGE IS NOT LINTED: hadolint is not installed; make setup installs it")
    found = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
