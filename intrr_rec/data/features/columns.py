"""Columns of whole numbers that features become, and the one rule that turns a value into its number.

A feature is one column, but for `timestamp_parts`, which is one a part, named `feature.part`. In every column 0 is a missing value and
1 one that the vocabulary has not; values, buckets and parts follow. DuckDB (`encode.py`) and requests (`Column.number`) apply the same rule.

Shape suffixes: N values.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from intrr_rec.config.logs.features import PARTS, FeatureConfig, FeaturesConfig, Kind, Part, Side
from intrr_rec.errors import DataError, nearest

MISSING, UNKNOWN, FIRST = 0, 1, 2
TRUE, FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")


class Column(BaseModel):
    """One column of a dataset's features, with all that turns a value into its number.

    Attributes:
        name: of the feature, and behind a dot the part of a time.
        values: of a vocabulary, in the order of their numbers.
        edges: of buckets, rising: a number is in the bucket of how many edges are not above it.
        asked: the value is also given for the event to predict.
        clock: a part of the events' own time, so that a request need not name it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    side: Side
    kind: Kind
    part: Part | None = None
    asked: bool = False
    clock: bool = False
    separator: str | None = None
    values: tuple[str, ...] | None = None
    edges: tuple[float, ...] | None = None
    hash_buckets: int | None = Field(None, ge=2)

    @property
    def feature(self) -> str:
        """The name of the feature."""
        return self.name.partition(".")[0] if self.part else self.name

    @property
    def is_multi(self) -> bool:
        """Whether a row has a list of values."""
        return self.kind == "multi_categorical"

    @property
    def rows(self) -> int:
        """How many numbers there are."""
        if self.part is not None:
            return FIRST + PARTS[self.part]
        if self.kind == "boolean":
            return FIRST + 2
        if self.kind == "numeric":
            return FIRST + len(self.edges or ()) + 1
        return FIRST + (self.hash_buckets or len(self.values or ()))

    @property
    def dtype(self) -> type[np.integer]:
        """The narrowest type of its numbers."""
        return next(t for t in (np.uint8, np.uint16, np.int32) if self.rows - 1 <= np.iinfo(t).max)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {value: FIRST + n for n, value in enumerate(self.values or ())}

    def number(self, value: object) -> int:
        """The number of a value as people write it; of a part, the time is seconds since 1970 or ISO 8601.

        Raises:
            DataError: of numeric, boolean and parts of a time: no such value.
        """
        if value is None or (isinstance(value, str) and not value.strip()):
            return MISSING
        text = as_text(value)
        if self.part is not None:
            seconds = _seconds(self.name, value)
            return MISSING if seconds < 0 else FIRST + part_of(seconds, self.part)
        if self.kind == "boolean":
            if text.lower() not in TRUE + FALSE:
                raise DataError(f"feature '{self.name}': {_shown(text)} is neither true nor false")
            return FIRST + (text.lower() in TRUE)
        if self.kind == "numeric":
            try:
                number = float(text)
            except ValueError:
                raise DataError(f"feature '{self.name}': {_shown(text)} is no number") from None
            return MISSING if math.isnan(number) else FIRST + bisect_right(self.edges or (), number)
        if self.hash_buckets is not None:
            return FIRST + hashed(text, self.hash_buckets)
        return self._places.get(text, UNKNOWN)

    def numbers(self, value: object) -> list[int]:
        """The numbers of one row: of a list or, where the feature has a separator, of a text's parts."""
        if not self.is_multi:
            return [self.number(value)]
        given = value.split(self.separator) if isinstance(value, str) and self.separator else value
        entries = given if isinstance(given, list | tuple) else [given]
        found = list(dict.fromkeys(self.number(entry) for entry in entries))
        return [number for number in found if number != MISSING] or [MISSING]

    def word(self, number: int) -> str | None:
        """The value that a number stands for; None where it stands for none or for many."""
        if number < FIRST:
            return None
        if self.kind == "boolean":
            return ("false", "true")[number - FIRST]
        if self.part is not None:
            return str(number - FIRST)
        return self.values[number - FIRST] if self.values is not None else None

    def from_other(self, other: Column) -> NDArray[np.int64]:
        """The number here of every number of a column of the same name in another dataset, `[rows there]`.

        Raises:
            DataError: hashed there into another number of buckets, or of another kind.
        """
        if (other.kind, other.part, other.hash_buckets) != (self.kind, self.part, self.hash_buckets):
            raise DataError(f"feature '{self.name}' is declared otherwise there; declare it as the run's dataset does")
        if self.values is not None:
            return np.array([MISSING, UNKNOWN, *(self._places.get(word, UNKNOWN) for word in other.values or ())])
        if self.edges is not None and self.edges != other.edges:
            low = [*(other.edges or ())[:1], *(other.edges or ())]  # the lower end stands for a bucket
            return np.array([MISSING, UNKNOWN, *(FIRST + bisect_right(self.edges, edge) for edge in low)][: other.rows])
        return np.arange(self.rows)


def columns_of(config: FeaturesConfig, side: Side) -> Iterator[tuple[str, FeatureConfig, Part | None]]:
    """Name, declaration and part of every column that the features of a table become, by name."""
    for name, feature in sorted(getattr(config, side).items()):
        if feature.kind == "timestamp_parts":
            for part in feature.parts:
                yield f"{name}.{part}", feature, part
        else:
            yield name, feature, None


def as_text(value: object) -> str:
    """A value as a vocabulary has it: a whole number without a point, truth values in small letters."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def hashed(text: str, buckets: int) -> int:
    """The bucket of a text: the last eight bytes of its MD5 as a little-endian number, modulo `buckets`."""
    return int.from_bytes(hashlib.md5(text.encode(), usedforsecurity=False).digest()[8:], "little") % buckets


def part_of(seconds: int, part: Part) -> int:
    """A part of a time, from 0, UTC; Monday is 0."""
    if part == "hour":
        return seconds // 3600 % 24
    if part == "weekday":
        return (seconds // 86_400 + 3) % 7
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return (moment.day if part == "day" else moment.month) - 1


def parts_of(seconds_N: NDArray[np.int64], part: Part) -> NDArray[np.int64]:
    """`part_of` of many times."""
    if part == "hour":
        return seconds_N // 3600 % 24
    days_N = seconds_N // 86_400
    if part == "weekday":
        return (days_N + 3) % 7
    dates_N = days_N.astype("datetime64[D]")
    months_N = dates_N.astype("datetime64[M]")
    return (dates_N - months_N).astype(np.int64) if part == "day" else months_N.astype(np.int64) % 12


def find(columns: Sequence[Column], name: str, what: Literal["feature", "asked feature"] = "feature") -> list[Column]:
    """The columns of a feature.

    Raises:
        DataError: there is none, with the nearest name.
    """
    found = [column for column in columns if column.feature == name or column.name == name]
    if not found:
        known = list(dict.fromkeys(column.feature for column in columns))
        near = nearest(name, known)
        end = f"did you mean '{near}'?" if near else f"there is {', '.join(known) or 'none'}"
        raise DataError(f"no {what} '{_short(name)}'; {end}")
    return found


def _seconds(name: str, value: object) -> int:
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value)
        text = str(value).strip().replace("Z", "+00:00")
        if text.lstrip("-").isdigit():
            return int(text)
        moment = datetime.fromisoformat(text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp())
    except (ValueError, OverflowError):
        raise DataError(
            f"feature '{name}': {_shown(str(value))} is no time; write seconds since 1970 or ISO 8601"
        ) from None


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"


def _shown(text: str) -> str:
    return repr(_short(text))
