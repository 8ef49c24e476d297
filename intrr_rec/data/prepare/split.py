"""The split at two moments that are the same for all users (`prepare.split=global_time`).

Events before the first moment are learnt from. A user's validation target is the first event from there on, if it lies before
the second moment; the test target is the first from the second moment on. The history of a target is all the user had before the
target's moment, so nothing that a model is taught or shown happened at or after it. An event at the very time of a moment
counts as after it: events of one time are never parted. Who has no target, or nothing before it, is not in that evaluation.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import narwhals as nw

from intrr_rec.config import PrepareConfig
from intrr_rec.config.logs.time_units import said
from intrr_rec.data.prepare.engines import Engine
from intrr_rec.errors import DataError

Frame: TypeAlias = "nw.LazyFrame[Any]"
BOUNDS = 64  # times that one pass over all events is compared with
TENTHS = (8, 9)  # of the interactions that lie before the moments, where none are given


@dataclass(frozen=True)
class Sizes:
    """What lies in each part: interactions, or users who are learnt from or have a target."""

    train: int
    valid: int
    test: int


@dataclass(frozen=True)
class TimeSplit:
    """Seconds since 1970 from which on events are for validation and for testing, and what each part holds."""

    valid_from: int
    test_from: int
    interactions: Sizes
    users: Sizes

    def statistics(self) -> dict[str, Any]:
        """For `statistics.json`."""
        return asdict(self)


def split_in_time(engine: Engine, events: Frame, config: PrepareConfig) -> TimeSplit:
    """Find the moments and count what lies in each part.

    Args:
        events: user_id, time, and where not all are targets their mark; what the filters left.

    Raises:
        DataError: the moments are one, nobody can be learnt from, or nobody has a target.
    """
    valid_from, test_from = config.split_at or _moments(engine, events)
    if valid_from >= test_from:
        raise DataError(
            f"prepare.split=global_time: 80 and 90 % of the interactions lie before one moment, {said(test_from)}; choose the two "
            "by prepare.split_at, or give finer times"
        )
    train, until = (_count(nw.col("time") < moment) for moment in (valid_from, test_from))
    is_target: Any = nw.col("target") == 1 if config.targets else nw.lit(True)
    valid_targets = _count((nw.col("time") >= valid_from) & (nw.col("time") < test_from) & is_target)
    test_targets = _count((nw.col("time") >= test_from) & is_target)
    users = events.group_by("user_id").agg(
        train=train, until=until, n=nw.len(), valid_targets=valid_targets, test_targets=test_targets
    )
    learnt = nw.col("train") >= 2  # one to read, one to predict
    validated = (nw.col("train") >= 1) & (nw.col("valid_targets") > 0)
    tested = (nw.col("until") >= 1) & (nw.col("test_targets") > 0)
    found = engine.row(
        users.select(
            nw.col("train").sum(),
            nw.col("until").sum(),
            nw.col("n").sum(),
            learnt=_count(learnt),
            validated=_count(validated),
            tested=_count(tested),
        )
    )
    train_n, until_n, n = (int(found[name]) for name in ("train", "until", "n"))
    split = TimeSplit(
        valid_from,
        test_from,
        Sizes(train_n, until_n - train_n, n - until_n),
        Sizes(*(int(found[name]) for name in ("learnt", "validated", "tested"))),
    )
    for part, what in (
        ("train", f"no user has two interactions before {said(valid_from)} to learn from"),
        ("valid", f"no user has one before {said(valid_from)} and one from then to {said(test_from)}, for validation"),
        ("test", f"no user has one before {said(test_from)} and one from then on, for testing"),
    ):
        if not getattr(split.users, part):
            raise DataError(f"prepare.split=global_time: {what}; choose other moments by prepare.split_at")
    return split


def _moments(engine: Engine, events: Frame) -> tuple[int, int]:
    times = engine.keep(events.select("time"), "times")
    total = engine.count(times)
    first, second = (_time_at(engine, times, total * tenths // 10) for tenths in TENTHS)
    return first, second


def _time_at(engine: Engine, times: Frame, place: int) -> int:
    """The time at a place (from 0) of all times in their order.

    It is the largest t of which no more than `place` times lie below. Each pass narrows its range to a 64th by comparing all
    times with as many bounds: whole numbers and counts, so engines cannot differ, and nothing is sorted.
    """
    span = engine.row(times.select(low=nw.col("time").min(), high=nw.col("time").max()))
    low, high = int(span["low"]), int(span["high"])
    while low < high:
        bounds = range(low + 1, high + 1, -(-(high - low) // BOUNDS))
        counts = engine.row(times.select(**{f"below_{n}": _count(nw.col("time") < b) for n, b in enumerate(bounds)}))
        reached = sum(int(count) <= place for count in counts.values())
        low, high = bounds[reached - 1] if reached else low, bounds[reached] - 1 if reached < len(bounds) else high
    return low


def _count(condition: Any) -> Any:
    return condition.cast(nw.Int64).sum()
