"""Features in the user's own words → their numbers: what programs, command lines and requests say of a history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from intrr_rec.data.features.columns import FIRST, MISSING, Column, part_of
from intrr_rec.data.features.space import Space
from intrr_rec.data.loading.features import HistoryFeatures
from intrr_rec.errors import DataError, nearest

_WHAT = {"numeric": "a number", "boolean": "true or false", "timestamp_parts": "a time"}


@dataclass(frozen=True)
class Features:
    """What is known of one history and of the request, by names of features. What is left out is missing.

    Attributes:
        events: of each event of the history, oldest first; empty: nothing is known of any.
        user: of the person.
        context: of the event to predict: the action that is asked for, the device that asks. For features that are declared as `asked`.
    """

    events: Sequence[Mapping[str, Any]] = ()
    user: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)


class FeatureFault(DataError):
    """A feature that there is not, or a value that it cannot have.

    Attributes:
        told: the message without what was given.
    """

    def __init__(self, where: str, given: str, fault: str, fix: str) -> None:
        self.told = f"{where}: {fault}; {fix}"
        shown = given if len(given) <= 60 else f"{given[:60]}…"
        super().__init__(f"{where}: {fault} {shown!r}; {fix}")


def numbers_of(space: Space, said: Features, events: int, times: Sequence[int] | None) -> HistoryFeatures:
    """The numbers of a history's features.

    Args:
        space: columns of events and users.
        said: in words.
        events: how many the history has.
        times: seconds of each event, and last those of the request; needed where parts of the events' own time are read.

    Raises:
        FeatureFault: a name that is none, with the nearest; or a value that the feature cannot have.
        DataError: of more or fewer events than there are.
    """
    if said.events and len(said.events) != events:
        raise DataError(f"features: {len(said.events)} events are described, the history has {events}")
    of_events = space.of("event")
    known = _by_feature([column for column in of_events if not column.clock])
    event_EF = np.full((events, len(of_events)), MISSING, np.int64)
    for place, column in enumerate(of_events):
        if column.clock and times is not None:
            event_EF[:, place] = [_clock(column, moment) for moment in times[:-1]]
    places = {column.name: place for place, column in enumerate(of_events)}
    for event, words in enumerate(said.events):
        for name, value in words.items():
            for column in _columns(known, name, f"history.{event}"):
                event_EF[event, places[column.name]] = _single(column, value, f"history.{event}")
    return HistoryFeatures(
        event_EF, context_of(space, said.context, None if times is None else times[-1]), _user(space, said.user)
    )


def context_of(space: Space, words: Mapping[str, Any], moment: int | None) -> np.ndarray:
    """The numbers of what is asked for, in the order of `space.asked`; a part of the events' own time is that of the request.

    Raises:
        FeatureFault: as `numbers_of`.
    """
    known = _by_feature([column for column in space.asked if not column.clock])
    asked_A = np.full(len(space.asked), MISSING, np.int64)
    places = {column.name: place for place, column in enumerate(space.asked)}
    for column in space.asked:
        if column.clock and moment is not None:
            asked_A[places[column.name]] = _clock(column, moment)
    for name, value in words.items():
        for column in _columns(known, name, "context"):
            asked_A[places[column.name]] = _single(column, value, "context")
    return asked_A


def _user(space: Space, words: Mapping[str, Any]) -> list[list[int]]:
    known, given = _by_feature(space.of("user")), dict[str, list[int]]()
    for name, value in words.items():
        for column in _columns(known, name, "user"):
            given[column.name] = _numbers(column, value, "user")
    return [given.get(column.name, [MISSING]) for column in space.of("user")]


def _by_feature(columns: Sequence[Column]) -> dict[str, list[Column]]:
    found: dict[str, list[Column]] = {}
    for column in columns:
        found.setdefault(column.feature, []).append(column)
    return found


def _columns(known: Mapping[str, list[Column]], name: str, where: str) -> list[Column]:
    if name not in known:
        near = nearest(name, known)
        there = ", ".join(known)
        fix = (
            f"did you mean '{near}'?"
            if near
            else f"there is {there}"
            if there
            else "leave it out: the bundle reads none here"
        )
        raise FeatureFault(where, name, "no such feature", fix)
    return known[name]


def _single(column: Column, value: object, where: str) -> int:
    if isinstance(value, list | tuple):
        raise FeatureFault(f"{where}.{column.feature}", str(value), "several values", "give one")
    return _numbers(column, value, where)[0]


def _numbers(column: Column, value: object, where: str) -> list[int]:
    entries = value if isinstance(value, list | tuple) else [value]
    if isinstance(value, list | tuple) and not column.is_multi:
        raise FeatureFault(f"{where}.{column.feature}", str(value), "several values", "give one")
    if not all(entry is None or isinstance(entry, str | int | float) for entry in entries):
        raise FeatureFault(
            f"{where}.{column.feature}", str(value), "not a value", "give a text, a number, true or false"
        )
    try:
        return column.numbers(value)
    except (DataError, ValueError, OverflowError, OSError):
        what = _WHAT.get(column.kind, "a value")
        raise FeatureFault(
            f"{where}.{column.feature}", str(value), f"not {what}", f"give {what}, or leave it out"
        ) from None


def _clock(column: Column, moment: int) -> int:
    assert column.part is not None
    return MISSING if moment < 0 else FIRST + part_of(moment, column.part)
