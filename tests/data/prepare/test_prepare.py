"""Raw logs → dataset: formats, order, k-core and numbering against oracles; every complaint; nothing half-written."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare import writer as writing
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ArtefactError, DataError
from intrr_rec.io import artefact

Event = tuple[Any, ...]
KEEP_ALL = PrepareConfig(k_core=1)
# Users in neither sorted nor grouped order, equal timestamps, a repeated (user, item).
EVENTS = [
    *[(7, 30, 100), (2, 10, 50), (7, 10, 100), (2, 30, 40), (7, 30, 90)],
    *[(2, 20, 50), (7, 20, 100), (2, 10, 50), (10, 10, 1), (10, 20, 2), (10, 10, 3)],
]
COLUMNS = ("user_id", "item_id", "timestamp")


def write(path: Path, events: Sequence[Event], columns: Sequence[str] = COLUMNS) -> Path:
    rows = [dict(zip(columns, event, strict=True)) for event in events]
    if ".parquet" in path.name:
        pq.write_table(pa.table({c: [row[c] for row in rows] for c in columns}), path)
        return path
    if "json" in path.name:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        text = "".join(",".join(map(str, line)) + "\n" for line in [columns, *events])
    path.write_bytes(gzip.compress(text.encode()) if path.name.endswith(".gz") else text.encode())
    return path


def sequences(dataset: Dataset) -> dict:
    """{user id: [(item id, timestamp)]} in the user's own ids."""
    users, items = dataset.user_ids().to_pylist(), dataset.item_ids().to_pylist()
    events = [(items[i], t) for i, t in zip(dataset.items_E, dataset.timestamps_E, strict=True)]
    return {user: events[dataset.offsets[u] : dataset.offsets[u + 1]] for u, user in enumerate(users)}


def oracle(events: Sequence[Event], k: int, min_sequence: int) -> dict:
    """The same preparation, naively."""
    while True:
        users, items = Counter(e[0] for e in events), Counter(e[1] for e in events)
        kept = [e for e in events if users[e[0]] >= max(k, min_sequence) and items[e[1]] >= k]
        if kept == events:
            break
        events = kept
    histories = defaultdict(list)
    for user, item, time in sorted(events, key=lambda e: e[2]):
        histories[user].append((item, time))
    return dict(histories)


def prepared(
    tmp_path: Path, files: Sequence[Path], config: PrepareConfig = KEEP_ALL, items: Path | None = None
) -> Dataset:
    prepare_dataset(files, items, tmp_path / "ds", config)
    return Dataset.open(tmp_path / "ds")


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.csv.gz", "x.jsonl", "x.ndjson.gz", "X.CSV"])
@pytest.mark.parametrize("as_id", [int, lambda n: f"id é,{n}".replace(",", ";")], ids=["integer", "string"])
def test_every_format_gives_the_same_dataset(tmp_path: Path, name: str, as_id: Callable[[int], int | str]) -> None:
    events = [(as_id(u), as_id(i), t) for u, i, t in EVENTS]
    dataset = prepared(tmp_path, [write(tmp_path / name, events)])
    assert sequences(dataset) == oracle(events, 1, 3)
    assert dataset.manifest.counts == {"users": 3, "items": 3, "interactions": len(EVENTS)}


