"""Filters against a naive reference; and Spark, which must write the very bytes that DuckDB writes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.config import PrepareConfig, load_recipe
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.engines import DuckDBEngine, EngineChoice
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ConfigError, DataError
from tests.data.prepare.test_prepare import sequences

Event = tuple[Any, Any, int, str]
COLUMNS = ("user_id", "item_id", "timestamp", "kind")
WEIGHTS = {"view": 1, "buy": 4}


def write(path: Path, events: Sequence[Event]) -> Path:
    columns = list(zip(*events, strict=True))
    pq.write_table(pa.table(dict(zip(COLUMNS, map(list, columns), strict=True))), path)
    return path


def configured(**settings: Any) -> PrepareConfig:
    return PrepareConfig(event_column="kind", event_weights=WEIGHTS, **settings)


def naive(events: Sequence[Event], config: PrepareConfig) -> dict[Any, list[tuple[Any, int]]]:
    """The filters one after another over a list."""
    weights = config.event_weights or {}
    left = [event for event in events if event[3] in weights]
    total: Counter[Any] = Counter()
    for user, item, _, kind in left:
        total[user, item] += weights[kind]
    left = sorted((e for e in left if total[e[0], e[1]] >= config.min_weight), key=lambda e: e[2])
    if config.deduplicate != "none":
        first: dict[Any, Event] = {}
        for event in left:
            first.setdefault(event[: 3 if config.deduplicate == "event" else 2], event)
        left = list(first.values())
    lengths = Counter(event[0] for event in left)
    left = [event for event in left if config.max_sequence is None or lengths[event[0]] <= config.max_sequence]
    while True:
        users, items = Counter(e[0] for e in left), Counter(e[1] for e in left)
        fewest = max(config.k_core, config.min_sequence)
        kept = [e for e in left if users[e[0]] >= fewest and items[e[1]] >= config.k_core]
        if kept == left:
            break
        left = kept
    histories = defaultdict(list)
    for user, item, time, _ in left:
        histories[user].append((item, time))
    return dict(histories)


few = st.integers(0, 5)
event = st.tuples(few, few, st.integers(0, 6), st.sampled_from(["view", "view", "buy", "noise"]))
bound = st.one_of(st.none(), st.integers(6, 12))


@settings(max_examples=15, deadline=None)
@given(st.lists(event, min_size=20, max_size=90), st.integers(0, 5), st.sampled_from(["none", "event", "pair"]), bound)
def test_filters_match_the_naive_ones(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event], weight: int, how: Any, longest: int | None
) -> None:
    folder = tmp_path_factory.mktemp("filters")
    config = configured(k_core=2, min_weight=weight, deduplicate=how, max_sequence=longest)
    expected = naive(events, config)
    log = write(folder / "x.parquet", events)
    if not expected:
        with pytest.raises(DataError, match=r"leaves none|no interaction is of a type"):
            prepare_dataset([log], None, folder / "ds", config)
        return
    prepare_dataset([log], None, folder / "ds", config)
    assert sequences(Dataset.open(folder / "ds")) == expected


EVENTS: list[Event] = [(u, i, t, "view") for t, (u, i) in enumerate([(1, 1), (1, 2), (1, 3), (2, 1), (2, 1), (2, 2)])]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (PrepareConfig(event_column="kind", event_weights={"View": 1}, k_core=1), r"'kind'.*\('View'\).*'view' \(6\)"),
        (configured(min_weight=9, k_core=1), "prepare.min_weight=9 leaves none of the 6"),
        (PrepareConfig(max_sequence=3, min_sequence=3, k_core=3), "k-core: at least 3 interactions a user, 3 an item"),
    ],
)
def test_a_filter_that_leaves_nothing_is_named(tmp_path: Path, config: PrepareConfig, says: str) -> None:
    with pytest.raises(DataError, match=says):
        prepare_dataset([write(tmp_path / "x.parquet", EVENTS)], None, tmp_path / "ds", config)


def test_types_of_events_may_be_numbers_and_null_is_none_of_them(tmp_path: Path) -> None:
    rows = {"user_id": [1] * 5, "item_id": [1, 2, 3, 4, 5], "timestamp": [1, 2, 3, 4, 5], "kind": [7, 7, 8, None, 7]}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    config = PrepareConfig(event_column="kind", event_weights={"7": 1}, k_core=1)
    prepare_dataset([tmp_path / "x.parquet"], None, tmp_path / "ds", config)
    assert sequences(Dataset.open(tmp_path / "ds")) == {1: [(1, 1), (2, 2), (5, 5)]}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prepare.event_column=kind"], "event_column and event_weights go together"),
        (["prepare.event_column=kind"], r"prepare.event_weights=\{view: 1, buy: 4\}' or .* or leave event_column out"),
        (["prepare.event_weights={4: 1}"], "name the column of the types by prepare.event_column"),
        (["prepare.min_weight=2"], "min_weight needs event_weights"),
        (["prepare.max_sequence=4"], "no user could stay"),
        (["prepare.event_column=k", "prepare.event_weights={a: 0.5}"], "prepare.event_weights"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(words: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_recipe(None, words)


def test_spark_without_pyspark_names_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyspark", None)
    log = write(tmp_path / "x.parquet", EVENTS)
    with pytest.raises(ConfigError, match=r"pyspark is not installed; .*requirements/spark\.txt"):
        prepare_dataset([log], None, tmp_path / "ds", PrepareConfig(k_core=1), EngineChoice("spark"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_what_stops_a_stream_half_way_is_what_is_told(tmp_path: Path) -> None:
    """A Ctrl-C or a full disk while rows are written, not that the connection is in use."""
    with duckdb.connect() as con:
        con.execute("CREATE TABLE events AS SELECT range AS item FROM range(500000)")
        engine = DuckDBEngine(con)
        stream = engine.batches(engine.events().sort("item"), 1000)
        with pytest.raises(KeyboardInterrupt), closing(engine):
            assert 0 < len(next(stream)) < 500_000
            raise KeyboardInterrupt
        assert con.execute("SELECT count(*) FROM events").fetchone() == (500_000,)
        assert con.execute("SELECT current_setting('preserve_insertion_order')").fetchone() == (True,)
