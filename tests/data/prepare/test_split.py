"""The split at two moments against a list comprehension: who is learnt from, whose target is which event, what nobody may see."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.config import PrepareConfig, load_recipe
from intrr_rec.data.dataset import STATISTICS, Dataset
from intrr_rec.data.loading.windows import training_windows
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.data.validate.validate import examine
from intrr_rec.errors import ConfigError, DataError

Event = tuple[int, int, int]


def prepared(folder: Path, events: list[Event], **given: Any) -> Dataset:
    columns = dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*events, strict=True)), strict=True))
    pq.write_table(pa.table(columns), folder / "x.parquet")
    config = PrepareConfig(k_core=1, split="global_time", **given)
    prepare_dataset([folder / "x.parquet"], None, folder / "ds", config)
    return Dataset.open(folder / "ds")


def naive(events: list[Event], first: int, second: int) -> dict[str, dict[int, tuple[list[int], list[int]]]]:
    """Part → user → items that the part may see, and those it is asked for; users with none of either left out."""
    histories = defaultdict(list)
    for user, item, time in sorted(events, key=lambda event: event[2]):
        histories[user].append((item, time))
    parts: dict[str, dict[int, tuple[list[int], list[int]]]] = {"train": {}, "valid": {}, "test": {}}
    for user, own in histories.items():
        if len(own) < 3:
            continue
        early, late = [i for i, t in own if t < first], [i for i, t in own if t >= second]
        middle = [i for i, t in own if first <= t < second]
        for part, seen, asked in (
            ("train", early[:1], early[1:]),
            ("valid", early, middle[:1]),
            ("test", early + middle, late[:1]),
        ):
            if seen and asked:
                parts[part][user] = (seen, asked)
    return parts


def told(dataset: Dataset) -> dict[str, dict[int, tuple[list[int], list[int]]]]:
    """The same, by the windows and targets of a dataset."""
    users, items = dataset.user_ids().to_pylist(), dataset.item_ids().to_numpy()[dataset.items_E]
    windows = training_windows(dataset.offsets, 10**6, dataset.held_out("train"))
    parts: dict[str, dict[int, tuple[list[int], list[int]]]] = {"train": {}}
    for user, start, length in zip(windows.user_M, windows.start_M, windows.length_M, strict=True):
        own = items[start : start + length + 1].tolist()
        parts["train"][users[user]] = (own[:1], own[1:])
    for part in ("valid", "test"):
        found = zip(*dataset.targets(part), strict=True)
        parts[part] = {users[u]: (items[dataset.offsets[u] : e].tolist(), [items[e]]) for u, e in found}
    return parts


event = st.tuples(st.integers(0, 6), st.integers(0, 9), st.integers(0, 40))


@settings(max_examples=20, deadline=None)
@given(st.lists(event, min_size=20, max_size=120), st.none() | st.tuples(st.integers(1, 25), st.integers(1, 15)))
def test_parts_and_targets_are_the_naive_ones(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event], given_moments: tuple[int, int] | None
) -> None:
    folder = tmp_path_factory.mktemp("split")
    lengths = np.bincount([user for user, *_ in events], minlength=7)
    times = sorted(time for user, _, time in events if lengths[user] >= 3)
    moments = given_moments and (given_moments[0], sum(given_moments))
    first, second = moments or (times[len(times) * 8 // 10], times[len(times) * 9 // 10])
    expected = naive(events, first, second)
    if first == second or not all(expected.values()):
        with pytest.raises(DataError, match=r"split=global_time: .* prepare\.split_at"):
            prepared(folder, events, split_at=moments)
        return
    dataset = prepared(folder, events, split_at=moments)
    assert dataset.moments == (first, second)
    assert told(dataset) == expected
    split = json.loads((folder / "ds" / STATISTICS).read_text())["split"]
    assert split["users"] == {part: len(found) for part, found in expected.items()}
    parts = [sum(t < first for t in times), sum(first <= t < second for t in times), sum(t >= second for t in times)]
    assert split["interactions"] == dict(zip(("train", "valid", "test"), parts, strict=True))
    counts = np.bincount(dataset.items_E[dataset.timestamps_E < first], minlength=dataset.n_items)
    assert dataset.popularity().tolist() == counts.tolist()


def test_the_place_of_a_time_is_found_in_the_widest_range(tmp_path: Path) -> None:
    """Times from 0 to the last second of the year 9999."""
    last = 253_402_300_799
    times = [0, last - 3, last - 2, last - 1, last] * 2
    events = [(n % 2, n, time) for n, time in enumerate(sorted(times))]
    with pytest.raises(DataError, match="one moment, 9999-12-31T23:59:59Z"):
        prepared(tmp_path, events, time_unit="s")
    assert prepared(tmp_path, [*events, (0, 9, 5), (1, 9, 6)], time_unit="s").moments == (last - 1, last)


@pytest.mark.parametrize(
    ("given_moments", "says"),
    [
        ((-5, 3), "no user has two interactions before 1969-12-31T23:59:55Z to learn from"),
        (
            (12, 13),
            "no user has one before 1970-01-01T00:00:12Z and one from then to 1970-01-01T00:00:13Z, for validation",
        ),
        ((3, 2**32), "no user has one before 2106-02-07T06:28:16Z and one from then on, for testing"),
    ],
)
def test_an_empty_part_is_one_line(tmp_path: Path, given_moments: tuple[int, int], says: str) -> None:
    events = [(user, item, item) for user in range(3) for item in range(6)]
    with pytest.raises(DataError, match=says):
        prepared(tmp_path, events, split_at=given_moments)
    assert not (tmp_path / "ds").exists()


@pytest.mark.parametrize(
    "words",
    [
        "[2024-03-01, 2024-03-02T10:00:00]",
        "['2024-03-01T01:00:00+01:00', 2024-03-02T10:00:00Z]",
        "[1709251200, 1709373600]",
    ],
)
def test_moments_may_be_dates_or_seconds(words: str) -> None:
    config = load_recipe(None, ["prepare.split=global_time", f"prepare.split_at={words}"]).prepare
    assert config.split_at == (1_709_251_200, 1_709_373_600)
    assert PrepareConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prepare.split_at=[1, 2]"], "split_at needs split=global_time"),
        (["prepare.split=global_time", "prepare.split_at=[2, 2]"], "validation must begin before the test does"),
        (["prepare.split=global_time", "prepare.split_at=[soon, 2]"], "prepare.split_at"),
        (["prepare.split=global_time", "prepare.time_column=null"], "needs times, but time_column is null"),
    ],
)
def test_moments_that_are_none_are_refused(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_recipe(None, words)


def test_validate_tells_the_parts_and_what_leaks_and_what_is_tied(tmp_path: Path) -> None:
    """Five users; the last item is new, one target was seen before, one shares its time with the next event."""
    rows = [(user, item, 10 * item + user) for user in range(5) for item in range(1, 7)]
    rows += [(0, 1, 65), (1, 8, 66), (2, 9, 67), (2, 3, 67)]
    columns = dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    config = PrepareConfig(k_core=1, split="global_time", split_at=(50, 65))
    found = {check: [] for check in ("split", "leakage", "ties")}
    for finding in examine("logs", [tmp_path / "x.parquet"], None, config).findings:
        found.setdefault(finding.check, []).append((finding.severity, finding.says))
    severity, says = found["split"][0]
    assert severity == "warning" and "5 users are learnt from, before 1970-01-01T00:00:50Z (20 interactions)" in says
    assert "5 users have a validation target, before 1970-01-01T00:01:05Z (10 interactions)" in says
    assert "3 users a test target after it (4 interactions)" in says
    assert found["split"][1][1].startswith("2 interactions have the very time of a moment and count as after it; 1 are")
    assert found["split"][2] == (
        "warning",
        "2 of 3 test targets (66.7%) are items that nobody had before 1970-01-01T00:00:50Z",
    )
    assert found["ties"] == [
        ("warning", "the first two interactions of the test part of 1 of 3 users (33.3%) have the same time")
    ]
    assert found["leakage"][0][1].startswith("1 of 3 test targets (33.3%) are items the user had before")
    assert found["leakage"][-1] == (
        "fine",
        "global_time: 0% of the training interactions happened after a user's test target, on average",
    )
    empty = examine("logs", [tmp_path / "x.parquet"], None, config.model_copy(update={"split_at": (50, 5_000)}))
    assert any(f.check == "split" and f.severity == "error" and "for testing" in f.says for f in empty.findings)
