"""Times of raw logs: seconds since 1970 and the nanoseconds within the second, whatever unit the log counts in.

A log may hold dates, Arrow timestamps, ISO 8601 text, or numbers that count seconds, milliseconds, microseconds or nanoseconds
since 1970. Events are sorted, compared and de-duplicated by seconds *and* nanoseconds; what a dataset stores is the seconds.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Literal

import duckdb

from intrr_rec.config.logs.time_units import (
    EARLIEST,
    FIRST_OF,
    LATEST,
    PER_SECOND,
    UNIT_NAMES,
    YEAR_10000,
    TimeUnit,
    said,
)
from intrr_rec.data.raw.files import INTEGERS, RawFile, quoted
from intrr_rec.errors import DataError

log = logging.getLogger(__name__)

NANOS = 10**9
FLOAT32_WHOLE = 1 << 24  # above it, neighbours among float32 numbers lie more than 1 apart

# Dates that are written as one number, by their digits.
DATES = {8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
NUMBER = "-?[0-9]+([.][0-9]+)?"
DATE = "^[0-9]{4}-[0-9]{2}-[0-9]{2}"
FRACTION = "(:[0-9]{2}:[0-9]{2})[.]([0-9]+)"


def time_sql(raw: RawFile, column: str, unit: TimeUnit = "s") -> tuple[str, str]:
    """SQL of a timestamp: BIGINT seconds since 1970 (UTC unless the value says otherwise) and nanoseconds in that second.

    The seconds are NULL where the value is no time, and negative where it lies before 1970.

    Args:
        unit: what numbers count.

    Raises:
        DataError: the column's type can hold no times.
    """
    name, type_ = quoted(column), raw.columns[column]
    if type_ in INTEGERS:
        return _in_seconds(f"TRY_CAST({name} AS BIGINT)", "0", unit)
    if type_ in ("FLOAT", "DOUBLE") or type_.startswith("DECIMAL"):
        rest = f"least(TRY_CAST(round(CAST({name} - floor({name}) AS DOUBLE) * {NANOS}) AS BIGINT), {NANOS - 1})"
        return _in_seconds(f"TRY_CAST(floor({name}) AS BIGINT)", rest, unit)
    if type_ == "DATE" or type_.startswith("TIMESTAMP"):
        return _of_moment(name, type_)
    if type_ not in ("VARCHAR", "JSON"):
        raise DataError(
            f"{raw.path}: column '{column}' has type {type_}; timestamps must be numbers since 1970, dates or ISO 8601 text"
        )
    text = f"({name} ->> '$')" if type_ == "JSON" else name
    # Digits are taken as they stand: a detour by floating point would move them.
    is_number = f"regexp_full_match({text}, '{NUMBER}')"
    whole = f"CASE WHEN starts_with({text}, '-') THEN -1 ELSE TRY_CAST(regexp_extract({text}, '^[0-9]+') AS BIGINT) END"
    seconds, nanos = _in_seconds(whole, _billionths(f"regexp_extract({text}, '[.]([0-9]+)$', 1)"), unit)
    fraction = _billionths(f"regexp_extract({text}, '{FRACTION}', 2)")
    moment = f"TRY_CAST(regexp_replace({text}, '{FRACTION}', '\\1') AS TIMESTAMPTZ)"
    return (
        f"CASE WHEN {is_number} THEN {seconds} WHEN regexp_matches({text}, '{DATE}') THEN "
        f"CAST(floor(epoch({moment})) AS BIGINT) END",
        f"CASE WHEN {is_number} THEN {nanos} ELSE {fraction} END",
    )


def settle_unit(
    con: duckdb.DuckDBPyConnection,
    file: int,
    raw: RawFile,
    column: str,
    asked: TimeUnit | Literal["auto"],
    known: TimeUnit | None,
) -> TimeUnit | None:
    """Find the unit that the times of a file count in, and turn its rows of `events` into seconds and nanoseconds.

    The rows were read with `asked`, or as if they were seconds where that is `auto`.

    Args:
        file: number of the file in `events`.
        known: unit of the files before it; None: they had no numbers.

    Returns:
        The unit; `known` where the column holds no numbers.

    Raises:
        DataError: values of several units, values that are no plausible times, or float32 that cannot tell times apart.
    """
    type_ = raw.columns[column]
    where = f"{raw.path}: column '{column}'"
    if type_ == "DATE" or type_.startswith("TIMESTAMP"):
        _refuse_late(con, file, where, "")
        return known
    read_as: TimeUnit = "s" if asked == "auto" else asked
    per = PER_SECOND[read_as]
    value = "time" if per == 1 else f"(CAST(time AS DOUBLE) * {per} + nanos // {NANOS // per})"
    if type_ == "FLOAT":
        _require_whole_floats(con, file, where, value, read_as)
    looks = _looks(con, file, value, plausible_only=asked != "auto")
    bad = looks.pop(None, None)
    if asked == "auto":
        if (bad is not None or looks.keys() - {"s"}) and type_ in ("VARCHAR", "JSON"):
            numbers, dates = _numbers_and_dates(con, raw, column)
            if not numbers:  # dates have no unit, however late
                return known
            if dates:
                raise DataError(
                    f"{where}: holds numbers that are not seconds (row {numbers}) and dates (row {dates}), or dates after 2100; write all "
                    "one way"
                )
        _refuse_dates(con, file, where)
        if bad is not None:
            raise DataError(f"{where}, row {bad[1]}: {_implausible(bad[2])}")
        _require_one(where, looks, "; write all of them in one unit: sorted together they are in the wrong order")
        unit = next(iter(looks), None)
    else:
        unit = read_as
        _refuse_late(con, file, where, f"in {UNIT_NAMES[unit]} ")
        others = [other for other in looks if other not in (None, unit)]
        if unit in looks:
            _require_one(where, looks, f"; prepare.time_unit={unit} cannot read them together: write all in one unit")
        elif others:
            log.warning(
                "%s: read as %s, as prepare.time_unit says, but %s look like %s since 1970",
                where,
                UNIT_NAMES[unit],
                f"{looks[others[0]][0]:,} values",
                UNIT_NAMES[others[0]],
            )
    if unit is not None and known is not None and unit != known:
        raise DataError(
            f"{where}: counts {UNIT_NAMES[unit]}, but the logs before it count {UNIT_NAMES[known]}; write all in one unit"
        )
    if unit is not None and unit not in ("s", read_as):
        seconds, nanos = _in_seconds("time", "nanos", unit)
        con.execute(f"UPDATE events SET time = {seconds}, nanos = {nanos} WHERE file = {file}")
        log.warning(
            "%s: counts %s since 1970, read as such; prepare.time_unit=%s says so for certain",
            where,
            UNIT_NAMES[unit],
            unit,
        )
    return unit or known


def _in_seconds(whole: str, billionths: str, unit: TimeUnit) -> tuple[str, str]:
    """A count in `unit`, its whole part and billionths of a unit, as seconds and nanoseconds."""
    per = PER_SECOND[unit]
    if per == 1:
        return whole, billionths
    # `//` rounds towards 0: what lies before 1970 must stay negative.
    return (
        f"CASE WHEN ({whole}) < 0 THEN -1 ELSE ({whole}) // {per} END",
        f"(({whole}) % {per}) * {NANOS // per} + ({billionths}) // {per}",
    )


def _of_moment(name: str, type_: str) -> tuple[str, str]:
    if "NS" in type_:
        count, per = f"epoch_ns({name})", NANOS
    else:
        # Without a zone a value is UTC; finer than microseconds only the types above are.
        count, per = f"epoch_us(CAST({name} AS TIMESTAMPTZ))", 10**6
    return (
        f"CASE WHEN {count} < 0 THEN -1 ELSE {count} // {per} END",
        f"({count} % {per}) * {NANOS // per}",
    )


def _billionths(digits: str) -> str:
    """Digits after a point → billionths, BIGINT; 0 where there are none."""
    return f"coalesce(TRY_CAST(rpad({digits}, 9, '0') AS BIGINT), 0)"


def _looks(
    con: duckdb.DuckDBPyConnection, file: int, value: str, *, plausible_only: bool
) -> dict[TimeUnit | None, tuple[int, int, float]]:
    """Unit → how many values of a file look like it, and the first of them, row and value; None: like no unit.

    With `plausible_only` a value looks like a unit only where it would lie between 1990 and 2100 in it, and others are not told.
    """
    cases = []
    for unit, per in reversed(PER_SECOND.items()):
        first = EARLIEST * per if plausible_only else FIRST_OF.get(unit, 0)
        cases.append(f"WHEN {value} >= {first} AND {value} < {LATEST * per} THEN '{unit}'")
    rows = con.execute(
        f'SELECT look, count(*), min("row"), arg_min(value, "row") FROM (SELECT "row", {value} AS value, '
        f"CASE {' '.join(cases)} END AS look FROM events WHERE file = {file} AND time >= 0) GROUP BY look ORDER BY 2 DESC, 3"
    ).fetchall()
    return {look: (count, row, first) for look, count, row, first in rows if look or not plausible_only}


def _require_one(where: str, looks: dict[TimeUnit | None, tuple[int, int, float]], fix: str) -> None:
    if len(looks) > 1:
        parts = [
            f"{count:,} look like {UNIT_NAMES[unit]} (row {row}: {first:.0f})"
            for unit, (count, row, first) in looks.items()
            if unit is not None
        ]
        raise DataError(f"{where}: holds times of several units: {', '.join(parts)}{fix}")


def _refuse_dates(con: duckdb.DuckDBPyConnection, file: int, where: str) -> None:
    """Numbers such as 20231114 or 202311142213, all of which are dates, would count as seconds or milliseconds of the Seventies."""
    row, first, most = con.execute(
        f'SELECT min("row"), arg_min(time, "row"), max(time) FROM events WHERE file = {file}'
    ).fetchall()[0]
    form = None if row is None else DATES.get(len(str(most)))
    if form is None:
        return
    rest = 10 ** (len(str(most)) - 4)
    others = con.execute(
        f"SELECT count(*) FILTER (try_strptime(CAST(time AS VARCHAR), '{form}') IS NULL OR time NOT BETWEEN {1970 * rest} "
        f"AND {2101 * rest - 1}) FROM events WHERE file = {file}"
    ).fetchall()[0][0]
    if not others:
        meant = datetime.strptime(str(first), form)
        day = f"{meant:%Y-%m-%d}" if form == "%Y%m%d" else f"{meant:%Y-%m-%d %H:%M:%S}"
        raise DataError(
            f"{where}, row {row}: {first} looks like the date {day}, as all values do; write {day}, or, if it is a count since 1970, "
            "say of what: prepare.time_unit=s, or ms, us, ns"
        )


def _refuse_late(con: duckdb.DuckDBPyConnection, file: int, where: str, how: str) -> None:
    """Times after the last day of the calendar."""
    late = con.execute(f'SELECT min("row") FROM events WHERE file = {file} AND time >= {YEAR_10000}').fetchall()[0][0]
    if late is not None:
        fix = "is prepare.time_unit right?" if how else "correct the row"
        raise DataError(f"{where}, row {late}: {how}lies after the year 9999; {fix}")


def _numbers_and_dates(con: duckdb.DuckDBPyConnection, raw: RawFile, column: str) -> tuple[int | None, int | None]:
    """First rows of a column of text that hold a number, and a date."""
    is_number = f"regexp_full_match({raw.text_sql(column)}, '{NUMBER}')"
    return con.execute(
        f'SELECT min("row") FILTER ({is_number}), min("row") FILTER (NOT {is_number}) FROM {raw.scan(column)}'
    ).fetchall()[0]


def _require_whole_floats(con: duckdb.DuckDBPyConnection, file: int, where: str, value: str, unit: TimeUnit) -> None:
    most = con.execute(f"SELECT max({value}) FROM events WHERE file = {file}").fetchall()[0][0]
    if most is not None and most > FLOAT32_WHOLE:
        apart = 1 << (int(most).bit_length() - 24)
        raise DataError(
            f"{where}: has type float32, whose values near {most:.0f} lie {apart} apart: the order within {apart} "
            f"{UNIT_NAMES[unit]} is lost; write int64, float64 or a timestamp"
        )


def _implausible(value: float) -> str:
    finer: tuple[tuple[TimeUnit, TimeUnit], ...] = (("ns", "us"), ("us", "ms"), ("ms", "s"))
    unit, coarse = next(pair for pair in finer if value >= LATEST * PER_SECOND[pair[1]])
    early, late = (said(int(value) // PER_SECOND[each]) for each in (unit, coarse))
    return (
        f"{value:.0f} is no plausible time: {late} in {UNIT_NAMES[coarse]}, {early} in {UNIT_NAMES[unit]} since 1970; "
        f"correct the row, or, if that is meant, say prepare.time_unit={coarse}"
    )
