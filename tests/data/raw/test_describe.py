"""`intrr describe`: a proposal that `intrr prepare` takes as it is, and that names every column once."""

import pytest
import yaml

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.data.raw.describe import propose
from intrr_rec.data.raw.descriptors import find_tables, load_descriptor
from intrr_rec.errors import DataError
from tests.data.features import rich

LOGS = "Customer ID,SKU,when,event type,price paid,note,void\n" + "".join(
    f"c{n % 5},s{n % 7},2024-03-0{1 + n % 9}T10:00:00Z,{['view', 'buy'][n % 2]},{n}.5,word {n} of many,\n"
    for n in range(60)
)


def test_the_tables_with_a_feature_of_every_kind_are_prepared_by_the_proposal(tmp_path):
    rich.write_tables(tmp_path)
    text = propose(tmp_path / "logs.parquet", tmp_path / "items.parquet", tmp_path / "users.csv")
    (tmp_path / "mine.yaml").write_text(text)
    descriptor = load_descriptor(tmp_path / "mine.yaml")
    assert descriptor.prepare["features"] == {
        "event": {
            "action": {"kind": "categorical", "asked": True},
            "rating": "categorical",
            "dwell": "numeric",
            "app": "boolean",
        },
        "item": {
            "categories": {"kind": "multi_categorical", "separator": "|"},
            "tags": "multi_categorical",
            "price": "categorical",
            "red": "boolean",
            "new": "boolean",
        },
        "user": {"country": "categorical", "member": "boolean"},
    }
    found = find_tables(descriptor, tmp_path / "mine.yaml", tmp_path)
    config = descriptor.settings(PrepareConfig(k_core=1))
    prepare_dataset(found.interactions, found.items, tmp_path / "out", config, users=found.users)
    features = Dataset.open(tmp_path / "out").features
    assert features is not None and len(features.columns) == 11
    assert "# title: text" in text


def test_columns_of_other_names_are_found_and_what_is_no_feature_says_why(tmp_path):
    (tmp_path / "logs.csv").write_text(LOGS)
    text = propose(tmp_path / "logs.csv", None, None)
    found = yaml.safe_load(text)["prepare"]
    assert (found["user_column"], found["item_column"], found["time_column"]) == ("Customer ID", "SKU", "when")
    assert found["features"] == {
        "event": {"event type": {"kind": "categorical", "asked": True}, "price paid": "numeric"}
    }
    assert "# note: nearly every row has a value of its own" in text and "# void: no row has a value" in text


def test_logs_whose_ids_cannot_be_told_are_refused(tmp_path):
    (tmp_path / "logs.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column is called as user ids usually are; it has a, b; call it user_id"):
        propose(tmp_path / "logs.csv", None, None)
