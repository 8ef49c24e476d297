"""However a table is sharded and over however many ranks, the figures are those of one process holding it whole."""

import json

import pytest

from intrr_rec.runs.metrics_file import metric_lines
from intrr_rec.training.trainer import train
from tests import tiny
from tests.distributed.launch import train_all

TOLERANCE = 1e-5
# Cases of one family start alike and are trained by one optimizer: their figures are all the same.
FAMILIES = {
    "adam": [("data_parallel", "data_parallel")],
    "rowwise_adagrad": [("row_wise", "row_wise"), ("table_wise", "table_wise"), ("row_wise", "table_wise")],
    "adagrad": [("column_wise", "column_wise"), ("row_wise", "row_wise"), ("table_wise", "column_wise")],
}
CASES = [(optimizer, *case) for optimizer, cases in FAMILIES.items() for case in cases]


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"), users=20)


def words(optimizer, uid, codebooks):
    fused = () if optimizer == "adam" else (f"train.sharding.optimizer={optimizer}",)
    return (
        *fused,
        f"train.sharding.uid={uid}",
        f"train.sharding.codebooks={codebooks}",
        "train.sharding.topology.memory_gb=1",
        "train.epochs=2",
        "train.batch_users=7",
        "train.validate_every=2",
        "train.learning_rate=0.01",
        "train.weight_decay=0.1",
        "model.uid_std=0.2",
        "model.codebook_std=0.2",
    )


@pytest.fixture(scope="module")
def reference(line, tmp_path_factory):
    """Figures of one process, a family a key."""
    root, found = tmp_path_factory.mktemp("one"), {}
    for optimizer, cases in FAMILIES.items():
        train(tiny.recipe(*words(optimizer, *cases[0])), **line.inputs(), out=root / optimizer)
        found[optimizer] = figures(root / optimizer)
    return found


def figures(run):
    """Losses of the epochs, and the metrics of the test split."""
    records = metric_lines(run / "metrics.jsonl")
    losses = {
        f"{record['epoch']} {name}": record[name]
        for record in records
        for name in record
        if record["split"] == "train" and ("nll" in name or "loss" in name)
    }
    return losses | json.loads((run / "results.json").read_text())["test"]


def planned(run):
    return [table["sharding"] for table in json.loads((run / "plan.json").read_text())["tables"]]


@pytest.mark.parametrize("world_size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_every_sharding_gives_the_figures_of_one_process(line, reference, tmp_path, world_size):
    runs = {case: tmp_path / "-".join(case) for case in CASES}
    train_all(tmp_path, line, {out: words(*case) for case, out in runs.items()}, world_size)
    for case, run in runs.items():
        assert planned(run) == [case[1], case[2]]
        found = figures(run)
        assert len(found) > 10
        assert found == pytest.approx(reference[case[0]], rel=TOLERANCE), case
