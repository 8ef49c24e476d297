"""Training on a dataset that marks its targets: streamed as in memory, every kind of model, and lists of a batch as evaluated."""

import pyarrow.parquet as pq
import pytest

from intrr_rec.errors import ConfigError
from intrr_rec.serving.batch.histories import DatasetSource
from intrr_rec.serving.batch.recommend import PARTS, Options, recommend_all
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.training.trainer import train
from tests import tiny
from tests.data.features import rich
from tests.distributed.test_world_sizes import figures, worst

WORDS = (
    "train.epochs=1",
    "evaluate.beam=10",
    "train.target_weights={action: {view: 0.25}}",
    "train.learning_rate=0.01",
)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return rich.make_line(tmp_path_factory.mktemp("line"), targets={"rating": {"at_least": 3}})


def test_a_streamed_dataset_gives_the_figures_of_one_in_memory(line, tmp_path):
    for name, pool in (("memory", 100_000), ("streamed", 10)):
        words = (*WORDS, "train.batch_users=64", "model.unasked=0", f"train.loader.pool_events={pool}")
        train(tiny.recipe(*words), **line.inputs(), out=tmp_path / name)
    assert worst(figures(tmp_path / "streamed"), figures(tmp_path / "memory")) < 1e-4


@pytest.mark.parametrize("kind", ["flattened", pytest.param("tiger", marks=pytest.mark.slow), "sasrec"])
def test_weights_of_targets_change_what_other_kinds_learn(line, tmp_path, kind):
    losses = []
    for name, words in (("weighed", WORDS), ("alike", (*WORDS, "train.target_weights={}"))):
        train(tiny.recipe(*words, f"model.kind={kind}"), **line.inputs(), out=tmp_path / name)
        found = figures(tmp_path / name)
        losses.append([value for (_, _, figure), value in found.items() if figure.startswith("loss")])
    assert losses[0] and losses[0] != losses[1]


def test_lists_of_a_batch_are_those_of_evaluation(line, tmp_path):
    train(tiny.recipe(*WORDS), **line.inputs(), out=tmp_path / "run")
    write_bundle(tmp_path / "run", tmp_path / "bundle")
    source = DatasetSource(line.dataset, 1)
    recommend_all(Bundle.load(tmp_path / "bundle"), source, tmp_path / "out", Options(k=10, shard_users=16, batch=5))
    evaluated = {row["user_id"]: row["item_ids"] for row in pq.read_table(tmp_path / "run/recommendations").to_pylist()}
    found: dict = {}
    for row in (
        pq.read_table(tmp_path / "out" / PARTS).sort_by([("user_id", "ascending"), ("rank", "ascending")]).to_pylist()
    ):
        found.setdefault(row["user_id"], []).append(row["item_id"])
    assert evaluated and {user: found[user] for user in evaluated} == evaluated


def test_a_weight_of_no_value_is_refused_before_training(line, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.target_weights\.action: no event has 'byu'; did you mean 'buy'\?"):
        train(tiny.recipe("train.target_weights={action: {byu: 2}}"), **line.inputs(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
