"""Accumulated, clipped and averaged steps: the figures are those of one process that takes each step whole."""

import json

import pytest

from intrr_rec.runs.metrics_file import metric_lines
from intrr_rec.training.trainer import train
from tests import tiny
from tests.distributed.launch import train_all

TOLERANCE = 1e-5
SHARDINGS = ("data_parallel", "row_wise", "column_wise")


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"), users=20)


def words(sharding, accumulate):
    return (
        f"train.accumulate={accumulate}",
        "train.gradient_clip=0.5",
        "train.ema_decay=0.9",
        f"train.sharding.uid={sharding}",
        f"train.sharding.codebooks={sharding}",
        "train.sharding.topology.memory_gb=1",
        "train.batch_users=7",
        "train.validate_every=2",
        "train.learning_rate=0.01",
        "train.weight_decay=0.1",
        "model.uid_std=0.2",
        "model.codebook_std=0.2",
    )


@pytest.fixture(scope="module")
def reference(line, tmp_path_factory):
    """Figures of one process that accumulates nothing, a sharding a key."""
    root = tmp_path_factory.mktemp("one")
    for sharding in SHARDINGS:
        train(tiny.recipe(*words(sharding, 1)), **line.inputs(), out=root / sharding)
    return {sharding: figures(root / sharding) for sharding in SHARDINGS}


def figures(run):
    """Losses and gradient norms of the epochs, and the metrics of the test split, by the averages."""
    records = metric_lines(run / "metrics.jsonl")
    losses = {
        f"{record['epoch']} {name}": record[name]
        for record in records
        for name in record
        if record["split"] == "train" and ("nll" in name or "loss" in name or "norm" in name)
    }
    return losses | json.loads((run / "results.json").read_text())["test"]


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_ranks_and_parts_gives_the_figures_of_one_process(line, reference, tmp_path, world_size):
    """Among them ranks and parts with an empty share: the last step of an epoch has fewer windows than takers."""
    cases = [*((sharding, 2) for sharding in SHARDINGS), ("row_wise", 1)]
    runs = {case: tmp_path / f"{case[0]}-{case[1]}" for case in cases}
    train_all(tmp_path, line, {out: words(*case) for case, out in runs.items()}, world_size)
    for case, run in runs.items():
        assert reference[case[0]]["1 gradient_norm"] > 0.5
        assert figures(run) == pytest.approx(reference[case[0]], rel=TOLERANCE), case
