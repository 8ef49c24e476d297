"""The preparation as relations, once, for every engine: which events stay, how users and items are numbered, in what order.

`events(file, row, user_id, item_id, time, nanos, event)` comes in; file order is the pair (file, row), so nothing hangs on the order
in which an engine happens to return rows. Sums are of whole numbers and every order is total, so engines cannot differ.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import narwhals as nw

from intrr_rec.config import PrepareConfig
from intrr_rec.data.prepare.engines import PLACE, Engine
from intrr_rec.data.prepare.split import split_in_time
from intrr_rec.errors import DataError

log = logging.getLogger(__name__)
Frame: TypeAlias = "nw.LazyFrame[Any]"

FEATURE = "feature_"  # begins the columns of the numbers of features
COUNTS = "counts"  # column that tells events of a history from those that are dropped for their type or weight
TARGET = "target"  # column of the mark of targets, where not all events are


@dataclass(frozen=True)
class Relations:
    """What a dataset is made of.

    Attributes:
        events: user, item (dense), `PLACE`, the numbers of each feature of events, and the mark of targets where there is one; in no
            order.
        users: user, user_id; in order.
        items: item, item_id, first_seen; in order.
        counts: users, items, interactions.
        statistics: of `statistics.json`, the counts aside.
        seen: user, item, before: what a user had in events that do not count, and how many of his events came before the first of
            them; in order. None where all events count.
    """

    events: Frame
    users: Frame
    items: Frame
    counts: dict[str, int]
    statistics: dict[str, Any]
    seen: Frame | None = None


@dataclass(frozen=True)
class Kept:
    """What the filters leave.

    Attributes:
        events: after all filters but the k-core.
        users: user_id, n; of the k-core.
        items: item_id, n, first_seen, last_seen; of the k-core.
        statistics: how many interactions were read, how many each filter dropped, rounds of the k-core.
    """

    events: Frame
    users: Frame
    items: Frame
    statistics: dict[str, Any]

    def events_left(self) -> Frame:
        """The events among the users and items of the k-core."""
        left = self.events.join(self.users.select("user_id"), on="user_id", how="semi")
        return left.join(self.items.select("item_id"), on="item_id", how="semi")


@dataclass(frozen=True)
class Known:
    """Users and items that have their numbers already, and keep them.

    Attributes:
        users: user, user_id; numbered 0 … n_users - 1.
        items: item, item_id; likewise.
    """

    users: Frame
    items: Frame
    n_users: int
    n_items: int


def filtered(engine: Engine, config: PrepareConfig) -> Kept:
    """Filter the engine's raw events.

    Raises:
        DataError: a filter leaves nothing.
    """
    events = engine.events()
    raw = left = engine.count(events)
    dropped: dict[str, int] = {}
    for name, step in _steps(config):
        events = engine.keep(step(events), "filtered")
        before, left = left, engine.count(events)
        dropped[name] = before - left
        log.info("%s: %d of %d interactions left", name, left, before)
        if not left:
            raise _nothing_left(engine, name, config, before)
    users, items, rounds = _k_core(engine, events, left, config)
    interactions = _interactions(engine, users)
    if interactions * 2 < raw:
        log.warning(
            "the filters drop %d of %d interactions (%.0f %%); `intrr validate` says which filter takes how many",
            raw - interactions,
            raw,
            100 * (raw - interactions) / raw,
        )
    statistics = {
        "interactions_read": raw,
        "interactions_dropped": raw - interactions,
        "filter_rounds": rounds,
    } | ({"dropped": dropped | {"k_core": left - interactions}} if dropped else {})
    return Kept(events, users, items, statistics)


def before_deduplication(engine: Engine, config: PrepareConfig) -> Frame:
    """The raw events that `prepare.deduplicate` looks at: those of the named types and of enough weight."""
    return _dropping(config)(engine.events())


def of_histories(engine: Engine, config: PrepareConfig) -> Frame:
    """The raw events that a user's history holds: of the named types, of enough weight, de-duplicated; of every user and item.

    Raises:
        DataError: a filter leaves nothing.
    """
    events = engine.events()
    for name, step in _steps(config):
        if name != "max_sequence":
            before, events = engine.count(events), engine.keep(step(events), "filtered")
            if not engine.count(events):
                raise _nothing_left(engine, name, config, before)
    return events


def with_dropped(engine: Engine, config: PrepareConfig, kept: Frame, features: Sequence[str]) -> Frame:
    """The kept events, and beside them the raw ones that are dropped for their type or weight; `COUNTS` is 1 or 0.

    Args:
        kept: as `of_histories` has them.
        features: columns of features to keep.
    """
    counting = _dropping(config)(engine.events()).select("file", "row")
    dropped = engine.events().join(counting, on=["file", "row"], how="anti")
    return nw.concat(
        [
            frame.select("user_id", "item_id", *PLACE, *features).with_columns(**{COUNTS: nw.lit(counts, nw.Int64)})
            for frame, counts in ((kept, 1), (dropped, 0))
        ]
    )


def relate(engine: Engine, config: PrepareConfig, known: Known | None = None) -> Relations:
    """Filter, order and number the engine's raw events.

    Raises:
        DataError: a filter leaves nothing, or drops one of those `known`; or a part of a split in time is empty.
    """
    kept = filtered(engine, config)
    if known is not None:
        _require_kept(engine, kept, known)
    in_time = split_in_time(engine, kept.events_left(), config) if config.split == "global_time" else None
    marked = {"targets": _require_targets(engine, kept)} if config.targets else {}
    lengths = {row["n"]: row["users"] for row in engine.rows(kept.users.group_by("n").agg(users=nw.len()))}
    span = engine.row(kept.items.select(nw.col("first_seen").min(), nw.col("last_seen").max(), items=nw.len()))
    users = engine.keep(_continued(engine, kept.users.select("user_id"), "user", known), "numbered_users")
    items = engine.keep(_continued(engine, kept.items.select("item_id", "first_seen"), "item", known), "numbered_items")
    counts = {
        "users": sum(lengths.values()),
        "items": int(span["items"]),
        "interactions": sum(length * n for length, n in lengths.items()),
    }
    return Relations(
        _sequences(kept.events, users, items),
        users.select("user", "user_id").sort("user"),
        items.select("item", "item_id", "first_seen").sort("item"),
        counts,
        kept.statistics
        | marked
        | {
            "density": counts["interactions"] / (counts["users"] * counts["items"]),
            "sequence_length": _lengths(lengths),
            "time": None if span["first_seen"] is None else {"first": span["first_seen"], "last": span["last_seen"]},
        }
        | ({"split": in_time.statistics()} if in_time else {}),
        _seen(engine, config, kept.events, users, items) if config.event_weights else None,
    )


def _steps(config: PrepareConfig) -> list[tuple[str, Any]]:
    """The filters that are on, by name, in their order; each a function of events."""
    steps: list[tuple[str, Any]] = []
    if config.event_weights:
        steps.append(("event_weights", lambda events: _of_types(events, config.event_weights or {})))
    if config.min_weight:
        weight = nw.col("weight").sum().over("user_id", "item_id")
        steps.append(("min_weight", lambda events: events.filter(weight >= config.min_weight)))
    if config.deduplicate != "none":
        same = ["user_id", "item_id", *(["time", "nanos"] if config.deduplicate == "event" else [])]
        steps.append(("deduplicate", lambda events: events.unique(same, keep="first", order_by=PLACE)))
    if config.max_sequence is not None:
        length = nw.col("row").count().over("user_id")
        steps.append(("max_sequence", lambda events: events.filter(length <= config.max_sequence)))
    return steps


def _of_types(events: Frame, weights: dict[str, int]) -> Frame:
    """Events of the named types, with their weight."""
    weight: Any = nw.lit(None, nw.Int64)
    for name, value in weights.items():
        weight = nw.when(nw.col("event") == name).then(nw.lit(value, nw.Int64)).otherwise(weight)
    return events.with_columns(weight=weight).filter(~nw.col("weight").is_null())


def _k_core(engine: Engine, events: Frame, total: int, config: PrepareConfig) -> tuple[Frame, Frame, int]:
    """Users and items with enough interactions among one another, and the rounds that dropped some.

    The events stay where they are: a round reads them against what is left of users and items, so it costs two passes and
    writes two small tables. The k-core is unique, so peeling users and items in turn finds it as well as both at once.
    """
    users_min, items_min = max(config.k_core, config.min_sequence), config.k_core
    start, rounds = total, 0
    items = None
    while True:
        left = events if items is None else events.join(items.select("item_id"), on="item_id", how="semi")
        users = engine.keep(left.group_by("user_id").agg(n=nw.len()).filter(nw.col("n") >= users_min), "users")
        by_users = _interactions(engine, users)
        if items is not None and by_users == total:
            return users, items, rounds
        if by_users < start:
            left = events.join(users.select("user_id"), on="user_id", how="semi")
        items = engine.keep(
            left.group_by("item_id")
            .agg(n=nw.len(), first_seen=nw.col("time").min(), last_seen=nw.col("time").max())
            .filter(nw.col("n") >= items_min),
            "items",
        )
        before, total = total, _interactions(engine, items)
        rounds += total < before
        log.info("k-core: %d of %d interactions left", total, before)
        if not total:
            raise DataError(
                f"the filter (k-core: at least {users_min} interactions a user, {items_min} an item) leaves none of the "
                f"{start} interactions; lower prepare.k_core (1 keeps all) or prepare.min_sequence, or give more logs"
            )
        if total == by_users:
            return users, items, rounds


def _interactions(engine: Engine, counted: Frame) -> int:
    return int(engine.row(counted.select(nw.col("n").sum()))["n"] or 0)


def _continued(engine: Engine, ids: Frame, name: str, known: Known | None) -> Frame:
    """Dense ids: those known as they are, newcomers after them by sorted id."""
    if known is None:
        return engine.numbered(ids, name)
    frame, count = (known.users, known.n_users) if name == "user" else (known.items, known.n_items)
    new = engine.numbered(ids.join(frame, on=f"{name}_id", how="anti"), name).with_columns(nw.col(name) + count)
    columns = new.collect_schema().names()
    return nw.concat([ids.join(frame, on=f"{name}_id", how="inner").select(columns), new.select(columns)])


def _require_kept(engine: Engine, kept: Kept, known: Known) -> None:
    for name, frame, left in (("user", known.users, kept.users), ("item", known.items, kept.items)):
        lost = frame.join(left, on=f"{name}_id", how="anti")
        if count := engine.count(lost):
            example = engine.rows(lost.sort(name).head(1))[0][f"{name}_id"]
            raise DataError(
                f"{count} {name}s of the dataset, such as {example!r}, do not pass the filters any more (prepare.max_sequence), "
                "and a number cannot be taken back; prepare all logs anew"
            )


def _require_targets(engine: Engine, kept: Kept) -> int:
    """How many of the kept events are targets; refuse none."""
    found = int(engine.row(kept.events_left().select(nw.col(TARGET).cast(nw.Int64).sum()))[TARGET] or 0)
    if not found:
        raise DataError("prepare.targets: no event that the filters leave meets all conditions; loosen one of them")
    return found


def _sequences(events: Frame, users: Frame, items: Frame) -> Frame:
    named = events.join(users, on="user_id").join(items.select("item", "item_id"), on="item_id")
    names = events.collect_schema().names()
    features = [name for name in names if name.startswith(FEATURE)] + [name for name in names if name == TARGET]
    return named.select("user", "item", *PLACE, *features)


def _seen(engine: Engine, config: PrepareConfig, kept: Frame, users: Frame, items: Frame) -> Frame:
    """Pairs of users and items that stand in raw events which are dropped for their type or weight (`Relations.seen`)."""
    events = (
        with_dropped(engine, config, kept, ())
        .join(users, on="user_id")
        .join(items.select("item", "item_id"), on="item_id")
    )
    before = events.with_columns(before=nw.col(COUNTS).cum_sum().over("user", order_by=PLACE))
    pairs = before.filter(nw.col(COUNTS) == 0).group_by("user", "item").agg(nw.col("before").min())
    return pairs.select("user", "item", "before").sort("user", "item")


def _dropping(config: PrepareConfig) -> Callable[[Frame], Frame]:
    """What drops events of types that do not count, and of too little weight."""

    def drop(events: Frame) -> Frame:
        for name, step in _steps(config):
            if name in ("event_weights", "min_weight"):
                events = step(events)
        return events

    return drop


def _lengths(lengths: dict[int, int]) -> dict[str, float]:
    """Of sequence lengths, from how many users have which."""
    users = sum(lengths.values())
    ordered = sorted(lengths)

    def at(place: int) -> int:
        for length in ordered:
            place -= lengths[length]
            if place < 0:
                return length
        raise AssertionError("a place beyond the last user")

    return {
        "min": ordered[0],
        "mean": sum(length * n for length, n in lengths.items()) / users,
        "median": (at((users - 1) // 2) + at(users // 2)) / 2,
        "max": ordered[-1],
    }


def _nothing_left(engine: Engine, step: str, config: PrepareConfig, before: int) -> DataError:
    """Say which filter took the last interactions, and how to loosen it."""
    if step == "event_weights":
        types = engine.events().group_by("event").agg(n=nw.len()).sort("n", "event", descending=[True, False]).head(8)
        seen = ", ".join(f"{row['event']!r} ({row['n']})" for row in engine.rows(types))
        named = ", ".join(map(repr, config.event_weights or {}))
        return DataError(
            f"column '{config.event_column}': no interaction is of a type in prepare.event_weights ({named}); the logs have {seen}"
        )
    value = getattr(config, step)
    return DataError(f"prepare.{step}={value} leaves none of the {before} interactions; loosen it, or give more logs")
