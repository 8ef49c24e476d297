"""Times at the door: full resolution whatever the type, one unit told by size or by name, and no mixture of units."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.config.logs.time_units import FIRST_OF, LATEST, PER_SECOND, seconds_fault, unit_of
from intrr_rec.data.dataset import STATISTICS, Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.data.validate.validate import examine
from intrr_rec.errors import DataError

NOON = 1_700_000_000
KEEP = PrepareConfig(k_core=1)
MICRO = 10**6
# Events of one second, a tenth of a second (and 7 microseconds) apart: user, item, microseconds since 1970.
EVENTS = [(user, (user + 7 * n) % 30, (NOON + user) * MICRO + n * 100_007) for user in range(12) for n in range(8)]


def moment(micros: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=micros)


def parquet(kind: pa.DataType, scale: Callable[[int], Any]) -> Callable[[Path, list], Path]:
    def write(folder: Path, events: list) -> Path:
        users, items, micros = zip(*events, strict=True)
        table = {"user_id": users, "item_id": items, "timestamp": pa.array([scale(t) for t in micros], kind)}
        pq.write_table(pa.table(table), folder / "x.parquet")
        return folder / "x.parquet"

    return write


def text(name: str, as_text: Callable[[int], Any]) -> Callable[[Path, list], Path]:
    def write(folder: Path, events: list) -> Path:
        with open(folder / name, "w", newline="") as handle:
            rows = [{"user_id": u, "item_id": i, "timestamp": as_text(t)} for u, i, t in events]
            if name.endswith(".csv"):
                table = csv.DictWriter(handle, rows[0])
                table.writeheader()
                table.writerows(rows)
            else:
                handle.writelines(json.dumps(row) + "\n" for row in rows)
        return folder / name

    return write


FORMS: dict[str, Callable[[Path, list], Path]] = {
    "timestamp[us, UTC]": parquet(pa.timestamp("us", "UTC"), moment),
    "timestamp[us]": parquet(pa.timestamp("us"), lambda t: moment(t).replace(tzinfo=None)),
    "timestamp[ns]": parquet(pa.timestamp("ns"), lambda t: 1_000 * t),
    "timestamp[ns, UTC]": parquet(pa.timestamp("ns", "UTC"), lambda t: 1_000 * t),
    "int of microseconds": parquet(pa.int64(), int),
    "int of nanoseconds": parquet(pa.int64(), lambda t: 1_000 * t),
    "uint64 of microseconds": parquet(pa.uint64(), int),
    "float of seconds": parquet(pa.float64(), lambda t: t / MICRO),
    "float of milliseconds": parquet(pa.float64(), lambda t: t / 1_000),
    "decimal of seconds": parquet(pa.decimal128(20, 6), lambda t: __import__("decimal").Decimal(t).scaleb(-6)),
    "ISO text": text("x.csv", lambda t: moment(t).isoformat()),
    "ISO text of another zone": text(
        "x.csv", lambda t: moment(t).astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat(" ")
    ),
    "ISO text of nanoseconds": text("x.csv", lambda t: f"{moment(t):%Y-%m-%dT%H:%M:%S}.{t % MICRO:06d}001Z"),
    "text of seconds": text("x.csv", lambda t: f"{t // MICRO}.{t % MICRO:06d}"),
    "text of milliseconds": text("x.csv", lambda t: f"{t // 1000}.{t % 1000:03d}"),
    "text of microseconds": text("x.csv", str),
    "JSON number of seconds": text("x.jsonl", lambda t: t / MICRO),
    "JSON number of microseconds": text("x.jsonl", int),
    "JSON ISO text": text("x.jsonl", lambda t: moment(t).isoformat()),
}


def prepared(path: Path, out: Path, **settings: Any) -> Dataset:
    prepare_dataset([path], None, out, KEEP.model_copy(update=settings))
    return Dataset.open(out)


@pytest.mark.parametrize("form", FORMS)
def test_shuffled_events_of_one_second_come_back_in_their_order(tmp_path: Path, form: str) -> None:
    shuffled = random.Random(1).sample(EVENTS, len(EVENTS))
    dataset = prepared(FORMS[form](tmp_path, shuffled), tmp_path / "ds")
    items = dataset.item_ids().to_numpy()[dataset.items_E].reshape(12, 8)
    assert items.tolist() == [[(user + 7 * n) % 30 for n in range(8)] for user in range(12)]
    assert dataset.timestamps_E is not None
    assert dataset.timestamps_E.tolist() == [t // MICRO for _, _, t in EVENTS]  # seconds, whatever came in


@pytest.mark.parametrize("form", FORMS)
def test_validate_says_the_truth_about_order_and_ties(tmp_path: Path, form: str) -> None:
    says = {}
    for name, events in (("sorted", EVENTS), ("shuffled", random.Random(1).sample(EVENTS, len(EVENTS)))):
        found = examine("x", [FORMS[form](tmp_path, events)], None, KEEP)
        says[name] = {finding.check: finding.says for finding in found.findings}
    assert says["sorted"]["time order"] == "every user's rows stand in order of time"
    assert says["shuffled"]["time order"].startswith("the rows of 12 of 12 users")
    assert says["sorted"]["ties"].startswith("the last two interactions of 0 of 12 users")


@pytest.mark.parametrize("form", FORMS)
def test_events_of_different_moments_of_a_second_are_no_duplicates(tmp_path: Path, form: str) -> None:
    one_item = [(user, 5, t) for user, _, t in EVENTS]
    path = FORMS[form](tmp_path, one_item + one_item[:3])  # three are
    assert len(prepared(path, tmp_path / "ds", deduplicate="event").items_E) == len(one_item)
    found = examine("x", [path], None, KEEP)
    assert next(f.says for f in found.findings if f.check == "duplicates").startswith("3 of 99")


@pytest.mark.parametrize("unit", PER_SECOND)
def test_the_unit_is_told_by_size_or_by_name(tmp_path: Path, unit: str, caplog: pytest.LogCaptureFixture) -> None:
    write = parquet(pa.int64(), lambda t: t * PER_SECOND[unit] // MICRO)  # type: ignore[index]
    path = write(tmp_path, EVENTS)
    times = [t // MICRO for _, _, t in EVENTS]
    for asked in ("auto", unit):
        caplog.clear()
        dataset = prepared(path, tmp_path / asked, time_unit=asked)
        assert dataset.timestamps_E is not None and dataset.timestamps_E.tolist() == times
        assert json.loads((tmp_path / asked / STATISTICS).read_text())["time_unit"] == unit
        warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert len(warned) == (asked == "auto" and unit != "s"), warned
    other = "ms" if unit == "s" else "s"
    with caplog.at_level("WARNING"):
        try:
            prepared(path, tmp_path / "other", time_unit=other)
            assert "look like" in caplog.text
        except DataError as error:
            assert "lies after the year 9999; is prepare.time_unit right?" in str(error)


REFUSED: dict[str, tuple[Callable[[Path, list], Path], str]] = {
    "seconds and milliseconds": (
        parquet(pa.int64(), lambda t: t // MICRO if t // MICRO % 2 else t // 1_000),
        "holds times of several units: 48 look like",
    ),
    "seconds and milliseconds as text": (
        text("x.csv", lambda t: str(t // MICRO if t // MICRO % 2 else t // 1_000)),
        "holds times of several units: 48 look like",
    ),
    "a zero among milliseconds": (
        parquet(pa.int64(), lambda t: 0 if t == EVENTS[0][2] else t // 1_000),
        "1 look like seconds (row 1: 0); write all",
    ),
    "between the units": (
        parquet(pa.int64(), lambda t: 20_000_000_000),
        "row 1: 20000000000 is no plausible time: 2603-10-11T11:33:20Z in seconds, 1970-08-20T11:33:20Z in milliseconds",
    ),
    "beyond the units": (
        parquet(pa.int64(), lambda t: 9 * 10**18),
        "row 1: 9000000000000000000 is no plausible time",
    ),
    "float32": (
        parquet(pa.float32(), lambda t: float(t // MICRO)),
        "has type float32, whose values near 1700000000 lie 128 apart: the order within 128 seconds is lost",
    ),
    "float32 of milliseconds": (parquet(pa.float32(), lambda t: float(t // 1_000)), "lie 131072 apart"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_put_in_order_is_refused_by_prepare_and_validate(tmp_path: Path, case: str) -> None:
    write, says = REFUSED[case]
    path = write(tmp_path, EVENTS)
    with pytest.raises(DataError) as error:
        prepared(path, tmp_path / "ds")
    assert says in str(error.value) and str(error.value).startswith(f"{path}: column 'timestamp'")
    assert not (tmp_path / "ds").exists()
    found = examine("x", [path], None, KEEP)
    assert str(error.value) in [finding.says for finding in found.of("error")]


def test_a_named_unit_does_not_let_a_mixture_through(tmp_path: Path) -> None:
    path = REFUSED["seconds and milliseconds"][0](tmp_path, EVENTS)
    for unit in ("ms", "s"):
        with pytest.raises(DataError, match=r"several units|after the year 9999"):
            prepared(path, tmp_path / "ds", time_unit=unit)


def test_files_of_different_units_are_refused_and_dates_go_with_any(tmp_path: Path) -> None:
    paths = []
    for name, form in (("a", "int of microseconds"), ("b", "timestamp[ns]"), ("c", "float of seconds")):
        (tmp_path / name).mkdir()
        paths.append(FORMS[form](tmp_path / name, EVENTS))
    prepare_dataset(paths[:2], None, tmp_path / "ds", KEEP)
    with pytest.raises(DataError, match="counts seconds, but the logs before it count microseconds"):
        prepare_dataset(paths, None, tmp_path / "ds", KEEP)
    errors = examine("x", paths, None, KEEP).of("error")
    assert "counts seconds, but the logs before it count microseconds" in errors[0].says


def test_float32_that_loses_nothing_is_read(tmp_path: Path) -> None:
    path = parquet(pa.float32(), lambda t: float(t // MICRO - NOON))(tmp_path, EVENTS)
    times = prepared(path, tmp_path / "ds").timestamps_E
    assert times is not None and times.tolist() == [t // MICRO - NOON for _, _, t in EVENTS]


def test_times_once_held_as_float32_are_told(tmp_path: Path) -> None:
    spread = [(user, n, (NOON + 12_345 * (9 * user + n)) * MICRO) for user in range(20) for n in range(8)]
    path = parquet(pa.int64(), lambda t: t // MICRO // 128 * 128)(tmp_path, spread)
    found = examine("x", [path], None, KEEP)
    assert "every timestamp is a multiple of 128 seconds" in [finding.says for finding in found.of("warning")]


def test_what_is_added_counts_in_the_unit_of_the_dataset(tmp_path: Path) -> None:
    config = KEEP.model_copy(update={"keep_rows": True})
    first, second = ([e for e in EVENTS if e[0] % 2 == odd] for odd in (0, 1))
    prepare_dataset([FORMS["int of microseconds"](tmp_path, first)], None, tmp_path / "ds", config)
    with pytest.raises(DataError, match="counts seconds, but the logs before it count microseconds"):
        prepare_dataset(
            [FORMS["float of seconds"](tmp_path, second)], None, tmp_path / "ds", PrepareConfig(), append=True
        )
    prepare_dataset(
        [FORMS["int of microseconds"](tmp_path, second)], None, tmp_path / "ds", PrepareConfig(), append=True
    )
    dataset = Dataset.open(tmp_path / "ds")
    users = dataset.user_ids().to_pylist()
    items = dataset.item_ids().to_numpy()[dataset.items_E].reshape(12, 8)
    assert {u: row.tolist() for u, row in zip(users, items, strict=True)} == {
        user: [(user + 7 * n) % 30 for n in range(8)] for user in range(12)
    }


def test_unit_of_a_number() -> None:
    assert [unit_of(NOON * per) for per in PER_SECOND.values()] == list(PER_SECOND)
    assert unit_of(0) == "s" and unit_of(LATEST) is None and unit_of(-1) is None
    assert [unit_of(first) for first in FIRST_OF.values()] == list(FIRST_OF)
    assert seconds_fault(NOON) is None and seconds_fault(-5) is None
    assert seconds_fault(1_000 * NOON) == f"{1_000 * NOON} looks like milliseconds; give seconds since 1970: {NOON}"


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_dates_as_text_have_no_unit_however_late(tmp_path: Path, name: str) -> None:
    late = [(user, item, moment(t).replace(year=9999 if item % 2 else 2024)) for user, item, t in EVENTS]
    path = text(name, lambda t: t.isoformat())(tmp_path, late)
    stored = prepared(path, tmp_path / "ds").timestamps_E
    assert stored is not None and sorted(stored.tolist()) == sorted(int(t.timestamp()) for _, _, t in late)
    assert json.loads((tmp_path / "ds" / STATISTICS).read_text())["time_unit"] is None
