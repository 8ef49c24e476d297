"""Logs added to a dataset: the full rebuild over the same rows but for the numbers, which stay; whole or not at all."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.config import IndexConfig, PrepareConfig
from intrr_rec.data.dataset import ITEMS, STATISTICS, Dataset
from intrr_rec.data.prepare.engines import EngineChoice
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ArtefactError, ConfigError, DataError, PlaceError
from intrr_rec.io import artefact
from intrr_rec.semantic_ids.artefact import SemanticIds
from intrr_rec.semantic_ids.build import build_semantic_ids
from intrr_rec.semantic_ids.extend import extend_semantic_ids

Event = tuple[str, str, int]
KEEP = PrepareConfig(k_core=2, keep_rows=True)


def write(path: Path, events: list[Event]) -> Path:
    columns = ("user_id", "item_id", "timestamp")
    schema = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())])
    pq.write_table(pa.table({c: [e[n] for e in events] for n, c in enumerate(columns)}, schema=schema), path)
    return path


def titles(path: Path, names: list[str]) -> Path:
    pq.write_table(pa.table({"item_id": names, "title": [f"title of {name}" for name in names]}), path)
    return path


def content(dataset: Dataset) -> tuple[dict, dict, dict]:
    """All a dataset says, by the user's own ids; and its statistics."""
    users, items = dataset.user_ids().to_pylist(), dataset.item_ids().to_pylist()
    times = [None] * len(dataset.items_E) if dataset.timestamps_E is None else dataset.timestamps_E.tolist()
    events = list(zip([items[item] for item in dataset.items_E], times, strict=True))
    ends = dataset.offsets.tolist()
    histories = {user: events[first:end] for user, (first, end) in zip(users, itertools.pairwise(ends), strict=True)}
    table = dataset.table(ITEMS)
    by_id = {row.pop("item_id"): row for row in table.to_pylist()}
    assert [by_id[item].pop("item") for item in items] == list(range(len(items)))
    return histories, by_id, json.loads(dataset.events.folder.read(STATISTICS))


def days(seed: int, number: int = 3, late: bool = True) -> list[list[Event]]:
    """Days of logs; new users and items keep coming, some events come a day late, times repeat."""
    rng = random.Random(seed)
    made = []
    for day in range(number):
        people, things = 12 + 6 * day, 10 + 4 * day
        when = 100 * day - (60 if late else 0)
        made.append(
            [
                (
                    f"u{rng.randrange(people):02d}",
                    f"i{rng.randrange(things):02d}",
                    100 + when + rng.randrange(90) // 7 * 7,
                )
                for _ in range(90)
            ]
        )
    return made


CONFIGS = [
    KEEP,
    KEEP.model_copy(update={"k_core": 4}),
    KEEP.model_copy(update={"deduplicate": "pair"}),
    KEEP.model_copy(update={"deduplicate": "event", "min_sequence": 5}),
    KEEP.model_copy(update={"time_column": None, "k_core": 3}),
    KEEP.model_copy(update={"split": "global_time", "split_at": (70, 95)}),
]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(CONFIGS))
def test_days_added_one_by_one_are_the_full_rebuild_but_for_the_numbers(
    tmp_path_factory: pytest.TempPathFactory, seed: int, config: PrepareConfig
) -> None:
    folder = tmp_path_factory.mktemp("days")
    logs = [write(folder / f"{n}.parquet", day) for n, day in enumerate(days(seed))]
    table = titles(folder / "items.parquet", [f"i{n:02d}" for n in range(20)])
    prepare_dataset(logs[:1], table, folder / "ds", config)
    for n in range(1, len(logs)):
        before = Dataset.open(folder / "ds")
        prepare_dataset(logs[n : n + 1], table, folder / "ds", PrepareConfig(), append=True)
        after = Dataset.open(folder / "ds")
        prepare_dataset(logs[: n + 1], table, folder / "whole", config)
        assert content(after) == content(Dataset.open(folder / "whole"))
        for old, new in ((before.user_ids(), after.user_ids()), (before.item_ids(), after.item_ids())):
            assert new[: len(old)] == old
            assert new[len(old) :].to_pylist() == sorted(new[len(old) :].to_pylist())


def test_what_a_filter_dropped_joins_later(tmp_path: Path) -> None:
    first = [(u, i, t) for u in "ab" for t, i in enumerate("xyz")] + [("c", "x", 0), ("c", "y", 1)]
    prepare_dataset([write(tmp_path / "1.parquet", first)], None, tmp_path / "ds", KEEP)
    assert Dataset.open(tmp_path / "ds").user_ids().to_pylist() == ["a", "b"]
    prepare_dataset(
        [write(tmp_path / "2.parquet", [("c", "z", 2)])], None, tmp_path / "ds", PrepareConfig(), append=True
    )
    histories, _, statistics = content(Dataset.open(tmp_path / "ds"))
    assert histories["c"] == [("x", 0), ("y", 1), ("z", 2)]
    assert (statistics["interactions_read"], statistics["interactions_dropped"]) == (9, 0)


