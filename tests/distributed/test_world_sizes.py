"""Two processes train as one does, whatever the model or its sharding and however unevenly the last step is dealt out; and
a run moves between world sizes with model and optimizer."""

import json
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from intrr_rec.data.dataset import Dataset
from intrr_rec.data.loading.windows import training_windows
from intrr_rec.evaluation.results import evaluate_run
from intrr_rec.evaluation.target_ranks import read_ranks
from intrr_rec.runs.metrics_file import metric_lines
from intrr_rec.training.trainer import train
from tests import tiny
from tests.distributed.launch import ROOT, environment, free_port, train_all

TOLERANCE = 1e-5
VARIANTS = {
    "data_parallel": ("train.sharding.uid=data_parallel", "evaluate.users=31"),
    "row_wise": ("train.sharding.uid=row_wise",),
    "table_wise": (
        "train.sharding.uid=table_wise",
        "train.sharding.codebooks=table_wise",
        "train.batch_tokens=90",
        "train.since=3",
        "train.until=11",
    ),
    "neighbours": (
        "train.sharding.uid=row_wise",
        "model.dense.weight=1",
        "model.dense.negatives=8",
        "model.neighbours.kept=6",
        "evaluate.rank_by=sid_dense_and_neighbours",
        "evaluate.pool=beam_and_dense",
    ),
    "flattened": ("model.kind=flattened",),
    "tiger": (
        "model.kind=tiger",
        "model.tiger={layers: 1, width: 16, heads: 2, head_width: 8, feed_forward: 32, dropout: 0}",
    ),
}


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"))


# What a run may change when it goes on, beside the number of ranks.
MOVED = {"row_wise": ("train.accumulate=2", "train.loader.workers=2", "train.sharding.uid=table_wise")}


def words(line, variant, epochs=2, content="false"):
    """Without dropout, and with a last step of a single window: one of two ranks gets an empty share of it.

    Adam alone would hide gradients that are off by a factor; beside a large weight decay it cannot.
    """
    windows = len(training_windows(Dataset.open(line.dataset).offsets, 8))
    batch = next(n for n in range(16, windows) if windows % n == 1)
    return (
        *VARIANTS[variant],
        f"train.epochs={epochs}",
        f"train.batch_users={batch}",
        f"model.content={content}",
        "model.ran.dropout=0",
        "train.learning_rate=0.01",
        "train.weight_decay=0.1",
    )


@pytest.fixture(scope="module")
def runs(line, tmp_path_factory):
    """Run folders by variant and by the world sizes of the first and the second epoch: one launch for all of them."""
    root = tmp_path_factory.mktemp("runs")
    found = {(s, sizes): root / f"{s}-{sizes}" for s in VARIANTS for sizes in ("1-1", "2-2", "1-2", "2-1")}
    for (variant, sizes), out in found.items():
        if sizes in ("1-1", "1-2"):
            epochs = 2 if sizes == "1-1" else 1
            train(tiny.recipe(*words(line, variant, epochs)), **line.inputs(), out=out)
    on_two = {
        out: words(line, variant, 1 if sizes == "2-1" else 2) + (MOVED.get(variant, ()) if sizes == "1-2" else ())
        for (variant, sizes), out in found.items()
        if sizes != "1-1"
    }
    train_all(root, line, on_two, world_size=2)
    for (variant, sizes), out in found.items():
        if sizes == "2-1":
            train(tiny.recipe(*words(line, variant), *MOVED.get(variant, ())), **line.inputs(), out=out)
    return found


def figures(run):
    """Every figure of the run but timings, by split, step and name; the test metrics too."""
    found = {}
    for record in metric_lines(run / "metrics.jsonl"):
        for name, value in record.items():
            if name not in ("split", "step", "seconds", "users_per_second"):
                found[record["split"], record["step"], name] = value
    results = json.loads((run / "results.json").read_text())
    return found | {("test", 0, name): value for name, value in results["test"].items()}


