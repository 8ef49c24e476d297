"""Questions put to interactions before a dataset is built, as SQL over `events(file, row, user_id, item_id, time, nanos)`.

DuckDB answers them out of core; what comes back is counts. Each check yields one finding, also where all is well, so that a
report shows what was looked at.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone

import duckdb

from intrr_rec.config import PrepareConfig
from intrr_rec.config.logs.time_units import EARLIEST, UNIT_NAMES, TimeUnit
from intrr_rec.data.validate.findings import Extent, Finding

DAY = 86_400
# SQL of a time at full resolution, one number: pairs are no values in every release of the engine.
FULL_TIME = "(CAST(time AS HUGEINT) * 1000000000 + nanos)"
FLOAT32_STEP = 128  # seconds between neighbours among float32 numbers of this century's seconds since 1970
MANY = 100  # fewer users, pairs or rows than this prove nothing
PERIODS = 60


def extent(con: duckdb.DuckDBPyConnection) -> Extent:
    """How much `events` holds."""
    return Extent(
        *row_of(
            con, "SELECT count(*), count(DISTINCT user_id), count(DISTINCT item_id), min(time), max(time) FROM events"
        )
    )


def check_ids(con: duckdb.DuckDBPyConnection, textual: dict[str, str]) -> Iterator[Finding]:
    """Ids that differ in blanks or capitals only; `textual` maps `user_id` / `item_id` to the name of a string column."""
    for column, name in textual.items():
        blanks = scalar_of(con, f"SELECT count(DISTINCT {column}) FROM events WHERE {column} <> trim({column})")
        merged = scalar_of(
            con,
            f"SELECT coalesce(sum(n), 0) FROM (SELECT count(DISTINCT {column}) AS n FROM events "
            f"GROUP BY lower(trim({column})) HAVING n > 1)",
        )
        if blanks or merged:
            yield Finding(
                "ids",
                "warning",
                f"column '{name}': {merged:,} ids differ from another only in blanks or capitals, {blanks:,} have blanks "
                "around them",
                "Each counts as one of its own. Where they are the same, write them alike.",
            )
        else:
            yield Finding("ids", "fine", f"column '{name}': no two ids differ only in blanks or capitals")


def check_duplicates(con: duckdb.DuckDBPyConnection, table: str, config: PrepareConfig) -> Iterator[Finding]:
    """Rows of `table` that repeat as a whole, and items a user came back to."""
    total = scalar_of(con, f"SELECT count(*) FROM {table}")
    if not total:  # the filter says so
        return

    def again(columns: str) -> int:
        return total - scalar_of(con, f"SELECT count(*) FROM (SELECT DISTINCT {columns} FROM {table})")

    repeats = again("user_id, item_id")
    counted = "interactions of the named types" if config.event_weights else "interactions"
    if config.time_column is not None:
        copies = again("user_id, item_id, time, nanos")
        says = f"{copies:,} of {total:,} {counted} ({copies / total:.1%}) repeat the user, item and time of another"
        if copies and config.deduplicate != "none":
            yield Finding("duplicates", "fine", f"{says}: dropped by prepare.deduplicate={config.deduplicate}")
        elif copies:
            yield Finding(
                "duplicates",
                "warning",
                says,
                "They are kept and count again: a log written twice, or one event seen by several sources. Unless they "
                "are events of their own, prepare.deduplicate=event keeps the first of each.",
            )
        else:
            yield Finding("duplicates", "fine", says)
    says = f"{repeats:,} {counted} ({repeats / total:.1%}) are with an item the user had before"
    dropped = ": dropped by prepare.deduplicate=pair" if repeats and config.deduplicate == "pair" else ""
    yield Finding("repeats", "fine", says + dropped)


def check_clock(
    con: duckdb.DuckDBPyConnection, unit: TimeUnit | None, asked: str, now: float | None = None
) -> Iterator[Finding]:
    """The unit of timestamps, and timestamps in the future, before the web, all equal, or multiples of what float32 holds.

    Args:
        unit: that the numbers of the logs count in; None: there are none.
        asked: `prepare.time_unit`.
    """
    ahead = int(time.time() if now is None else now) + DAY
    total, future, early, first, last, is_one, is_coarse = row_of(
        con,
        f"SELECT count(*), count(*) FILTER (time > {ahead}), count(*) FILTER (time < {EARLIEST}), min(time), max(time), "
        f"min({FULL_TIME}) = max({FULL_TIME}), bool_and(time % {FLOAT32_STEP} = 0 AND nanos = 0) AND count(DISTINCT time % {DAY}) > 1 FROM events",
    )
    if is_one:
        yield Finding(
            "clock",
            "warning",
            f"all {total:,} timestamps are {first}",
            "They say nothing about order, which is then that of the rows. If the rows stand in order, say so with "
            "prepare.time_column=null; if not, find the time of each event.",
        )
        return
    guessed = unit not in (None, "s") and asked == "auto"
    if guessed:
        assert unit is not None
        yield Finding(
            "clock",
            "warning",
            f"timestamps look like {UNIT_NAMES[unit]}: they are read as such",
            f"Say so for certain with prepare.time_unit={unit}. The dataset stores seconds, as filters and requests do.",
        )
    if is_coarse and total >= MANY and first >= EARLIEST:
        yield Finding(
            "clock",
            "warning",
            f"every timestamp is a multiple of {FLOAT32_STEP} seconds",
            "So are times that were once held as float32: the order within two minutes is lost. Write the logs again from a source "
            "of int64, float64 or timestamps.",
        )
    if future:
        yield Finding(
            "clock",
            "warning",
            f"{future:,} timestamps lie in the future, the last on {_date(last)}",
            "A wrong clock or a wrong unit: these events become the targets of their users. Fix or remove them.",
        )
    if early:
        yield Finding(
            "clock",
            "warning",
            f"{early:,} timestamps ({early / total:.1%}) lie before 1990",
            "Times that count from something else than 1970 (a user's first event, say) order a user's own events, but must "
            "not be compared between users; a 0 that stands for a missing time puts the event first.",
        )
    if not guessed and not future and not early:
        yield Finding("clock", "fine", f"seconds from {_date(first)} to {_date(last)}")


def check_row_order(con: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """Whether each user's rows stand in order of time."""
    users, late = row_of(
        con,
        f"SELECT count(*), count(*) FILTER (late) FROM (SELECT bool_or(moment < before) AS late FROM (SELECT user_id, "
        f'{FULL_TIME} AS moment, lag({FULL_TIME}) OVER (PARTITION BY user_id ORDER BY file, "row") AS before FROM events) GROUP BY user_id)',
    )
    says = (
        f"the rows of {late:,} of {users:,} users ({late / users:.1%}) do not stand in order of time: they are sorted"
        if late
        else "every user's rows stand in order of time"
    )
    yield Finding("time order", "fine", says)


