"""`evaluate.exclude_seen`: nothing of the whole history in any list, whatever the kind of model; and the baseline that is not trained."""

import json

import pyarrow.parquet as pq
import pytest

from intrr_rec.data.dataset import Dataset
from intrr_rec.errors import ConfigError
from intrr_rec.evaluation.results import evaluate_run
from intrr_rec.training.trainer import train
from tests import tiny
from tests.distributed.launch import train_all

KINDS = {
    "neighbours": (
        "model.dense.weight=0.5",
        "model.dense.negatives=8",
        "evaluate.rank_by=sid_dense_and_neighbours",
        "evaluate.pool=beam_and_dense",
        "evaluate.beam=10",
        "model.neighbours.kept=6",
    ),
    "path": (),
    "dense": (
        "model.dense.weight=0.5",
        "model.dense.negatives=8",
        "evaluate.rank_by=sid_and_dense",
        "evaluate.pool=beam_and_dense",
    ),
    "flattened": ("model.kind=flattened",),
    "sasrec": ("model.kind=sasrec", "model.sasrec={width: 16}"),
    "item_knn": ("model.kind=item_knn",),
}


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"))


def lists(run):
    table = pq.read_table(run / "recommendations").sort_by("user_id")
    return dict(zip(table["user_id"].to_pylist(), table["item_ids"].to_pylist(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_no_list_holds_an_item_of_the_history(kind, line, tmp_path):
    train(tiny.recipe("train.epochs=1", *KINDS[kind]), out=tmp_path / "run", **line.inputs())
    kept = lists(tmp_path / "run")
    evaluate_run(tmp_path / "run", ["evaluate.exclude_seen=true"])
    filtered, dataset = lists(tmp_path / "run"), Dataset.open(line.dataset)
    assert filtered.keys() == kept.keys() and filtered != kept
    for number, user in enumerate(dataset.user_ids().to_pylist()):
        first, end = dataset.offsets[number], dataset.offsets[number + 1] - 1
        seen = set(dataset.item_ids().take(dataset.items_E[first:end]).to_pylist())
        assert not seen & set(filtered[user])
        assert len(filtered[user]) == min(10 if kind == "neighbours" else 20, tiny.N_ITEMS - len(seen))
        if kind not in ("dense", "neighbours"):  # their pool is another one, since the beam is
            shorter = [item for item in kept[user] if item not in seen]
            assert filtered[user][: len(shorter)] == shorter or kind in ("path", "flattened")


def test_the_baseline_finds_the_next_item_without_training(line, tmp_path):
    results = train(tiny.recipe("model.kind=item_knn"), out=tmp_path / "run", **line.inputs())
    assert results["epochs"] == 0 and results["checkpoint"] == "none"
    # Users step from item i to i + 1; chance is .33, and one event in ten is noise.
    assert results["test"]["recall@10"] > 0.6 and results["test"]["recall@1"] > 3 / tiny.N_ITEMS
    again = evaluate_run(tmp_path / "run", [])
    assert again["test"] == results["test"]


def test_the_baseline_needs_no_vectors(line, tmp_path):
    inputs = line.inputs() | {"vectors": None}
    results = train(tiny.recipe("model.kind=item_knn"), out=tmp_path / "without", **inputs)
    words = ("model.kind=item_knn", "model.neighbours.content=0")
    same = train(tiny.recipe(*words), out=tmp_path / "off", **line.inputs())
    assert results["test"] == same["test"] and results["test"]["recall@10"] > 0.6


def test_the_baseline_refuses_weights_to_start_from(line, tmp_path):
    with pytest.raises(ConfigError, match="item_knn is not trained"):
        train(tiny.recipe("model.kind=item_knn"), out=tmp_path / "run", init_from=tmp_path, **line.inputs())


@pytest.mark.slow
def test_the_baseline_is_the_same_on_two_ranks(line, tmp_path):
    words = ("model.kind=item_knn", "evaluate.exclude_seen=true", "model.neighbours.kept=7")
    train(tiny.recipe(*words), out=tmp_path / "one", **line.inputs())
    train_all(tmp_path, line, {tmp_path / "two": words}, 2)
    # Products round by the shape of a block, so that near ties may change places.
    one, two = lists(tmp_path / "one"), lists(tmp_path / "two")
    assert one.keys() == two.keys() and sum(one[user][:5] == two[user][:5] for user in one) >= 0.9 * len(one)
    one, two = (json.loads((tmp_path / name / "results.json").read_text())["test"] for name in ("one", "two"))
    assert one == pytest.approx(two, abs=2 / 50)
