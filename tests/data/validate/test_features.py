"""Features in an examination: profiles, faults, drift."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
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


def test_a_condition_that_no_event_can_meet_is_an_error_and_the_rest_is_still_looked_at(tmp_path):
    rich.write_tables(tmp_path)
    found = told(tmp_path, rich.config(targets={"action": ["byu"]}), "features")
    (error,) = (each for each in found if each.severity == "error")
    assert "no event has 'byu'; did you mean 'buy'?" in error.says