def check_item_order(con: duckdb.DuckDBPyConnection) -> Iterator[Finding]:
    """Histories that stand in the order of item ids, which no chronological log does by chance."""
    users, rising, falling, chance = row_of(
        con,
        "SELECT count(*), count(*) FILTER (up), count(*) FILTER (down), avg(1 / factorial(least(length, 20)::INTEGER)) FROM "
        "(SELECT max(length) AS length, bool_and(item_id >= item_before) AS up, bool_and(item_id <= item_before) AS down "
        "FROM steps WHERE length >= 4 GROUP BY user_id)",
    )
    if users:
        most, way = max((rising, "rising"), (falling, "falling"))
        says = f"{most:,} of {users:,} histories of four and more ({most / users:.1%}) have {way} item ids; by chance {chance:.1%}"
        if users >= MANY and most >= 0.5 * users:
            yield Finding(
                "item order",
                "error" if most >= 0.95 * users else "warning",
                says,
                "They were sorted by item, so 'the next item' means nothing (public copies of Amazon Sports and Toys are like "
                "this). Find the logs in order of time.",
            )
        else:
            yield Finding("item order", "fine", says)
    pairs, up = row_of(
        con,
        f"SELECT count(*), count(*) FILTER (item_id > item_before) FROM steps WHERE {FULL_TIME} = before AND item_id <> item_before",
    )
    if pairs < MANY:
        return
    says = f"of {pairs:,} neighbours at the same time, {up / pairs:.1%} have rising item ids; by chance 50%"
    if 0.1 < up / pairs < 0.9:
        yield Finding("item order", "fine", says)
    else:
        yield Finding(
            "item order",
            "warning",
            says,
            "Events of equal time were sorted by item: their order is not that in which they happened. Give finer times, or "
            "the rows in order.",
        )


