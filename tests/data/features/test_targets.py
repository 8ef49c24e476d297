"""Events that are no targets are read and never predicted: marked by `prepare.targets`, weighed by `train.target_weights`."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.targets import TargetWeights
from intrr_rec.data.loading.windows import evaluation_windows, training_windows
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ConfigError, DataError
from tests.data.features import rich
from tests.data.loading.deal import deal

LIKED = {"rating": {"at_least": 4}}


def dataset(folder, **settings):
    rich.write_tables(folder)
    config = rich.config(**({"targets": LIKED} | settings))
    files = [folder / "logs.parquet"], folder / "items.parquet", folder / "dataset"
    prepare_dataset(*files, config, users=folder / "users.csv")
    return Dataset.open(folder / "dataset")


def rows(folder):
    logs = pq.read_table(folder / "logs.parquet").to_pylist()
    return sorted(logs, key=lambda row: (row["user_id"], row["timestamp"]))


@pytest.mark.parametrize(
    ("targets", "is_target"),
    [
        (LIKED, lambda row: row["rating"] >= 4),
        ({"action": ["buy", "like"]}, lambda row: row["action"] != "view"),
        ({"rating": [5, 1]}, lambda row: row["rating"] in (1, 5)),
        ({"dwell": {"at_least": 20, "below": 70}}, lambda row: row["dwell"] is not None and 20 <= row["dwell"] < 70),
        ({"app": True, "action": "buy"}, lambda row: row["app"] is True and row["action"] == "buy"),
    ],
)
def test_targets_are_the_events_that_meet_all_conditions(tmp_path, targets, is_target):
    data = dataset(tmp_path, targets=targets)
    expected = [is_target(row) for row in rows(tmp_path)]
    assert data.is_target_E.tolist() == [int(each) for each in expected]
    assert json.loads((tmp_path / "dataset/statistics.json").read_text())["targets"] == sum(expected)


def test_the_last_two_targets_are_held_out_and_what_follows_them(tmp_path):
    data = dataset(tmp_path)
    for user in range(data.n_users):
        marks = data.is_target_E[data.offsets[user] : data.offsets[user + 1]]
        back = [*[len(marks) - place for place in np.flatnonzero(marks)][::-1], 0, 0]
        assert [data.held_out(part)[user] for part in ("test", "valid")] == back[:2]
        assert data.held_out("train")[user] == (back[1] or back[0])


def test_after_a_moment_the_first_target_is_held_out(tmp_path):
    rich.write_tables(tmp_path)
    table = pq.read_table(tmp_path / "logs.parquet")
    times = np.tile(np.arange(8), 20) * 10
    table = table.set_column(table.column_names.index("timestamp"), "timestamp", [times])
    pq.write_table(table, tmp_path / "logs.parquet")
    ends = [40, 60]
    config = rich.config(targets=LIKED, split="global_time", split_at=ends)
    files = [tmp_path / "logs.parquet"], tmp_path / "items.parquet", tmp_path / "dataset"
    prepare_dataset(*files, config, users=tmp_path / "users.csv")
    data = Dataset.open(tmp_path / "dataset")
    users = {"valid": 0, "test": 0}
    for user in range(data.n_users):
        marks = data.is_target_E[data.offsets[user] : data.offsets[user + 1]]
        moments = np.arange(8) * 10
        for part, low, high in (("valid", 40, 60), ("test", 60, 999)):
            found = np.flatnonzero((marks > 0) & (moments >= low) & (moments < high))
            assert data.held_out(part)[user] == (8 - found[0] if len(found) else 0)
            users[part] += len(found) > 0
        assert data.held_out("train")[user] == 4
    split = json.loads((tmp_path / "dataset/statistics.json").read_text())["split"]
    assert (split["users"]["valid"], split["users"]["test"]) == (users["valid"], users["test"])


def test_only_targets_are_scored_and_each_counts_its_weight(tmp_path):
    data = dataset(tmp_path)
    weights = TargetWeights(data, {"action": {"view": 0.25, "like": 0}})
    action = {"view": 0.25, "like": 0.0, "buy": 1.0}
    expected_E = np.array([action[row["action"]] * (row["rating"] >= 4) for row in rows(tmp_path)], np.float32)
    np.testing.assert_array_equal(weights.whole(), expected_E)
    assert TargetWeights.of(data, {}, marked=False) is None, "train.learn_all: every event counts the same"

    windows = training_windows(data.offsets, 4, data.held_out("train"))
    collate = Collator(data.items_E, 4, None, "items", weight_E=weights.whole())
    whole, parts = collate(windows), [deal(collate, windows, rank, 3) for rank in range(3)]
    found = sum((batch.weight_S.sum() * batch.target_weight for batch in parts), torch.zeros(())) / 3
    assert found == pytest.approx(1) and whole.weight_S.sum() * whole.target_weight == pytest.approx(1)
    last = data.offsets[1:] - data.held_out("train")
    learnt = [e for u in range(data.n_users) for e in range(data.offsets[u] + 1, last[u]) if expected_E[e] > 0]
    assert sorted(whole.target_S.tolist()) == sorted(data.items_E[learnt].tolist())
    assert sum(len(batch.target_S) for batch in parts) == len(learnt)


def test_evaluation_targets_are_liked_and_popularity_counts_liked_events(tmp_path):
    data = dataset(tmp_path)
    windows = evaluation_windows(data.offsets, 8, data.held_out("test"))
    assert len(windows) and data.is_target_E[windows.start_M + windows.length_M].all()
    counted = np.zeros(data.n_items, np.int64)
    for user in range(data.n_users):
        span = slice(data.offsets[user], data.offsets[user + 1] - data.held_out("train")[user])
        np.add.at(counted, data.items_E[span], data.is_target_E[span])
    assert data.popularity().tolist() == counted.tolist()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"ratng": [4]}, "targets.ratng: no such feature of events; did you mean 'rating'?"),
        ({"rating": {"at_lest": 4}}, "targets.rating: unknown key 'at_lest'; did you mean 'at_least'?"),
        ({"rating": {}}, "targets.rating: give at_least, below or both"),
        ({"rating": {"at_least": 4, "below": 4}}, "targets.rating: holds no number; at_least must be less than below"),
        ({"rating": []}, "targets.rating: give a value, a list of values, or a range such as {at_least: 4}"),
        ({"dwell": [4]}, "targets.dwell: is numeric; give a range such as {at_least: 4}"),
        ({"app": ["perhaps"]}, "targets.app: is boolean; give true or false"),
        ({"clock": [4]}, "targets.clock: is timestamp_parts; name a categorical, numeric or boolean feature"),
    ],
)
def test_conditions_that_cannot_be_are_refused(targets, message):
    with pytest.raises(ValidationError) as caught:
        rich.config(targets=targets)
    assert caught.value.errors()[0]["msg"] == f"Value error, {message}"


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"action": ["byu"]}, r"prepare\.targets\.action: no event has 'byu'; did you mean 'buy'\?"),
        ({"dwell": {"at_least": 1000}}, r"prepare\.targets: no event that the filters leave meets all conditions"),
    ],
)
def test_conditions_that_nothing_meets_are_refused_and_nothing_is_written(tmp_path, targets, message):
    with pytest.raises(DataError, match=message):
        dataset(tmp_path, targets=targets)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"actoin": {}}, "actoin: the dataset has no such feature of events; did you mean 'action'?"),
        ({"action": {"byu": 1}}, "action: no event has 'byu'; did you mean 'buy'?"),
        ({"dwell": {"1": 1}}, "dwell: is numeric; name a feature that is categorical or boolean"),
    ],
)
def test_weights_that_cannot_be_are_refused(tmp_path, weights, message):
    with pytest.raises(ConfigError) as caught:
        TargetWeights(dataset(tmp_path), weights)
    assert str(caught.value) == f"train.target_weights.{message}"


def test_settings_survive_the_manifest():
    config = rich.config(targets=LIKED | {"action": "buy"})
    assert PrepareConfig.model_validate(config.model_dump(mode="json")) == config
