"""What features do in training: they carry a signal, are chosen by name, and stream like the events they belong to."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ConfigError
from intrr_rec.semantic_ids.build import build_semantic_ids
from intrr_rec.training.trainer import Trainer, train
from tests import tiny
from tests.data.features import rich
from tests.distributed.test_world_sizes import figures, worst
from tests.training.figures import story
from tests.training.test_resume import cut_off, steps


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return rich.make_line(tmp_path_factory.mktemp("line"))


def test_an_unknown_feature_is_refused_before_training(line, tmp_path):
    with pytest.raises(ConfigError, match=r"model\.features: no feature 'actoin'; did you mean 'action'"):
        train(tiny.recipe("model.features=[actoin]"), **line.inputs(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_kinds_of_models_that_read_no_features_train_on_the_same_dataset(line, tmp_path):
    words = ("model.kind=flattened", "train.epochs=1", "evaluate.beam=10")
    train(tiny.recipe(*words), **line.inputs(), out=tmp_path / "run")


def test_a_streamed_dataset_gives_the_figures_of_one_in_memory(line, tmp_path):
    """With one pool the order is another; without shuffling across pools the losses of a whole-epoch step are the same."""
    words = ("train.epochs=1", "train.batch_users=64", "evaluate.beam=10", "model.unasked=0")
    for name, pool in (("memory", 100_000), ("streamed", 10)):
        train(tiny.recipe(*words, f"train.loader.pool_events={pool}"), **line.inputs(), out=tmp_path / name)
    assert worst(figures(tmp_path / "streamed"), figures(tmp_path / "memory")) < 1e-4


@pytest.mark.parametrize("pool", [100_000, 10], ids=["memory", "streamed"])
def test_cut_off_and_resumed_equals_uninterrupted(line, tmp_path, monkeypatch, pool):
    """With a feature of every kind, some windows of each step unasked, in mid-epoch: to the last digit."""
    words = ("train.epochs=2", "model.unasked=0.3", "model.hstu.dropout=0.2", f"train.loader.pool_events={pool}")
    train(tiny.recipe(*words, "train.learning_rate=0.01"), **line.inputs(), out=tmp_path / "whole")
    words = (*words, "train.learning_rate=0.01", "train.checkpoint_every=1")
    cut_off(monkeypatch, line, tmp_path / "run", words, Trainer, "step", 6)
    assert steps(tmp_path / "run")[-1] == 5
    train(tiny.recipe(*words), **line.inputs(), out=tmp_path / "run")
    assert story(tmp_path / "run") == story(tmp_path / "whole")


def signal_line(folder, depends):
    """Users whose next item is the last one plus 1, or plus what a feature says: `depends` names which carries it.

    What a user's own history tells of him a model learns without features. So where his plan decides, it decides his last item alone,
    and who is tested is none of those who were learned from: the split is in time.
    """
    rng = np.random.default_rng(0)
    users, length, items = 150, 9, 24
    action = rng.integers(0, 4, (users, length))
    member = rng.integers(0, 4, users)
    item = np.empty((users, length), np.int64)
    item[:, 0] = rng.integers(0, items, users)
    for step in range(1, length):
        stride = {"event": action[:, step - 1], "asked": action[:, step]}.get(depends, 0) * 5 + 1
        item[:, step] = (item[:, step - 1] + stride) % items
    time, split = np.tile(np.arange(length), (users, 1)), {}
    if depends == "user":
        item = rng.integers(0, items, (users, length))
        item[:, -1] = member * 5
        time[:, -1] = length + 10 * (np.maximum(np.arange(users) - users + 75, 0) // 25)
        split = {"split": "global_time", "split_at": [length + 5, length + 15]}
    logs = {
        "user_id": np.repeat(np.arange(users), length),
        "item_id": item.reshape(-1),
        "timestamp": time.reshape(-1),
        "action": [f"a{each}" for each in action.reshape(-1)],
    }
    pq.write_table(pa.table(logs), folder / "logs.parquet")
    pq.write_table(
        pa.table({"user_id": np.arange(users), "plan": [f"p{each}" for each in member]}), folder / "users.parquet"
    )
    features = {
        "event": {"action": {"kind": "categorical", "asked": depends in ("asked", "none")}},
        "user": {"plan": "categorical"},
    }
    line = tiny.Line(folder / "dataset", folder / "semantic_ids", folder / "vectors.parquet")
    config = PrepareConfig.model_validate({"k_core": 1, "features": features} | split)
    prepare_dataset([folder / "logs.parquet"], None, line.dataset, config, users=folder / "users.parquet")
    vectors = rng.normal(size=(items, 6)).astype(np.float32)
    pq.write_table(pa.table({"item_id": np.arange(items), "embedding": list(vectors)}), line.vectors)
    build_semantic_ids(line.dataset, line.vectors, line.semantic_ids, tiny.INDEX)
    return line


@pytest.mark.parametrize("depends", ["event", "asked", "user"])
def test_what_the_next_item_depends_on_is_learnt(tmp_path, depends):
    line = signal_line(tmp_path, depends)
    found = {}
    for name, words in (("with", ()), ("without", ("model.features=[]",))):
        recipe = tiny.recipe("train.epochs=12", "train.learning_rate=0.01", "train.validate_every=12", *words)
        found[name] = train(recipe, **line.inputs(), out=tmp_path / name)["test"]["recall@1"]
    print(depends, found)
    assert found["with"] > 1.5 * found["without"]
