"""Odd values and names in logs, by every verb that reads events: read for what they are, or refused in one line; never something else."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import DataError
from tests.data.raw.test_reader_matrix import COLUMNS, EVENTS, WAYS, Rows, delimited, lay, lines, parquet

VERBS = [way for way in WAYS if way != "prepare --items"]
HEADER = ",".join(COLUMNS) + "\n"


def times(said: Callable[[dt.datetime], str]) -> bytes:
    """The events with their times as text."""
    return delimited([(u, i, said(dt.datetime.fromtimestamp(t, dt.timezone.utc))) for u, i, t in EVENTS])


def one(column: int, value: Any, row: int = 3) -> Rows:
    """The events with one value changed; rows count from 0."""
    return [tuple(value if (n, c) == (row, column) else v for c, v in enumerate(e)) for n, e in enumerate(EVENTS)]


def typed(**columns: pa.Array) -> bytes:
    known = {name: pa.array([event[n] for event in EVENTS]) for n, name in enumerate(COLUMNS)}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(known | columns), sink)
    return sink.getvalue().to_pybytes()


def twin(first: str, second: str) -> bytes:
    """Parquet with a column of zeros whose name differs from another in capitals only."""
    arrays = {"user_id": [e[0] for e in EVENTS], "timestamp": [e[2] for e in EVENTS], first: [0] * len(EVENTS)}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays | {second: [e[1] for e in EVENTS]}), sink)
    return sink.getvalue().to_pybytes()


READ: dict[str, tuple[str, bytes]] = {
    "zones": (
        "x.csv",
        times(lambda t: t.astimezone(dt.timezone(dt.timedelta(hours=t.second % 9 - 4))).isoformat()),
    ),
    "Z": ("x.csv", times(lambda t: t.strftime("%Y-%m-%dT%H:%M:%SZ"))),
    "no zone": ("x.csv", times(lambda t: t.strftime("%Y-%m-%d %H:%M:%S"))),
    "zone by name": ("x.csv", times(lambda t: t.strftime("%Y-%m-%d %H:%M:%S UTC"))),
    "dates in JSON": (
        "x.jsonl",
        lines([(u, i, dt.datetime.fromtimestamp(t, dt.timezone.utc).isoformat()) for u, i, t in EVENTS]),  # type: ignore[misc]
    ),
    "per cent and quotes in a path": ('100% it\'s %20 "x" %s.csv', delimited(EVENTS)),
    "semicolon in a path": ("a;drop.parquet", parquet(EVENTS)),
    "line end in a path": ("a\nb.csv", delimited(EVENTS)),
    "no line end at the end": ("x.csv", delimited(EVENTS).rstrip(b"\n")),
    "line ends of old Macs": ("x.csv", delimited(EVENTS).replace(b"\n", b"\r")),
    "blank lines in JSON": ("x.jsonl", lines(EVENTS[:9]) + b"\n\n" + lines(EVENTS[9:])),
    "dictionaries": ("x.parquet", typed(sku=pa.array([e[1] for e in EVENTS]).dictionary_encode())),
    "large strings": ("x.parquet", typed(user_id=pa.array([str(e[0]) for e in EVENTS], pa.large_string()))),
}
UTF16 = delimited(EVENTS).decode()
REFUSED: dict[str, tuple[str, bytes, str]] = {
    "UTF-16": ("x.csv", UTF16.encode("utf-16"), "save it as UTF-8"),
    "UTF-16, no mark": ("x.csv", UTF16.encode("utf-16-le"), "save it as UTF-8"),
    "UTF-16, JSON": ("x.jsonl", lines(EVENTS).decode().encode("utf-16"), "read as json .*save it as UTF-8"),
    "Latin-1": ("x.csv", delimited(one(1, "é")).decode().encode("latin-1"), "save it as UTF-8"),
    "a column twice": ("x.csv", delimited([(*e, 1) for e in EVENTS], header=(*COLUMNS, "sku")), "'sku' stands twice"),
    "twins": ("x.csv", delimited([(*e, 1) for e in EVENTS], header=(*COLUMNS, "SKU")), "'sku' and 'SKU' differ in cap"),
    "twins, Parquet": ("x.parquet", twin("SKU", "sku"), "'sku' and 'SKU' differ in capitals only"),
    "twins, Parquet, the other first": ("x.parquet", twin("sku", "SKU"), "'sku' and 'SKU' differ in capitals only"),
    "twins, JSON": ("x.jsonl", lines(EVENTS).replace(b'"sku"', b'"SKU": 0, "sku"'), "'sku' and 'SKU' differ in cap"),
    "a key twice": ("x.jsonl", lines(EVENTS).replace(b'"sku"', b'"sku": 0, "sku"'), "x.jsonl: cannot be read"),
    "no id": ("x.csv", delimited(one(0, "")), "row 4: the id is missing"),
    "blank id": ("x.csv", delimited(one(0, "  ")), "row 4: the id is missing"),
    "blank id, quoted": ("x.csv", delimited(one(1, '" "')), "row 4: the id is missing"),
    "null, JSON": ("x.jsonl", lines(one(1, None)), "row 4: the id is missing"),
    "NaN, JSON": ("x.jsonl", lines(one(1, float("nan"))), "'sku', row 4: 'NaN' looks like a missing id"),
    "null, Parquet": ("x.parquet", parquet(one(1, None)), "row 4: the id is missing"),
    **{
        f"the word {word}": ("x.csv", delimited(one(1, word)), "row 4: .* looks like a missing id")
        for word in ("nan", "NaN", "NULL", "None", "<NA>", "\\N", "NaT")
    },
    "the word nan, Parquet": (
        "x.parquet",
        typed(user_id=pa.array(["nan" if n == 3 else f"u{e[0]}" for n, e in enumerate(EVENTS)])),
        "row 4: 'nan' looks like a missing id|are integers",
    ),
    "blanks around an id": ("x.csv", delimited(one(1, " 3")), "row 4: ' 3' has blanks around it"),
    "hard blanks around an id": ("x.csv", delimited(one(1, "3\xa0")), "row 4: '3.xa0' has blanks around it"),
    "truth for an id": ("x.parquet", typed(sku=pa.array([e[1] > 3 for e in EVENTS])), "'sku' has type BOOLEAN"),
    "truth for a time": ("x.parquet", typed(timestamp=pa.array([True] * 64)), "'timestamp' has type BOOLEAN"),
    "floats for ids": ("x.parquet", typed(sku=pa.array([float(e[1]) for e in EVENTS])), "'sku' has type DOUBLE"),
    "lists for ids": ("x.parquet", typed(sku=pa.array([[e[1]] for e in EVENTS])), r"'sku' has type BIGINT\[\]"),
    "numbers and text, JSON": ("x.jsonl", lines(one(1, "3")), "'sku', row 4"),
    "beyond int64": ("x.parquet", typed(sku=pa.array([2**63 + e[1] for e in EVENTS], pa.uint64())), "64-bit integer"),
    "time of day": ("x.parquet", typed(timestamp=pa.array([1] * 64, pa.time64("us"))), "'timestamp' has type TIME"),
    "NaN for a time": ("x.parquet", typed(timestamp=pa.array([float("nan"), *[1.0] * 63])), "row 1: nan is not"),
    "infinity": ("x.csv", delimited(one(2, "infinity")), "row 4: 'infinity' is not"),
    "scientific notation": ("x.csv", delimited(one(2, "1.7e+09")), "row 4: '1.7e.09' .* leaves out digits"),
    "before 1970": ("x.parquet", typed(timestamp=pa.array([-5] * 64, pa.timestamp("ms"))), "row 1: '1969-12-31 23:59"),
    "after the calendar": (
        "x.parquet",
        typed(timestamp=pa.array([253_402_300_800_000_000] * 64, pa.timestamp("us"))),
        "row 1: lies after the year 9999; correct the row",
    ),
    "negative time": ("x.csv", delimited(one(2, -5)), "row 4: '-5' is not a timestamp"),
    "decimal comma": ("x.csv", delimited([(u, i, f"{t},5") for u, i, t in EVENTS], ";"), "row 1: '.*,5' is not"),  # type: ignore[misc]
    "no such day": ("x.csv", delimited(one(2, "2023-02-30")), "row 4: '2023-02-30' is not"),
    "days first": ("x.csv", times(lambda t: t.strftime("%d/%m/%Y")), "is not a timestamp"),
    "dates as numbers": ("x.csv", times(lambda t: t.strftime("%Y%m%d")), r"looks like the date \d{4}-\d\d-\d\d"),
    "dates and hours as numbers": ("x.csv", times(lambda t: t.strftime("%Y%m%d%H")), "the date 2023-11-14 22:00:00"),
    "dates and minutes as numbers": (
        "x.csv",
        times(lambda t: t.strftime("%Y%m%d%H%M")),
        "row 1: 202311142213 looks like the date 2023-11-14 22:13:00, as all values do",
    ),
    "dates and seconds as numbers": (
        "x.csv",
        times(lambda t: t.strftime("%Y%m%d%H%M%S")),
        "row 1: 20231114221320 looks like the date 2023-11-14 22:13:20",
    ),
    "milliseconds and dates": (
        "x.csv",
        delimited([(u, i, 1000 * t if u % 2 else "2023-11-14") for u, i, t in EVENTS]),
        r"numbers that are not seconds \(row 9\) and dates \(row 1\)",
    ),
    "dates as integers": (
        "x.parquet",
        typed(timestamp=pa.array([20231114] * 64)),
        "row 1: 20231114 looks like the date 2023-11-14.*time_unit=s",
    ),
    "nothing": ("x.csv", b"", "is empty"),
    "header only": ("x.csv", HEADER.encode(), "holds no rows"),
    "a field short": ("x.csv", delimited(EVENTS) + b"1,2\n", "x.csv: cannot be read as csv"),
    "a field long": ("x.csv", delimited(EVENTS) + b"1,2,3,4\n", "x.csv: cannot be read as csv"),
    "header once more": ("x.csv", delimited(EVENTS[:9]) + delimited(EVENTS[9:]), "row 10"),
    "open quote": ("x.csv", delimited(one(1, '"3')), "x.csv: "),
    "Parquet called csv": ("x.csv", parquet(EVENTS), "x.csv: cannot be read as csv"),
    "csv called Parquet": ("x.parquet", delimited(EVENTS), "x.parquet: cannot be read as parquet"),
    "csv called JSON": ("x.jsonl", delimited(EVENTS), "x.jsonl: cannot be read as json"),
    "broken line, JSON": ("x.jsonl", lines(EVENTS[:9]) + b"{oops\n" + lines(EVENTS[9:]), "line 10"),
}


@pytest.mark.parametrize("way", VERBS)
@pytest.mark.parametrize("oddity", READ)
def test_it_is_read_for_what_it_is(tmp_path: Path, way: str, oddity: str) -> None:
    name, data = READ[oddity]
    lay(tmp_path / "in", {name: data})
    (tmp_path / "out").mkdir()
    WAYS[way](tmp_path / "in" / name, tmp_path / "out", {"id_type": "string"} if oddity == "large strings" else {})


@pytest.mark.parametrize("way", VERBS)
@pytest.mark.parametrize("oddity", REFUSED)
def test_it_is_refused_by_name(tmp_path: Path, way: str, oddity: str) -> None:
    name, data, says = REFUSED[oddity]
    lay(tmp_path / "in", {name: data})
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=says) as error:
        WAYS[way](tmp_path / "in" / name, tmp_path / "out", {})
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("linked", ["folder", "inside", "loop"])
@pytest.mark.parametrize("way", VERBS)
def test_links_are_followed_once(tmp_path: Path, way: str, linked: str) -> None:
    lay(tmp_path / "in", {"d/x.csv": delimited(EVENTS)})
    (tmp_path / "out").mkdir()
    (tmp_path / "f").mkdir()
    places = {"folder": tmp_path / "l", "inside": tmp_path / "f" / "l", "loop": tmp_path / "in" / "d" / "l"}
    places[linked].symlink_to(tmp_path / "in" / "d")
    named = {"folder": tmp_path / "l", "inside": tmp_path / "f", "loop": tmp_path / "in" / "d"}[linked]
    WAYS[way](named, tmp_path / "out", {})


def ids_of(folder: Path, rows: Sequence[tuple[Any, ...]], **settings: Any) -> list[int | str]:
    lay(folder, {"x.csv": delimited(rows)})
    config = PrepareConfig(item_column="sku", k_core=1, **settings)
    prepare_dataset([folder / "x.csv"], None, folder / "ds", config)
    return Dataset.open(folder / "ds").item_ids().to_pylist()


def test_ids_are_text_as_written_once_one_is_no_plain_number(tmp_path: Path) -> None:
    numbers = [str(n) for n in range(8)]
    assert ids_of(tmp_path / "zeros", [(u, f"00{i}", t) for u, i, t in EVENTS]) == [f"00{n}" for n in numbers]
    assert set(ids_of(tmp_path / "minus", one(1, "-0"))) == {"-0", *numbers}
    assert set(ids_of(tmp_path / "nan", one(1, "nan"), id_type="string")) == {"nan", *numbers}
    assert set(ids_of(tmp_path / "padded", one(1, " 3"), id_type="string")) == {" 3", *numbers}
