"""Features in an examination: profiles, faults, drift."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.data.validate.validate import examine
from tests.data.features import rich


def told(folder, config, check):
    found = examine("x", [folder / "logs.parquet"], folder / "items.parquet", config, folder / "users.csv")
    return [finding for finding in found.findings if finding.check == check]


def test_every_feature_is_profiled(tmp_path):
    rich.write_tables(tmp_path)
    says = {each.says.split(" ")[0]: each for each in told(tmp_path, rich.config(), "features")}
    assert set(says) == {
        *("action", "rating", "dwell", "app", "clock.hour", "clock.weekday", "clock.day", "clock.month"),
        *("categories", "tags", "price", "flags", "country", "member"),
    }
    assert "3 values, 0.0% missing" in says["action"].says and "view" in says["action"].says
    assert "outside the vocabulary" in says["country"].says


def test_faults_are_errors_and_the_rest_is_still_looked_at(tmp_path):
    rich.write_tables(tmp_path)
    config = rich.config(
        features={"event": {"action": "numeric", "gone": "categorical"}, "user": {"country": "categorical"}}
    )
    found = told(tmp_path, config, "features")
    assert [each.severity for each in found if each.severity == "error"] == ["error", "error"]
    assert any(each.says.startswith("country of users") for each in found)


def test_values_that_only_the_test_has_are_told(tmp_path):
    rich.write_tables(tmp_path)
    rows = pq.read_table(tmp_path / "logs.parquet").to_pylist()
    for n, row in enumerate(rows):
        row["action"] = "new" if n % 8 == 7 else "old"
        row["timestamp"] = row["timestamp"] % 10**9
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "logs.parquet")
    config = PrepareConfig.model_validate({"k_core": 1, "features": {"event": {"action": "categorical"}}})
    (found,) = (
        each
        for each in examine("x", [tmp_path / "logs.parquet"], None, config).findings
        if each.check == "feature drift"
    )
    assert found.severity == "warning" and "100.0% of the targets" in found.says


@pytest.mark.parametrize(
    ("targets", "severity"), [({"rating": {"at_least": 3}}, "fine"), ({"rating": {"at_least": 9}}, "error")]
)
def test_targets_are_counted(tmp_path, targets, severity):
    rich.write_tables(tmp_path)
    ratings = pq.read_table(tmp_path / "logs.parquet")["rating"].to_pylist()
    liked = sum(rating >= targets["rating"]["at_least"] for rating in ratings)
    (found,) = told(tmp_path, rich.config(targets=targets), "targets")
    assert found.severity == severity and found.says.startswith(f"{liked} of 160 events")


@pytest.mark.parametrize("split", ["leave_one_out", "global_time"])
def test_the_targets_looked_at_are_those_of_the_dataset(tmp_path, split):
    """Of 8 events a user those rated 3 and more are targets: often neither the last event nor the first after a moment."""
    rich.write_tables(tmp_path)
    rows = pq.read_table(tmp_path / "logs.parquet").to_pylist()
    for n, row in enumerate(rows):  # half of the events are with one item, and times run on over the users
        row["item_id"], row["timestamp"] = rows[0]["item_id"] if n % 2 else row["item_id"], 10**9 + n % 8 * 100 + n // 8
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "logs.parquet")
    at = (10**9 + 300, 10**9 + 500) if split == "global_time" else None
    config = rich.config(targets={"rating": {"at_least": 3}}, split=split, split_at=at)
    prepare_dataset(
        [tmp_path / "logs.parquet"],
        tmp_path / "items.parquet",
        tmp_path / "dataset",
        config,
        users=tmp_path / "users.csv",
    )
    dataset = Dataset.open(tmp_path / "dataset")
    users, events = dataset.targets("test")
    had = sum(
        dataset.items_E[event] in dataset.items_E[dataset.offsets[user] : event]
        for user, event in zip(users, events, strict=True)
    )
    found = told(tmp_path, config, "leakage")[0]
    assert 0 < had < len(users) and found.says.startswith(f"{had} of {len(users)} test targets")


def test_a_condition_that_no_event_can_meet_is_an_error_and_the_rest_is_still_looked_at(tmp_path):
    rich.write_tables(tmp_path)
    found = told(tmp_path, rich.config(targets={"action": ["byu"]}), "features")
    (error,) = (each for each in found if each.severity == "error")
    assert "no event has 'byu'; did you mean 'buy'?" in error.says