def test_moments_that_are_shares_move_with_the_logs_and_given_ones_stay(tmp_path: Path) -> None:
    first, second = (
        [(u, i, t + n) for n, u in enumerate("abc") for t, i in zip(times, "xyzxyz", strict=False)]
        for times in (range(0, 60, 10), range(60, 120, 10))
    )
    logs = [write(tmp_path / "1.parquet", first), write(tmp_path / "2.parquet", second)]
    for asked, expected in ((None, [(42, 51), (91, 102)]), ((15, 25), [(15, 25), (15, 25)])):
        config = KEEP.model_copy(update={"split": "global_time", "split_at": asked})
        moments = []
        for n in range(2):
            prepare_dataset(logs[n : n + 1], None, tmp_path / "ds", config, append=n > 0)
            moments.append(Dataset.open(tmp_path / "ds").moments)
        assert moments == expected


def test_items_keep_their_content_and_newcomers_bring_theirs(tmp_path: Path) -> None:
    def rows(items: str, start: int) -> list[Event]:
        return [(u, i, start + t) for u in "ab" for t, i in enumerate(items)]

    prepare_dataset(
        [write(tmp_path / "1.parquet", rows("pqr", 0))],
        titles(tmp_path / "t1.parquet", ["p", "q", "r"]),
        tmp_path / "ds",
        KEEP,
    )
    day, table = write(tmp_path / "2.parquet", rows("abc", 10)), titles(tmp_path / "t2.parquet", ["a", "b"])
    manifest = prepare_dataset([day], table, tmp_path / "ds", PrepareConfig(), append=True)
    dataset = Dataset.open(tmp_path / "ds")
    assert dataset.item_ids().to_pylist() == ["p", "q", "r", "a", "b", "c"]
    assert dataset.titles() == [f"title of {name}" for name in "pqrab"] + ["c"]
    assert manifest.parents.keys() == {"interactions/0", "interactions/1", "items/0", "items/1"}
    prepare_dataset([write(tmp_path / "3.parquet", rows("p", 20))], None, tmp_path / "ds", PrepareConfig(), append=True)
    assert Dataset.open(tmp_path / "ds").titles() == dataset.titles()


def test_what_cannot_be_added_is_one_line_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "ds"
    first = write(tmp_path / "1.parquet", [(u, i, t) for u in "ab" for t, i in enumerate("xyz")])
    more = write(tmp_path / "2.parquet", [(u, i, 5) for u in "abcd" for i in "xyz"])
    numbers = tmp_path / "3.parquet"
    pq.write_table(pa.table({"user_id": [1], "item_id": ["x"], "timestamp": [1]}), numbers)
    with pytest.raises(ArtefactError, match="no such dataset"):
        prepare_dataset([more], None, out, PrepareConfig(), append=True)
    prepare_dataset([first], None, out, KEEP.model_copy(update={"keep_rows": False}))
    with pytest.raises(ArtefactError, match=r"kept no rows to add to; .* prepare\.keep_rows=true"):
        prepare_dataset([more], None, out, PrepareConfig(), append=True)
    whole = prepare_dataset([first], None, out, KEEP.model_copy(update={"max_sequence": 5}))
    for logs, asked, engine, error, says in [
        (more, PrepareConfig(k_core=3), EngineChoice(), ConfigError, r"prepare\.k_core: 3 was asked .* with 2"),
        (more, PrepareConfig(), EngineChoice("spark"), ConfigError, "runs on DuckDB"),
        (first, PrepareConfig(), EngineChoice(), DataError, r"1\.parquet: is in .* already"),
        (numbers, PrepareConfig(), EngineChoice(), DataError, "column 'user_id' holds integers, but the ids of"),
        (
            more,
            PrepareConfig(),
            EngineChoice(),
            DataError,
            "2 users of the dataset, such as 'a', do not pass the filters",
        ),
    ]:
        with pytest.raises(error, match=says):
            prepare_dataset([logs], None, out, asked, engine, append=True)
        assert artefact.read(out, "dataset") == whole
        assert {path.name for path in tmp_path.iterdir()} == {"1.parquet", "2.parquet", "3.parquet", "ds"}

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("intrr_rec.data.prepare.prepare.write_rows_as_read", full)
    with pytest.raises(PlaceError, match=r"the disk is full \(No space left on device\); free some space"):
        prepare_dataset([write(tmp_path / "4.parquet", [("c", "x", 5)])], None, out, PrepareConfig(), append=True)
    assert artefact.read(out, "dataset") == whole


def test_published_semantic_ids_stay_and_newcomers_get_theirs(tmp_path: Path) -> None:
    logs = [write(tmp_path / f"{n}.parquet", day) for n, day in enumerate(days(1, number=2))]
    rng = random.Random(0)
    names = [f"i{n:02d}" for n in range(14)]
    vectors = pa.table({"item_id": names, "embedding": [[rng.random() for _ in range(4)] for _ in names]})
    pq.write_table(vectors, tmp_path / "vectors.parquet")
    first = tmp_path / "1st"
    prepare_dataset(logs[:1], None, tmp_path / "ds", KEEP)
    build_semantic_ids(
        tmp_path / "ds", tmp_path / "vectors.parquet", first, IndexConfig(levels=2, codes=4, dedup_codes=8)
    )
    prepare_dataset(logs[1:], None, tmp_path / "ds", PrepareConfig(), append=True)
    extend_semantic_ids(first, tmp_path / "ds", tmp_path / "vectors.parquet", tmp_path / "2nd", IndexConfig())
    old, new = SemanticIds.open(first), SemanticIds.open(tmp_path / "2nd")
    assert new.n_items > old.n_items
    assert (new.codes_IL[: old.n_items] == old.codes_IL).all()
    assert new.item_ids[: old.n_items] == old.item_ids
