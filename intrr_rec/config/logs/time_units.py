"""Moments: the units that numbers since 1970 count in, and what a person may write for one."""

from __future__ import annotations

import math
from datetime import date, datetime, timezone
from typing import Literal

TimeUnit = Literal["s", "ms", "us", "ns"]

PER_SECOND: dict[TimeUnit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
UNIT_NAMES: dict[TimeUnit, str] = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
# Before 1990 there was no web shop to log; a count that reaches 2100 in one unit is a plausible one in the next finer unit.
EARLIEST, LATEST = (int(datetime(year, 1, 1, tzinfo=timezone.utc).timestamp()) for year in (1990, 2100))
# From here on a count is past the year 5000 in seconds, and past 1973 in milliseconds; the finer units follow.
FIRST_OF: dict[TimeUnit, int] = {"ms": 10**11, "us": 10**14, "ns": 10**17}
YEAR_10000 = 253_402_300_800


def unit_of(moment: float) -> TimeUnit | None:
    """The unit in which a number is a plausible time since 1970; None where it is none."""
    for unit, first in reversed(FIRST_OF.items()):
        if moment >= first:
            return unit if moment < LATEST * PER_SECOND[unit] else None
    return "s" if 0 <= moment < LATEST else None


def seconds_fault(moment: int) -> str | None:
    """What is wrong with a number that should be seconds since 1970, in words; None where it may be."""
    unit = unit_of(moment)
    if unit in (None, "s"):
        return None if abs(moment) < YEAR_10000 else f"{moment} is no time in seconds since 1970"
    return f"{moment} looks like {UNIT_NAMES[unit]}; give seconds since 1970: {moment // PER_SECOND[unit]}"


def seconds_of(moment: object) -> object:
    """A moment in one of the forms a person or YAML gives it, as seconds since 1970; what is none stays as it is.

    Raises:
        ValueError: text that is no moment, or a number that looks like milliseconds or finer.
    """
    if isinstance(moment, str):
        if moment.strip().lstrip("-").isdigit():
            moment = int(moment)
        else:
            try:
                moment = datetime.fromisoformat(moment.strip().replace("Z", "+00:00"))
            except ValueError:
                raise ValueError(f"{moment!r} is neither ISO 8601 nor whole seconds since 1970") from None
    if isinstance(moment, int) and (fault := seconds_fault(moment)):
        raise ValueError(fault)
    if isinstance(moment, date) and not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    if isinstance(moment, datetime):
        return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp())
    return moment


def said(moment: int) -> str:
    """A moment as a person writes it, where the calendar reaches so far."""
    try:
        return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"after the year 9999 ({moment} s)"