def worst(ours, others):
    """The largest relative difference of two runs' figures."""
    assert list(ours) == list(others)
    return max(abs(ours[key] - others[key]) / max(abs(others[key]), 1e-9) for key in ours)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sizes", ["2-2", "1-2", "2-1"])
def test_figures_equal_those_of_one_process(runs, variant, sizes):
    reference = figures(runs[variant, "1-1"])
    assert len(reference) > 30
    difference = worst(figures(runs[variant, sizes]), reference)
    print(f"{variant} {sizes}: {difference:.1e}")
    assert difference < TOLERANCE


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_ranks_recommend_what_one_does(runs, variant):
    one, two = (
        pq.read_table(runs[variant, sizes] / "recommendations").sort_by("user_id").to_pylist()
        for sizes in ("1-1", "2-2")
    )
    assert len(list((runs[variant, "2-2"] / "recommendations").iterdir())) == 2
    assert [row["user_id"] for row in two] == [row["user_id"] for row in one]
    same = np.mean([a["item_ids"] == b["item_ids"] for a, b in zip(one, two, strict=True)])
    assert same > 0.9  # the rest are near ties
    scores = [[row["scores"] for row in rows] for rows in (one, two)]
    np.testing.assert_allclose(*scores, rtol=1e-3)


def test_two_ranks_measure_the_same_protocol(runs):
    """Slices, exposure and every user's rank: the same counts, whoever held which users."""
    one, two = (runs["data_parallel", sizes] for sizes in ("1-1", "2-2"))
    assert len(list((two / "ranks").iterdir())) == 2
    for split in ("valid", "test"):
        (users, rank_B), (users_of_two, rank_of_two_B) = read_ranks(one, split), read_ranks(two, split)
        assert users_of_two.equals(users) and len(users) == 31
        assert np.mean(rank_of_two_B == rank_B) > 0.9  # the rest are near ties
    first, second = (json.loads((run / "results.json").read_text()) for run in (one, two))
    for split, found in first["intervals"].items():
        for name, interval in found.items():
            assert second["intervals"][split][name] == pytest.approx(interval, rel=TOLERANCE)
    assert second["beyond_accuracy"] == pytest.approx(first["beyond_accuracy"], rel=1e-2)
    for kind, bands in first["slices"].items():
        for band, other in zip(bands, second["slices"][kind], strict=True):
            assert {k: other[k] for k in ("from", "to", "users", "share")} == {
                k: band[k] for k in ("from", "to", "users", "share")
            }
            assert (other["metrics"] or {}) == pytest.approx(band["metrics"] or {}, rel=TOLERANCE)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_process_evaluates_what_two_trained(runs, variant):
    before = json.loads((runs[variant, "2-2"] / "results.json").read_text())
    assert before["world_size"] == 2
    after = evaluate_run(runs[variant, "2-2"], [])
    assert after["world_size"] == 1
    assert after["test"] == pytest.approx(before["test"], rel=TOLERANCE)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("variant", ["data_parallel", "row_wise"])
def test_the_command_under_torchrun_equals_the_command_alone(line, tmp_path, variant):
    """The verb itself, started by the real launcher, with content vectors."""
    overrides = [*tiny.SMALL, *words(line, variant, content="true")]
    verb = ["-m", "intrr_rec", "train", "--dataset", str(line.dataset), "--semantic-ids", str(line.semantic_ids)]
    verb += ["--vectors", str(line.vectors)]
    launchers = {
        "one": [],
        "two": ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())],
    }
    for name, launcher in launchers.items():
        subprocess.run(
            [sys.executable, *launcher, *verb, "--out", str(tmp_path / name), *overrides],
            cwd=ROOT,
            env=environment(),
            check=True,
            timeout=250,
        )
    assert worst(figures(tmp_path / "two"), figures(tmp_path / "one")) < TOLERANCE
