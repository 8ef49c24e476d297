"""Features from raw tables to the dataset: one rule for DuckDB and requests, missing and unknown values, both engines alike."""

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.features.columns import MISSING, UNKNOWN
from intrr_rec.data.prepare.engines import EngineChoice
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ConfigError, DataError
from tests.data.features import rich


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rich")
    rich.write_tables(folder)
    prepare(folder, folder / "dataset")
    return folder, Dataset.open(folder / "dataset")


def prepare(folder, out, engine=None, **settings):
    return prepare_dataset(
        [folder / "logs.parquet"],
        folder / "items.parquet",
        out,
        rich.config(**settings),
        engine or EngineChoice(),
        users=folder / "users.csv",
    )


def column(dataset, name):
    return next(each for each in dataset.features.columns if each.name == name)


def test_numbers_of_events_are_those_that_a_request_would_get(made):
    """The logs in the dataset's order, value by value: what DuckDB made is what `Column.number` makes."""
    folder, dataset = made
    logs = pq.read_table(folder / "logs.parquet").sort_by([("user_id", "ascending"), ("timestamp", "ascending")])
    for name, source in (("action", "action"), ("rating", "rating"), ("dwell", "dwell"), ("app", "app")):
        found = column(dataset, name)
        assert dataset.features.of_events(found).tolist() == [found.number(v) for v in logs[source].to_pylist()]
    for part in ("hour", "weekday", "day", "month"):
        found = column(dataset, f"clock.{part}")
        assert dataset.features.of_events(found).tolist() == [found.number(v) for v in logs["timestamp"].to_pylist()]


def test_numbers_of_items_are_those_of_their_words(made):
    folder, dataset = made
    table = pq.read_table(folder / "items.parquet").to_pylist()
    rows = {int(own): place for place, own in enumerate(dataset.item_ids().to_pylist())}
    for row in table:
        expected = {
            "categories": row["categories"],
            "tags": row["tags"],
            "price": row["price"],
            "flags": [name for name in ("red", "new") if row[name]],
        }
        for name, value in expected.items():
            found = column(dataset, name)
            numbers, lengths = dataset.features.of_table(found).take(np.array([rows[row["item_id"]]]))
            assert sorted(numbers.tolist()) == sorted(found.numbers(value)) and lengths[0] == len(numbers)


def test_missing_and_rare_values_have_numbers_of_their_own(made):
    _, dataset = made
    country, member = (dataset.features.of_table(column(dataset, name)).values_N for name in ("country", "member"))
    assert country[0] == UNKNOWN  # one user alone has it
    assert country[-1] == member[-1] == MISSING  # not in the user table
    assert set(country[1:-1]) == {2, 3, 4}


def test_columns_are_narrow(made):
    folder, _ = made
    schema = pq.read_schema(folder / "dataset" / "sequences" / "part-00000.parquet")
    assert schema.field("feature.action").type == pa.list_(pa.uint8())


@pytest.mark.parametrize(
    ("values", "part"),
    [([0, 3599, 3600, 86_399, 86_400, 951_782_400, 4_102_444_799], p) for p in ("hour", "weekday", "day", "month")],
)
def test_parts_of_times_agree_with_the_calendar(values, part):
    from datetime import datetime, timezone

    from intrr_rec.data.features.columns import part_of, parts_of

    for value in values:
        moment = datetime.fromtimestamp(value, timezone.utc)
        expected = {"hour": moment.hour, "weekday": moment.weekday(), "day": moment.day - 1, "month": moment.month - 1}[
            part
        ]
        assert part_of(value, part) == expected == parts_of(np.array([value]), part)[0]


def test_a_dataset_without_features_has_no_trace_of_them(tmp_path):
    rich.write_tables(tmp_path)
    manifest = prepare_dataset([tmp_path / "logs.parquet"], None, tmp_path / "out", PrepareConfig(k_core=1))
    assert "features.json" not in manifest.files and "features" not in manifest.config
    assert pq.read_schema(tmp_path / "out" / "sequences" / "part-00000.parquet").names == [
        "user",
        "items",
        "timestamps",
        "length",
    ]
    assert Dataset.open(tmp_path / "out").features is None


def test_added_logs_keep_the_numbers_of_old_values(tmp_path):
    rich.write_tables(tmp_path)
    prepare(tmp_path, tmp_path / "out", keep_rows=True)
    before = Dataset.open(tmp_path / "out")
    more = pq.read_table(tmp_path / "logs.parquet").to_pylist()
    for row in more:
        row |= {"timestamp": row["timestamp"] + 10**7, "action": "zap" if row["action"] == "buy" else row["action"]}
    pq.write_table(pa.Table.from_pylist(more), tmp_path / "more.parquet")
    config = PrepareConfig.model_validate(before.manifest.config)
    prepare_dataset([tmp_path / "more.parquet"], None, tmp_path / "out", config, append=True)
    after = Dataset.open(tmp_path / "out")
    old, new = column(before, "action"), column(after, "action")
    assert new.values == (*old.values, "zap")
    first = np.concatenate([np.arange(start, start + 8) for start in after.offsets[:-1]])
    assert (after.features.of_events(new)[first] == before.features.of_events(old)).all()
    prices = [dataset.features.of_table(column(dataset, "price")).values_N.tolist() for dataset in (before, after)]
    assert prices[0] == prices[1]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"event": {"action": {"kind": "categoric"}}}, "did you mean 'categorical'"),
        ({"event": {"action": {"kind": "categorical", "sise": 3}}}, "unknown key 'sise'; did you mean 'size'"),
        ({"event": {"action": {"kind": "boolean", "size": 3}}}, "size is a setting of categorical"),
        ({"event": {"tags": "multi_categorical"}}, "for items and users"),
        ({"event": {"x": "boolean"}, "item": {"x": "boolean"}}, "the name of two features"),
        ({"item": {"x": {"kind": "boolean", "asked": True}}}, "asked is for features of events"),
    ],
)
def test_mistakes_in_a_declaration_are_told_in_words(features, message):
    with pytest.raises(ValueError, match=message):
        PrepareConfig.model_validate({"features": features})


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"actoin": "categorical"}, "no column 'actoin'.*did you mean 'action'"),
        ({"action": "numeric"}, "column 'action', row 1: '.*' is no number"),
        ({"action": "boolean"}, "column 'action', row 1: '.*' is no truth value"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, event, message):
    rich.write_tables(tmp_path)
    with pytest.raises(DataError, match=message):
        config = PrepareConfig.model_validate({"k_core": 1, "features": {"event": event}})
        prepare_dataset([tmp_path / "logs.parquet"], None, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_features_of_a_table_that_was_not_given_are_refused(tmp_path):
    rich.write_tables(tmp_path)
    with pytest.raises(ConfigError, match="needs a table of items; give it by --items"):
        prepare_dataset([tmp_path / "logs.parquet"], None, tmp_path / "out", rich.config())


def test_a_number_beyond_the_vocabulary_is_refused(made, tmp_path):
    _, dataset = made
    action = column(dataset, "action")
    short = action.model_copy(update={"values": action.values[:1]})
    with pytest.raises(Exception, match="beyond its 3"):
        dataclasses.replace(dataset).features.of_group(0, short)