def check_minimum(
    before: Extent, kept: Extent, dropped: dict[str, int], con: duckdb.DuckDBPyConnection, config: PrepareConfig
) -> Iterator[Finding]:
    """What the filters drop, `dropped` interactions each: users and items below the minimum, and what falls with them."""
    least_user = max(config.k_core, config.min_sequence)
    lost = before.interactions - kept.interactions
    each = f": {', '.join(f'{name} {count:,}' for name, count in dropped.items())}" if len(dropped) > 1 else ""
    says = (
        f"the filter (at least {least_user} interactions a user, {config.k_core} an item) drops "
        f"{before.users - kept.users:,} of {before.users:,} users, {before.items - kept.items:,} of {before.items:,} items, "
        f"{lost:,} of {before.interactions:,} interactions ({lost / before.interactions:.1%}){each}"
    )
    if dropped["k_core"] > 0.5 * (kept.interactions + dropped["k_core"]):
        yield Finding(
            "minimum",
            "warning",
            says,
            "More than half of what the other filters leave is not learnt from. Give a longer stretch of the log, or lower "
            "prepare.k_core.",
        )
    else:
        yield Finding("minimum", "fine", says)
    longest, user = row_of(
        con, "SELECT count(*) AS n, user_id FROM events GROUP BY user_id ORDER BY n DESC, user_id LIMIT 1"
    )
    says = f"the longest history has {longest:,} interactions ({longest / kept.interactions:.1%} of all)"
    if longest > MANY and longest > 0.01 * kept.interactions:
        yield Finding(
            "heavy users",
            "warning",
            f"{says}: user {str(user)[:40]!r}",
            "A robot, or an id that stands for many people? prepare.max_sequence drops users with more than so many.",
        )
    else:
        yield Finding("heavy users", "fine", says)


def counts_of(con: duckdb.DuckDBPyConnection, column: str) -> dict[int, int]:
    """Interactions a value of `column` has → how many values have as many."""
    return dict(
        con.execute(
            f"SELECT n, count(*) FROM (SELECT count(*) AS n FROM events GROUP BY {column}) GROUP BY n ORDER BY n"
        ).fetchall()
    )


def periods_of(con: duckdb.DuckDBPyConnection) -> dict[int, int]:
    """Interactions by equal stretches of time, at most `PERIODS`, a few outliers left out; empty where there are no times."""
    first, last = row_of(con, "SELECT quantile_disc(time, 0.005), quantile_disc(time, 0.995) FROM events")
    if first is None:
        return {}
    width = max(DAY, -(-(last - first + 1) // PERIODS))
    rows = con.execute(
        f"SELECT (time - {first}) // {width} AS n, count(*) FROM events WHERE time BETWEEN {first} AND {last} GROUP BY n"
    ).fetchall()
    counts = dict(rows)
    return {first + n * width: counts.get(n, 0) for n in range((last - first) // width + 1)}


def _date(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, timezone.utc).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def row_of(con: duckdb.DuckDBPyConnection, sql: str) -> tuple:
    """The first row of an answer."""
    return con.execute(sql).fetchall()[0]


def scalar_of(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    """The only number of an answer."""
    return int(row_of(con, sql)[0])