def test_integer_ids_are_numbered_by_value_and_strings_by_bytes(tmp_path: Path) -> None:
    log = write(tmp_path / "x.csv", EVENTS)
    assert prepared(tmp_path, [log]).user_ids().to_pylist() == [2, 7, 10]
    named = write(tmp_path / "y.parquet", [(str(u), "éZa"[i // 10 - 1], t) for u, i, t in EVENTS])
    dataset = prepared(tmp_path, [named])
    assert dataset.user_ids().to_pylist() == ["10", "2", "7"]
    assert dataset.item_ids().to_pylist() == ["Z", "a", "é"]


def test_ids_with_leading_zeros_stay_text(tmp_path: Path) -> None:
    log = write(tmp_path / "x.csv", [(f"00{u}", i, t) for u, i, t in EVENTS])
    dataset = prepared(tmp_path, [log])
    assert dataset.user_ids().to_pylist() == ["0010", "002", "007"]
    assert dataset.item_ids().to_pylist() == [10, 20, 30]


def test_files_are_concatenated_in_the_given_order_and_shards_by_name(tmp_path: Path) -> None:
    same_time = [(u, i, 5) for u, i, _ in EVENTS]
    first = write(tmp_path / "z.csv", same_time[:4])
    second = write(tmp_path / "a.parquet", same_time[4:])
    assert sequences(prepared(tmp_path, [first, second])) == oracle(same_time, 1, 3)
    assert sequences(prepared(tmp_path, [second, first])) == oracle(same_time[4:] + same_time[:4], 1, 3)
    shards = tmp_path / "shards"
    shards.mkdir()
    write(shards / "part-1.parquet", same_time[3:])
    write(shards / "part-0.parquet", same_time[:3])
    (shards / "_SUCCESS").touch()
    (shards / ".part-9.parquet.crc").touch()
    assert sequences(prepared(tmp_path, [shards])) == oracle(same_time, 1, 3)


ids = st.integers(0, 7)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(ids, ids, st.integers(0, 4)), min_size=1, max_size=60), st.integers(1, 4), st.integers(3, 5))
def test_filter_and_order_match_the_naive_preparation(
    tmp_path_factory: pytest.TempPathFactory, events: Sequence[Event], k: int, min_sequence: int
) -> None:
    tmp_path = tmp_path_factory.mktemp("property")
    log, config = write(tmp_path / "x.parquet", events), PrepareConfig(k_core=k, min_sequence=min_sequence)
    expected = oracle(events, k, min_sequence)
    if not expected:
        with pytest.raises(DataError, match=f"leaves none of the {len(events)} interactions"):
            prepared(tmp_path, [log], config)
        return
    dataset = prepared(tmp_path, [log], config)
    assert sequences(dataset) == expected
    assert dataset.user_ids().to_pylist() == sorted(expected)
    table = pq.read_table(tmp_path / "ds" / "items.parquet").to_pylist()
    seen = [(item, time) for history in expected.values() for item, time in history]
    assert {row["item_id"]: row["first_seen"] for row in table} == {
        item: min(t for i, t in seen if i == item) for item, _ in seen
    }
    assert [row["item"] for row in table] == list(range(len(table)))
    statistics = json.loads((tmp_path / "ds" / "statistics.json").read_text())
    assert statistics["interactions_read"] == len(events)
    assert statistics["interactions_dropped"] == len(events) - len(seen)


def test_row_groups_are_bounded_whatever_the_engine_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [(u, i % 7, i) for u in range(40) for i in range(3 + u % 5)]
    log = write(tmp_path / "x.parquet", events)
    monkeypatch.setattr(writing, "ROW_GROUP_EVENTS", 16)
    monkeypatch.setattr(writing, "ROW_GROUP_ROWS", 6)
    assert sequences(prepared(tmp_path, [log])) == oracle(events, 1, 3)
    file = pq.ParquetFile(tmp_path / "ds" / "sequences" / "part-00000.parquet")
    sizes = [sum(map(len, file.read_row_group(n)["items"].to_pylist())) for n in range(file.num_row_groups)]
    assert all(16 <= size < 16 + 7 for size in sizes[:-1]) and len(sizes) > 5
    items = pq.ParquetFile(tmp_path / "ds" / "items.parquet")
    assert [items.metadata.row_group(n).num_rows for n in range(items.num_row_groups)] == [6, 1]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    log = write(tmp_path / "x.csv", EVENTS)
    one = prepare_dataset([log], None, tmp_path / "one", KEEP_ALL)
    two = prepare_dataset([log.rename(tmp_path / "y.csv")], None, tmp_path / "two", KEEP_ALL)
    assert one == two and one.content_hash == two.content_hash
    other = prepare_dataset([write(tmp_path / "z.csv", [*EVENTS[:-1], (10, 10, 9)])], None, tmp_path / "3", KEEP_ALL)
    assert other.content_hash != one.content_hash


def test_columns_are_found_by_the_configured_names_and_others_ignored(tmp_path: Path) -> None:
    log = write(tmp_path / "x.csv", [("?", *e) for e in EVENTS], columns=("user_id", "who", 'the "item"', "at"))
    config = PrepareConfig(k_core=1, user_column="who", item_column='the "item"', time_column="at")
    assert sequences(prepared(tmp_path, [log], config)) == oracle(EVENTS, 1, 3)


@pytest.mark.parametrize(
    "given_times, seconds",
    [
        (["2020-01-01", "2020-01-01T00:00:10Z", "2020-01-01 02:00:20+02:00"], [1577836800, 1577836810, 1577836820]),
        (["5", "6.0", "7"], [5, 6, 7]),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_timestamps_may_be_iso_text(
    tmp_path: Path, name: str, given_times: list[str], seconds: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    log = write(tmp_path / name, [("u", f"i{n}", t) for n, t in enumerate(given_times)])
    assert prepared(tmp_path, [log]).timestamps_E.tolist() == seconds


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_timestamps_may_be_arrow_timestamps_or_whole_floats(tmp_path: Path, unit: str) -> None:
    ids_ = {"user_id": [1, 1, 1], "item_id": [1, 2, 3]}
    for column in (pa.array([5, 6, 7], pa.timestamp("s")).cast(pa.timestamp(unit, "UTC")), pa.array([5.0, 6.0, 7.0])):
        pq.write_table(pa.table({**ids_, "timestamp": column}), tmp_path / "x.parquet")
        assert prepared(tmp_path, [tmp_path / "x.parquet"]).timestamps_E.tolist() == [5, 6, 7]


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.jsonl.gz"])
def test_without_a_time_column_the_order_of_rows_is_the_order(tmp_path: Path, name: str) -> None:
    halves = [EVENTS[:6], EVENTS[6:]]
    logs = [write(tmp_path / f"{n}{name}", [e[:2] for e in half], COLUMNS[:2]) for n, half in enumerate(halves)]
    dataset = prepared(tmp_path, logs, PrepareConfig(k_core=1, time_column=None))
    assert not dataset.has_times and dataset.timestamps_E is None
    users, items = dataset.user_ids().to_pylist(), dataset.item_ids().to_pylist()
    assert {
        user: [items[i] for i in dataset.items_E[dataset.offsets[u] : dataset.offsets[u + 1]]]
        for u, user in enumerate(users)
    } == {user: [i for u, i, _ in EVENTS if u == user] for user in (2, 7, 10)}
    assert json.loads((tmp_path / "ds" / "statistics.json").read_text())["time"] is None
    assert dataset.manifest.config["time_column"] is None
    assert pq.read_table(tmp_path / "ds" / "items.parquet")["first_seen"].null_count == dataset.n_items


GOOD = "user_id,item_id,timestamp\n1,1,1\n1,2,2\n1,3,3\n"
BROKEN = {
    "no such file": ({}, r"nope\.csv: no such file"),
    "extension": ({"x.xlsx": GOOD}, r"x\.xlsx: unknown extension; raw tables are \.parquet, \.pq, \.csv"),
    "empty": ({"x.csv": ""}, r"x\.csv: is empty"),
    "header only": ({"x.csv": "user_id,item_id,timestamp\n"}, r"x\.csv: holds no rows"),
    "missing column": (
        {"x.csv": GOOD.replace("user_id", "userid")},
        r"x\.csv: no column 'user_id'; it has userid, item_id, timestamp; did you mean 'userid'\? Then set prepare\.user",
    ),
    "missing time": (
        {"x.csv": GOOD.replace("timestamp", "time")},
        r"no column 'timestamp'; .*prepare\.time_column=time; if the rows stand in order of time, prepare\.time_column=null takes",
    ),
    "missing key": ({"x.jsonl": '{"user_id":1,"item":2,"timestamp":3}\n'}, r"no column 'item_id'; .* mean 'item'"),
    "column twice": ({"x.csv": "a,user_id,a\n"}, r"column 'a' stands twice"),
    "null id": ({"x.csv": GOOD + ",2,3\n"}, r"x\.csv: column 'user_id', row 4: the id is missing"),
    "null json id": (
        {"x.jsonl": '{"user_id":1,"item_id":1,"timestamp":1}\n{"user_id":1,"timestamp":1}\n'},
        r"column 'item_id', row 2: the id is missing",
    ),
    "null time": ({"x.csv": GOOD + "1,2,\n"}, r"column 'timestamp', row 4: the timestamp is missing"),
    "negative time": ({"x.csv": GOOD + "1,2,-5\n"}, r"column 'timestamp', row 4: '-5' is not a timestamp"),
    "two points": ({"x.csv": GOOD + "1,2,1.5.5\n"}, r"column 'timestamp', row 4: '1\.5\.5' is not a timestamp"),
    "no date": ({"x.csv": GOOD + "1,2,2020-13-01\n"}, r"column 'timestamp', row 4: '2020-13-01' is not"),
    "huge time": ({"x.csv": GOOD + "1,2,99999999999999999999\n"}, r"row 4: '99999999999999999999' is not"),
    "earliest row first": ({"x.csv": GOOD + "1,2,x\n,2,3\n"}, r"column 'timestamp', row 4"),
    "mixed json ids": (
        {"x.jsonl": '{"user_id":1,"item_id":"a","timestamp":1}\n{"user_id":1,"item_id":7,"timestamp":1}\n'},
        r"column 'item_id', row 2: '7' is not a string like the other ids",
    ),
    "typed files differ": (
        {"x.jsonl": '{"user_id":1,"item_id":1,"timestamp":1}\n', "y.json": '{"user_id":"1","item_id":1,"timestamp":1}'},
        r"column 'user_id': ids are integers in .*x\.jsonl but strings in .*; write both the same way, or prepare\.id_type=string",
    ),
    "csv against typed": (
        {"x.jsonl": '{"user_id":1,"item_id":1,"timestamp":1}\n', "y.csv": GOOD + "u,1,1\n"},
        r"y\.csv: column 'user_id', row 4: 'u' is not a 64-bit integer",
    ),
    "float id": ({"x.json": '{"user_id":1.5,"item_id":1,"timestamp":1}'}, r"column 'user_id', row 1 has type DOUBLE"),
    "short row": ({"x.csv": GOOD + "1,2\n"}, r"x\.csv: cannot be read as csv \(.*Line: 5.*Columns: 3 Found: 2"),
    "open quote": ({"x.csv": GOOD + '1,"2,3\n'}, r"x\.csv: cannot be read as csv \(.*Line: 5.*quote"),
    "bad json": (
        {"x.jsonl": '{"user_id":1}\n\n{"user_id":\n{}\n'},
        r"x\.jsonl: cannot be read as json \(line 3, column 13: Expecting",
    ),
    "no parquet": ({"x.parquet": GOOD}, r"x\.parquet: cannot be read as parquet"),
    "all filtered": (
        {"x.csv": GOOD + "2,1,1\n"},
        r"k-core: at least 5 interactions a user, 5 an item\) leaves none of the 4 interactions; lower prepare\.k_core",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_log_is_one_line_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    files, message = BROKEN[case]
    paths = [tmp_path / name for name in files] or [tmp_path / "nope.csv"]
    for path, text in zip(paths, files.values(), strict=False):
        path.write_text(text)
    config = PrepareConfig() if case == "all filtered" else KEEP_ALL
    out = tmp_path / "out" / "ds"
    with pytest.raises(DataError, match=message) as error:
        prepare_dataset(paths, None, out, config)
    assert "\n" not in str(error.value)
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize("name", ["x.parquet", "x.csv.gz", "x.jsonl.gz"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    log = write(tmp_path / name, [(u, i, t) for t in range(300) for u, i, _ in EVENTS])
    log.write_bytes(log.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"{name}: cannot be read as"):
        prepared(tmp_path, [log])


def test_parquet_ids_and_times_of_other_types_are_refused(tmp_path: Path) -> None:
    good = {"user_id": pa.array([1]), "item_id": pa.array(["a"]), "timestamp": pa.array([1])}
    for column, values, message in [
        ("user_id", pa.array([1.0]), "column 'user_id' has type DOUBLE; ids must be"),
        ("item_id", pa.array([True]), "column 'item_id' has type BOOLEAN"),
        ("user_id", pa.array([2**64 - 1], pa.uint64()), "row 1: 18446744073709551615 is not a 64-bit integer"),
        ("item_id", pa.array([None], pa.string()), "column 'item_id', row 1: the id is missing"),
        ("timestamp", pa.array([True]), "column 'timestamp' has type BOOLEAN"),
        ("timestamp", pa.array([float("nan")]), "row 1: nan is not a timestamp"),
        ("timestamp", pa.array([None], pa.timestamp("s")), "row 1: the timestamp is missing"),
    ]:
        pq.write_table(pa.table({**good, column: values}), tmp_path / "x.parquet")
        with pytest.raises(DataError, match=message):
            prepared(tmp_path, [tmp_path / "x.parquet"])


def test_a_file_given_twice_or_an_empty_folder_is_refused(tmp_path: Path) -> None:
    log = write(tmp_path / "x.csv", EVENTS)
    with pytest.raises(DataError, match=r"x\.csv: given twice"):
        prepared(tmp_path, [log, tmp_path / "." / "x.csv"])
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"none: holds no files of a table"):
        prepared(tmp_path, [tmp_path / "none"])


def test_a_failed_rebuild_keeps_the_old_dataset(tmp_path: Path) -> None:
    before = prepare_dataset([write(tmp_path / "x.csv", EVENTS)], None, tmp_path / "ds", KEEP_ALL)
    for broken in (GOOD + ",1,1\n", GOOD.replace("timestamp", "time")):
        (tmp_path / "y.csv").write_text(broken)
        with pytest.raises(DataError):
            prepare_dataset([tmp_path / "y.csv"], None, tmp_path / "ds", KEEP_ALL)
    assert artefact.read(tmp_path / "ds", "dataset") == before
    with pytest.raises(ArtefactError, match="is not a 'dataset' artefact"):
        prepare_dataset([tmp_path / "x.csv"], None, tmp_path, KEEP_ALL)


ITEM_ROWS = [(30, "thirty", 3.5), (10, "ten", None), (99, "unused", 1.0)]


def test_item_table_keeps_free_columns_and_leaves_missing_items_null(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    log = write(tmp_path / "x.csv", EVENTS)
    items = write(tmp_path / "items.parquet", ITEM_ROWS, ("item_id", "title", "price"))
    manifest = prepare_dataset([log], items, tmp_path / "ds", KEEP_ALL)
    assert pq.read_table(tmp_path / "ds" / "items.parquet").to_pylist() == [
        {"item": 0, "item_id": 10, "first_seen": 1, "title": "ten", "price": None},
        {"item": 1, "item_id": 20, "first_seen": 2, "title": None, "price": None},
        {"item": 2, "item_id": 30, "first_seen": 40, "title": "thirty", "price": 3.5},
    ]
    assert "1 items of the logs are not in the item table: their content is null" in caplog.text
    assert "1 items of the item table have no interactions left: dropped" in caplog.text
    assert manifest.parents == {"interactions/0": artefact.file_hash(log), "items/0": artefact.file_hash(items)}


@pytest.mark.parametrize("name", ["items.csv", "items.jsonl.gz", "shards"])
def test_item_table_in_every_format(tmp_path: Path, name: str) -> None:
    log = write(tmp_path / "x.csv", EVENTS)
    path = tmp_path / name
    columns = ("item_id", "title", "day")
    rows = [(i, f"t{i}", "2020-01-01") for i in (10, 20, 30)]
    if name == "shards":
        path.mkdir()
        write(path / "0.parquet", rows[:1], columns)
        write(path / "1.parquet", [(i, t) for i, t, _ in rows[1:]], columns[:2])
    else:
        write(path, rows, columns)
    prepare_dataset([log], path, tmp_path / "ds", KEEP_ALL)
    table = pq.read_table(tmp_path / "ds" / "items.parquet")
    assert table["title"].to_pylist() == ["t10", "t20", "t30"]
    assert table["day"].to_pylist() == ["2020-01-01"] + ["2020-01-01" if name != "shards" else None] * 2


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("i.csv", "item_id,title\n10,a\n20,b\n10,c\n", r"i\.csv: column 'item_id', row 3: item 10 already .* row 1"),
        ("i.csv", "item_id,title\n10,a\n,b\n", r"i\.csv: column 'item_id', row 2: the id is missing"),
        ("i.csv", "asin,title\n10,a\n", r"no column 'item_id'; it has asin, title"),
        ("i.csv", "item_id,First_Seen\n10,a\n", r"column 'First_Seen' would hide one of the dataset's own"),
        ("i.csv", "item_id\n", r"i\.csv: holds no rows"),
        ("i.jsonl", '{"item_id":"10"}\n{"item_id":true}', r"row 2: 'true' is not a string like the other ids"),
        ("i.xlsx", "item_id\n", r"unknown extension"),
    ],
)
def test_a_broken_item_table_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        prepare_dataset([write(tmp_path / "x.csv", EVENTS)], tmp_path / name, tmp_path / "o" / "ds", KEEP_ALL)
    assert not list((tmp_path / "o").iterdir())
