"""Questions put to the features that are declared: how many values are missing, what values there are, and whether they drift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb

from intrr_rec.config import PrepareConfig
from intrr_rec.config.logs.features import FeaturesConfig
from intrr_rec.data.features.columns import FIRST, MISSING, UNKNOWN, Column
from intrr_rec.data.features.encode import Raw, raws_of
from intrr_rec.data.features.prepare import FeatureTables
from intrr_rec.data.raw.files import IdKind, RawFile
from intrr_rec.data.validate.findings import Finding
from intrr_rec.errors import DataError, UserError

SHOWN = 5
MANY_MISSING = 0.5
FAR = 0.2  # total variation between the training part and the targets of the test
MANY_NEW = 0.05  # of the targets' values, that the training part has not


def require_features(
    con: duckdb.DuckDBPyConnection, logs: Sequence[RawFile], config: PrepareConfig
) -> Iterator[Finding]:
    """An error for each feature of events whose column is missing, or holds values that its kind has not."""
    for feature in raws_of(config.features, "event"):
        yield from _fault(con, logs, feature)


def _fault(con: duckdb.DuckDBPyConnection, logs: Sequence[RawFile], feature: Raw) -> Iterator[Finding]:
    try:
        for raw in logs:
            feature.require(con, raw)
    except DataError as error:
        yield Finding("features", "error", str(error))


def without_events(config: PrepareConfig) -> PrepareConfig:
    """The settings without features of events: those that cannot be read are left out of what follows."""
    kept = FeaturesConfig(item=config.features.item, user=config.features.user)
    return config.model_copy(update={"features": kept})


def profile(
    con: duckdb.DuckDBPyConnection,
    config: PrepareConfig,
    items: Sequence[RawFile],
    users: Path | None,
    kinds: dict[str, IdKind],
    columns: list[Column],
) -> Iterator[Finding]:
    """Fit the features, replace the raw values in `events` by their numbers, and say what values there are.

    The columns of events are put into `columns`.
    """
    tables = FeatureTables(con, config)
    try:
        tables.encode_events()
        tables.read_items(items, kinds[config.item_column])
        tables.read_users(users, kinds[config.user_column])
    except UserError as error:
        yield Finding("features", "error", str(error))
    columns += tables.of_events
    for n, column in enumerate(tables.of_events):
        yield _profiled(column, _counts(con, f"SELECT feature_{n} AS number FROM events"), "events")
    if config.targets and tables.of_events:
        yield _targets(con)
    for side, found in tables.of_tables.items():
        encoded = tables.encoded(side) if found else ""
        for n, column in enumerate(found):
            number = f"unnest(feature_{n})" if column.is_multi else f"feature_{n}"
            yield _profiled(column, _counts(con, f"SELECT {number} AS number FROM ({encoded})"), f"{side}s")


def check_drift(con: duckdb.DuckDBPyConnection, columns: Sequence[Column]) -> Iterator[Finding]:
    """Features of events whose values are others in the test targets than in the training part; by the table `steps`."""
    for n, column in enumerate(columns):
        learnt, target = (
            _counts(con, f"SELECT feature_{n} AS number FROM steps WHERE {part}") for part in ("learnt", "target")
        )
        total, asked = sum(learnt.values()), sum(target.values())
        if not total or not asked:
            continue
        numbers = {*learnt, *target}
        far = sum(abs(learnt.get(number, 0) / total - target.get(number, 0) / asked) for number in numbers) / 2
        new = sum(count for number, count in target.items() if number not in learnt) / asked
        says = (
            f"{column.name}: {far:.2f} of the distribution differs between training part and test targets, {new:.1%} of the targets "
            "have a value that the training part has not"
        )
        drifts = column.part is None and (far > FAR or new > MANY_NEW)
        advice = "What is learnt of its values will not hold of those to come: look at what changed." if drifts else ""
        yield Finding("feature drift", "warning" if drifts else "fine", says, advice)


def _targets(con: duckdb.DuckDBPyConnection) -> Finding:
    """How many events `prepare.targets` marks, and how many users have enough of them to be validated and tested by."""
    found, total, users, few = con.execute(
        "SELECT sum(targets), sum(events), count(*), count(*) FILTER (targets < 2) FROM (SELECT sum(target) AS targets, count(*) AS "
        "events FROM events GROUP BY user_id)"
    ).fetchall()[0]
    says = f"{int(found):,} of {int(total):,} events ({found / total:.1%}) are targets; {few:,} of {users:,} users have fewer than two"
    if found and few <= users / 2:
        return Finding("targets", "fine", says)
    advice = "Most users cannot be validated and tested by one each." if found else "Nothing is learnt or measured."
    return Finding("targets", "warning" if found else "error", says, f"{advice} Loosen prepare.targets.")


def _counts(con: duckdb.DuckDBPyConnection, numbers: str) -> dict[int, int]:
    return dict(con.execute(f"SELECT number, count(*) FROM ({numbers}) GROUP BY number").fetchall())


def _profiled(column: Column, counts: dict[int, int], where: str) -> Finding:
    total = sum(counts.values())
    missing, unknown = (counts.get(number, 0) / max(total, 1) for number in (MISSING, UNKNOWN))
    there = sorted((number for number in counts if number >= FIRST), key=lambda number: (-counts[number], number))
    shown = [f"{_named(column, number)} {counts[number] / total:.0%}" for number in there[:SHOWN]]
    says = f"{column.name} of {where} ({column.kind}): {len(there):,} values, {missing:.1%} missing"
    says += f", {unknown:.1%} outside the vocabulary" if unknown else ""
    says += f"; {', '.join(shown)}" if shown else ""
    if missing > MANY_MISSING or len(there) < 2:
        what = (
            "More than half of it is missing."
            if missing > MANY_MISSING
            else "It has one value at most and tells nothing."
        )
        return Finding("features", "warning", says, f"{what} Leave it out, or look at where it comes from.")
    return Finding("features", "fine", says)


def _named(column: Column, number: int) -> str:
    if column.edges is not None:
        low, high = number - FIRST - 1, number - FIRST
        ends = [f"{column.edges[place]:g}" if 0 <= place < len(column.edges) else "" for place in (low, high)]
        return f"[{ends[0]}, {ends[1]})"
    word = column.word(number)
    return f"#{number - FIRST}" if word is None else word[:40]
