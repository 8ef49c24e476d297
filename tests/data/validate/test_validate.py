"""What `intrr validate` finds: one set of sound logs, and each way to spoil it, told by its own finding."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.validate.findings import Examination
from intrr_rec.data.validate.validate import examine

Event = tuple[str, str, int]
KEEP = PrepareConfig(k_core=2)
YEAR_2014 = 1_400_000_000


def sound(seed: int = 0) -> list[Event]:
    """150 users with five to nine different items, a day apart, in an order that has nothing to do with their names."""
    rng = random.Random(seed)
    events = []
    for user in range(150):
        items = rng.sample(range(40), rng.randint(5, 9))
        events += [(f"u{user}", f"i{item:02d}", YEAR_2014 + 86_400 * (user + n)) for n, item in enumerate(items)]
    return events


def found(tmp_path: Path, events: list[Event], items: list[dict] | None = None, **settings: object) -> Examination:
    columns = ("user_id", "item_id", "timestamp")
    pq.write_table(pa.table({c: [e[n] for e in events] for n, c in enumerate(columns)}), tmp_path / "x.parquet")
    table = None
    if items is not None:
        table = tmp_path / "items.parquet"
        pq.write_table(pa.Table.from_pylist(items), table)
    return examine("logs", [tmp_path / "x.parquet"], table, KEEP.model_copy(update=settings))


def told(found: Examination, check: str, severity: str) -> str:
    """All that findings of this kind say."""
    return " | ".join(f.says for f in found.findings if (f.check, f.severity) == (check, severity))


def test_sound_logs_raise_no_complaint(tmp_path: Path) -> None:
    events = sound()
    titles = [{"item_id": f"i{n:02d}", "title": f"t{n}", "text": "words"} for n in range(40)]
    logs = found(tmp_path, events, titles)
    assert [f for f in logs.findings if f.severity != "fine"] == []
    assert {f.check for f in logs.findings} == {
        *("schema", "values", "ids", "duplicates", "repeats", "clock", "time order", "minimum", "heavy users"),
        *("item order", "ties", "leakage", "orphan items", "unused items", "item content"),
    }
    assert logs.raw == logs.kept and logs.raw is not None
    assert (logs.raw.interactions, logs.raw.users, logs.raw.items) == (len(events), 150, 40)
    assert sum(logs.lengths.values()) == 150 and sum(n * users for n, users in logs.lengths.items()) == len(events)
    assert sum(n * items for n, items in logs.popularity.items()) == len(events)
    assert sum(logs.periods.values()) >= 0.98 * len(events)


def sorted_by_item(events: list[Event]) -> list[Event]:
    """As in the copies sorted by ASIN: the times stay where they were."""
    names = sorted((user, item) for user, item, _ in events)
    times = sorted((user, time) for user, _, time in events)
    return [(user, item, time) for (user, item), (_, time) in zip(names, times, strict=True)]


def all_on_one_day(events: list[Event]) -> list[Event]:
    return [(user, item, YEAR_2014 + 86_400 * (time % 2)) for user, item, time in sorted(events)]


def at(index: range, change: Callable[[int], int]) -> Callable[[list[Event]], list[Event]]:
    """Change the times of some rows."""
    return lambda events: [(u, i, change(t) if n in index else t) for n, (u, i, t) in enumerate(events)]


EVERY = range(10**6)
SPOILED: dict[str, tuple[Callable[[list[Event]], list[Event]], str, str, str]] = {
    "sorted by item": (
        sorted_by_item,
        "item order",
        "error",
        "150 of 150 histories of four and more (100.0%) have rising",
    ),
    "sorted by item, downwards": (
        lambda events: [(u, f"i{99 - int(i[1:]):02d}", t) for u, i, t in sorted_by_item(events)],
        "item order",
        "error",
        "have falling",
    ),
    "sorted by item within a day": (
        all_on_one_day,
        "item order",
        "warning",
        "100.0% have rising item ids; by chance 50%",
    ),
    "milliseconds": (at(EVERY, lambda t: 1_000 * t), "clock", "warning", "timestamps look like milliseconds"),
    "nanoseconds": (at(EVERY, lambda t: 10**9 * t), "clock", "warning", "timestamps look like nanoseconds"),
    "some milliseconds": (at(range(7), lambda t: 1_000 * t), "clock", "error", "7 look like milliseconds"),
    "the future": (
        at(range(3), lambda t: 4_000_000_000),
        "clock",
        "warning",
        "3 timestamps lie in the future, the last on 2096",
    ),
    "zeros for missing": (at(range(5), lambda t: 0), "clock", "warning", "5 timestamps (0.5%) lie before 1990"),
    "all equal": (at(EVERY, lambda t: 7), "clock", "warning", "timestamps are 7"),
    "targets tied": (at(EVERY, lambda t: t // 10**7 * 10**7), "ties", "warning", "have the same time"),
    "a log written twice": (
        lambda events: events * 2,
        "duplicates",
        "warning",
        "(50.0%) repeat the user, item and time",
    ),
    "targets seen before": (
        lambda events: [
            (u, dict(reversed([(v, j) for v, j, _ in events]))[u] if n % 2 else i, t)
            for n, (u, i, t) in enumerate(events)
        ],
        "leakage",
        "warning",
        "are items the user had before",
    ),
    "users under two names": (
        lambda events: events + [(f"{u}-again", i, t) for u, i, t in events],
        "leakage",
        "warning",
        "150 users with five and more interactions have exactly the history of another",
    ),
    "names with blanks": (
        lambda events: [(f" {u}" if n % 2 else u.upper(), i, t) for n, (u, i, t) in enumerate(events)],
        "ids",
        "warning",
        "column 'user_id': 300 ids differ from another only in blanks or capitals, 150 have blanks",
    ),
    "mostly strangers": (
        lambda events: events + [(f"s{n}", "i00", YEAR_2014 + n) for n in range(5_000)],
        "minimum",
        "warning",
        "5,000 of 5,150 users",
    ),
    "a robot": (
        lambda events: events + [("robot", f"i{n % 40:02d}", YEAR_2014 + n * 977) for n in range(500)],
        "heavy users",
        "warning",
        "user 'robot'",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_each_flaw_is_told(tmp_path: Path, case: str) -> None:
    spoil, check, severity, says = SPOILED[case]
    logs = found(tmp_path, spoil(sound()))
    assert says in told(logs, check, severity), logs.findings
    assert all(finding.advice for finding in logs.findings if (finding.check, finding.severity) == (check, severity))


def test_repeats_are_counted_among_the_events_that_the_filter_keeps(tmp_path: Path) -> None:
    """A view and a purchase of one moment are a repeat only where both types count; what is dropped is said to be."""
    events = sound()
    rows = [(*event, "view") for event in events] + [(*event, "buy") for event in events[:9]]
    columns = ("user_id", "item_id", "timestamp", "kind")
    pq.write_table(pa.table({c: [row[n] for row in rows] for n, c in enumerate(columns)}), tmp_path / "x.parquet")

    def looked(weights: dict[str, int], **settings: object) -> Examination:
        config = PrepareConfig(k_core=1, event_column="kind", event_weights=weights, **settings)
        return examine("logs", [tmp_path / "x.parquet"], None, config)

    one, both = {"view": 1}, {"view": 1, "buy": 3}
    assert f"0 of {len(events):,} interactions of the named types (0.0%)" in told(looked(one), "duplicates", "fine")
    assert f"9 of {len(rows):,} interactions of the named types" in told(looked(both), "duplicates", "warning")
    assert "9 of 18 interactions of the named types" in told(looked(both, min_weight=4), "duplicates", "warning")
    dropped = looked(both, deduplicate="event")
    assert told(dropped, "duplicates", "fine").endswith("of another: dropped by prepare.deduplicate=event")
    assert told(dropped, "minimum", "fine").endswith(": event_weights 0, deduplicate 9, k_core 0")


def test_nothing_left_is_an_error_with_the_distributions_as_read(tmp_path: Path) -> None:
    logs = found(tmp_path, sound(), k_core=50)
    assert "leaves none of the" in told(logs, "prepare", "error")
    assert logs.kept is None and sum(logs.lengths.values()) == 150


def test_without_times_the_order_of_rows_is_examined(tmp_path: Path) -> None:
    logs = found(tmp_path, sorted_by_item(sound()), time_column=None)
    assert "(100.0%) have rising" in told(logs, "item order", "error")
    assert logs.periods == {} and not [f for f in logs.findings if f.check in ("clock", "ties", "time order")]


def test_the_item_table_is_held_against_the_logs(tmp_path: Path) -> None:
    titles = [{"item_id": f"i{n:02d}", "title": f"t{n}" if n % 2 else ""} for n in range(10, 50)]
    logs = found(tmp_path, sound(), titles)
    assert "10 of 40 items with interactions are not in items.parquet" in told(logs, "orphan items", "warning")
    assert "10 items of items.parquet have no interactions" in told(logs, "unused items", "fine")
    assert "15 of 40 items have an empty title" in told(logs, "item content", "warning")
    twice = found(tmp_path, sound(), [*titles, titles[0]])
    assert "item 'i10' already stands in row 1" in told(twice, "item table", "error")


def test_every_kind_of_unusable_value_is_counted_and_the_rest_examined(tmp_path: Path) -> None:
    lines = [f"{u},{i},{t}" for u, i, t in sound()]
    lines[3], lines[7], lines[9] = "u0,i01,soon", ",i01,5", "u0,,5"
    (tmp_path / "x.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines, "u1,i01,-4"]) + "\n")
    logs = examine("logs", [tmp_path / "x.csv"], None, KEEP)
    said = [(f.says.split(": ", 1)[1], f.advice) for f in logs.of("error")]
    assert said[0] == (
        "column 'user_id', row 8: the id is missing; fill it in or remove the row",
        "1 rows of this file are like it.",
    )
    assert said[1][0].startswith("column 'item_id', row 10: the id is missing")
    assert said[2][0].startswith("column 'timestamp', row 4: 'soon' is not a timestamp") and said[2][1].startswith(
        "2 rows"
    )
    assert logs.raw is not None and logs.raw.interactions == len(lines) - 3
    assert "leakage" in {finding.check for finding in logs.findings}


def test_shards_of_another_schema_are_told(tmp_path: Path) -> None:
    halves = sound()[:500], sound()[500:]
    for n, half in enumerate(halves):
        table = pa.table({c: [e[k] for e in half] for k, c in enumerate(("user_id", "item_id", "timestamp"))})
        pq.write_table(table.append_column("price", pa.array(["1" if n else 1] * len(half))), tmp_path / f"{n}.parquet")
    logs = examine("logs", [tmp_path], None, KEEP)
    assert "1.parquet: has another type of price, beside 0.parquet" in told(logs, "schema", "warning")
    assert logs.files == 2 and not logs.of("error")


def test_the_share_of_training_after_a_target_is_that_of_a_naive_count(tmp_path: Path) -> None:
    events = [(f"u{u}", f"i{n}", YEAR_2014 + 1_000 * u + n) for u in range(4) for n in range(3 + u)]
    by_user = [[t for v, _, t in events if v == f"u{u}"] for u in range(4)]
    training = [t for times in by_user for t in times[:-2]]
    later = [sum(t > times[-1] for t in training) / len(training) for times in by_user]
    logs = found(tmp_path, events, k_core=1)
    assert f"leave-one-out: {sum(later) / 4:.0%} of the training" in told(logs, "leakage", "warning")
