"""Questions put to the split: what its targets are worth, and what of them a model could know beforehand.

As in `checks.py`, but over `steps`: the events that the filters leave, each with its place in its user's history and what the
split makes of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import duckdb

from intrr_rec.config.logs.time_units import said
from intrr_rec.data.prepare.split import TimeSplit
from intrr_rec.data.validate.findings import Finding
from intrr_rec.data.validate.log_checks import FULL_TIME, MANY, row_of, scalar_of


def order_events(
    con: duckdb.DuckDBPyConnection, split: TimeSplit | None = None, features: int = 0, *, marked: bool = False
) -> None:
    """Make `steps`: every kept interaction with its place in the user's history, its neighbours, and what the split makes of it.

    `learnt` says that it is of the training part, `target` that it is the user's test target, `rival` is the full time of the
    event that would be the target in its place, were the order of equal times another.

    Args:
        split: at two moments; None: leave-one-out.
        features: how many columns of features the events have.
        marked: whether events have a mark that says which of them may be targets (`prepare.targets`); if not, all may.
    """
    also = "".join(f"feature_{n}, " for n in range(features))
    mark = "target" if marked else "1"
    time_of_target = f"CASE WHEN {mark} = 1 THEN {FULL_TIME} END IGNORE NULLS"
    if split is None:
        counted, rival = (
            mark,
            f"last_value({time_of_target}) OVER (history ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)",
        )
        learnt, target = "until <= greatest(of_user - 2, 0)", "until = of_user"
    else:
        counted = f"CASE WHEN time >= {split.test_from} THEN {mark} ELSE 0 END"
        rival = f"first_value({time_of_target}) OVER (history ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)"
        learnt, target = f"time < {split.valid_from}", f"until = 1 AND time >= {split.test_from}"
        target += " AND place > 1" if marked else f" AND coalesce(time_before < {split.test_from}, false)"
    con.execute(
        f"CREATE TABLE steps AS SELECT *, {learnt} AS learnt, mark = 1 AND place > 1 AND {target} AS target FROM (SELECT user_id, item_id, "
        f"{also}time, nanos, lag(item_id) OVER history AS item_before, lag(time) OVER history AS time_before, lag({FULL_TIME}) OVER "
        f"history AS before, {rival} AS rival, row_number() OVER history AS place, count(*) OVER (PARTITION BY user_id) AS length, "
        f"{mark} AS mark, sum({counted}) OVER history AS until, sum({counted}) OVER (PARTITION BY user_id) AS of_user FROM events "
        'WINDOW history AS (PARTITION BY user_id ORDER BY time, nanos, file, "row"))'
    )


def check_ties(con: duckdb.DuckDBPyConnection, split: TimeSplit | None = None) -> Iterator[Finding]:
    """Users whose test target has the time of the event that stands next to it: the other target, or the next of its part."""
    users, tied = row_of(con, f"SELECT count(*), count(*) FILTER ({FULL_TIME} = rival) FROM steps WHERE target")
    which = "the last two interactions" if split is None else "the first two interactions of the test part"
    says = f"{which} of {tied:,} of {users:,} users ({tied / users:.1%}) have the same time"
    if tied > 0.1 * users:
        yield Finding(
            "ties",
            "warning",
            says,
            "Which of the two is the test target is decided by the order of the rows: keep the order of the source, and say so "
            "where figures are compared.",
        )
    else:
        yield Finding("ties", "fine", says)


def check_leakage(con: duckdb.DuckDBPyConnection, has_time: bool, split: TimeSplit | None = None) -> Iterator[Finding]:
    """What a model could know of the targets beforehand: equal histories, targets seen before, training on the future."""
    users, seen = row_of(
        con,
        "SELECT count(*), count(*) FILTER (first < place) FROM (SELECT user_id, item_id, place FROM steps WHERE target) JOIN "
        "(SELECT user_id, item_id, min(place) AS first FROM steps GROUP BY user_id, item_id) USING (user_id, item_id)",
    )
    yield Finding(
        "leakage",
        "fine" if seen < 0.1 * users else "warning",
        f"{seen:,} of {users:,} test targets ({seen / users:.1%}) are items the user had before",
        ""
        if seen < 0.1 * users
        else "Repeating the history is then a strong answer. Say so beside the figures, or keep the first interaction with "
        "each item only (prepare.deduplicate=pair).",
    )
    twins = scalar_of(
        con,
        "SELECT coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM (SELECT max(length) AS length, "
        "bit_xor(hash(item_id, place)) AS history FROM steps WHERE length >= 5 GROUP BY user_id) GROUP BY length, history HAVING n > 1)",
    )
    says = f"{twins:,} users with five and more interactions have exactly the history of another user"
    if twins > 0.01 * users:
        yield Finding(
            "leakage",
            "warning",
            says,
            "One person under several ids, a bot, or a log joined twice: the twin's training part holds the other's test "
            "target. Merge or remove them.",
        )
    else:
        yield Finding("leakage", "fine", says)
    if not has_time:
        return
    share = con.execute(
        "SELECT sum(tests * (total - until)) / (sum(tests) * any_value(total)) FROM (SELECT tests, sum(trains) OVER () AS "
        "total, sum(trains) OVER (ORDER BY time) AS until FROM (SELECT time, count(*) FILTER (target) AS tests, "
        "count(*) FILTER (learnt) AS trains FROM steps GROUP BY time))"
    ).fetchall()[0][0]
    if share is not None:
        other = "; a split at one moment (prepare.split=global_time) would have none" if split is None else ""
        yield Finding(
            "leakage",
            "fine" if share < 0.5 else "warning",
            f"{'leave-one-out' if split is None else 'global_time'}: {share:.0%} of the training interactions happened after a "
            f"user's test target, on average{other}",
            ""
            if share < 0.5
            else "Figures then say how well a model that knows the future does. Say so beside them, or split at one moment.",
        )


def check_split(con: duckdb.DuckDBPyConnection, split: TimeSplit) -> Iterator[Finding]:
    """What a split in time leaves to learn from and to measure by."""
    parts = (
        f"{users:,} users {what} ({interactions:,} interactions)"
        for users, what, interactions in (
            (split.users.train, f"are learnt from, before {said(split.valid_from)}", split.interactions.train),
            (split.users.valid, f"have a validation target, before {said(split.test_from)}", split.interactions.valid),
            (split.users.test, "a test target after it", split.interactions.test),
        )
    )
    says = "; ".join(parts)
    if min(split.users.valid, split.users.test) < MANY:
        yield Finding(
            "split",
            "warning",
            says,
            "Figures of so few users are mostly chance. Choose earlier moments (prepare.split_at).",
        )
    else:
        yield Finding("split", "fine", says)
    at, last = row_of(
        con,
        f"SELECT count(*) FILTER (time IN ({split.valid_from}, {split.test_from})), "
        f"count(*) FILTER (target AND time = {split.test_from}) FROM steps",
    )
    if at:
        yield Finding(
            "split",
            "fine",
            f"{at:,} interactions have the very time of a moment and count as after it; {last:,} are test targets",
        )
    targets, cold = row_of(
        con,
        "SELECT count(*), count(*) FILTER (item_id NOT IN (SELECT item_id FROM steps WHERE learnt)) FROM steps WHERE target",
    )
    says = f"{cold:,} of {targets:,} test targets ({cold / targets:.1%}) are items that nobody had before {said(split.valid_from)}"
    if cold > 0.5 * targets:
        advice = "They can be found by their content alone. Choose later moments, or index vectors that say much (docs/vectors.md)."
        yield Finding("split", "warning", says, advice)
    else:
        yield Finding("split", "fine", says)
