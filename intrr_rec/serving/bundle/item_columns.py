"""Filters over columns of the item table: values are compared by the column's type, whichever way they are written.

One implementation for the command line, batch jobs and requests: `1`, `1.0` and `1.00` are one number, `True` and `true` one
truth value, `2020-01-02` one day. A value that no item has is an error that says which there are: an empty list would say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta, timezone
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from intrr_rec.errors import ConfigError, nearest

ORDERED = "numbers, dates and timestamps, and lists of these"
FILTERABLE = "text, numbers, true or false, dates and timestamps, and lists of these"
MOST_SHOWN = 8
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def having(column: str, items: pa.Array, values: Sequence[str]) -> NDArray[np.bool_]:
    """Which items have one of the values in a column; an entry of a list counts as one. `[I]`

    Args:
        items: the column, `[I]`.
        values: as text.

    Raises:
        ConfigError: the column's type cannot be filtered by, a value is not of its type, or no item has it.
    """
    entries = _entries(items)
    parse, what = _parser(entries.type)
    if parse is None:
        raise ConfigError(f"column '{column}' has type {items.type}; items can be filtered by {FILTERABLE}")
    having_E = np.zeros(len(entries), np.bool_)
    for value in values:
        try:
            has_E = parse(entries, value)
        except (ValueError, InvalidOperation, OverflowError):
            raise ConfigError(
                f"column '{column}' holds {what}, and '{value}' is none; {_there(column, entries)}"
            ) from None
        if not has_E.any():
            raise ConfigError(f"no item has {column}={value}; {_there(column, entries, value)}")
        having_E |= has_E
    return _of_items(items, having_E)


def within(column: str, items: pa.Array, bounds: tuple[str | None, str | None]) -> NDArray[np.bool_]:
    """Which items have a number or moment from `bounds[0]` on that is below `bounds[1]`; an entry of a list is enough. `[I]`

    A day stands for its first moment.

    Raises:
        ConfigError: the column's type has no order, or a bound is not of its type.
    """
    entries = _entries(items)
    before, what = _orderer(entries.type)
    if before is None:
        raise ConfigError(f"column '{column}' has type {items.type}; ranges are of {ORDERED}")
    is_there = pc.is_valid(entries).to_numpy(zero_copy_only=False)
    within_E = is_there.copy()
    for bound, is_least in zip(bounds, (True, False), strict=True):
        if bound is None:
            continue
        try:
            below_E = before(entries, bound)
        except (ValueError, InvalidOperation, OverflowError):
            raise ConfigError(
                f"column '{column}' holds {what}, and '{bound}' is none; {_there(column, entries)}"
            ) from None
        within_E &= ~below_E if is_least else below_E
    return _of_items(items, within_E)


def _entries(items: pa.Array) -> pa.Array:
    """The values of a column, or the entries of its lists."""
    entries = pc.list_flatten(items) if _is_list(items.type) else items
    return entries.dictionary_decode() if pa.types.is_dictionary(entries.type) else entries


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _of_items(items: pa.Array, passes_E: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Items of which an entry passes."""
    if not _is_list(items.type):
        return passes_E
    passes_I = np.zeros(len(items), np.bool_)
    passes_I[pc.list_parent_indices(items).to_numpy()[passes_E]] = True
    return passes_I


def is_filterable(kind: pa.DataType) -> bool:
    """Whether items can be filtered by a column of this type."""
    if _is_list(kind):
        kind = kind.value_type
    return _parser(kind.value_type if pa.types.is_dictionary(kind) else kind)[0] is not None


def _there(column: str, entries: pa.Array, value: str | None = None) -> str:
    """Values there are: the nearest, or the most frequent, as they may be written."""
    counted = entries.drop_null().value_counts()
    order = pc.sort_indices(counted.field("counts"), sort_keys=[("", "descending")]) if len(counted) else []
    names = [_shown(counted.field("values")[int(place)].as_py()) for place in list(order)[: 50 * MOST_SHOWN]]
    near = None if value is None or not pa.types.is_string(entries.type) else nearest(value, names)
    if near is not None:
        return f"did you mean {column}={near}?"
    if not names:
        return "the column is empty"
    more = f", … ({len(counted):,} values)" if len(counted) > MOST_SHOWN else ""
    return f"there is {', '.join(f'{column}={name}' for name in names[:MOST_SHOWN])}{more}"


def _shown(value: Any) -> str:
    text = value.isoformat() if isinstance(value, date) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


Parser = Callable[[pa.Array, str], NDArray[np.bool_]]


def _parser(kind: pa.DataType) -> tuple[Parser | None, str]:
    """What says which entries of a type a text stands for, and what such a column holds, in words."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _equal_text, "text"
    if pa.types.is_boolean(kind):
        return _equal_truth, "true or false"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _equal_number, "numbers"
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _equal_moment, "dates" if pa.types.is_date(kind) else "timestamps"
    return None, ""


def _orderer(kind: pa.DataType) -> tuple[Parser | None, str]:
    """What says which entries of a type lie before what a text stands for, and what such a column holds, in words."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _before_number, "numbers"
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _before_moment, "dates" if pa.types.is_date(kind) else "timestamps"
    return None, ""


def _mask(found: Any) -> NDArray[np.bool_]:
    return pc.fill_null(found, False).to_numpy(zero_copy_only=False)


def _equal_text(entries: pa.Array, value: str) -> NDArray[np.bool_]:
    return _mask(pc.equal(entries, pa.scalar(value, entries.type)))


def _equal_truth(entries: pa.Array, value: str) -> NDArray[np.bool_]:
    if value.strip().lower() not in _TRUTH:
        raise ValueError(value)
    return _mask(pc.equal(entries, _TRUTH[value.strip().lower()]))


def _equal_number(entries: pa.Array, value: str) -> NDArray[np.bool_]:
    number = Decimal(value.strip())
    if not number.is_finite():
        raise ValueError(value)
    if pa.types.is_floating(entries.type):
        # A value is rounded to the column's own precision, as the column's values were.
        wanted = pa.scalar(float(number), pa.float64()).cast(entries.type)
        return _mask(pc.equal(entries, wanted))
    if pa.types.is_integer(entries.type) and number != number.to_integral_value():
        return np.zeros(len(entries), np.bool_)
    try:
        exact: Any = int(number) if pa.types.is_integer(entries.type) else number.quantize(_step(entries.type))
        if exact != number:
            return np.zeros(len(entries), np.bool_)
        return _mask(pc.equal(entries, pa.scalar(exact, entries.type)))
    except (pa.ArrowInvalid, OverflowError, InvalidOperation):  # a number beyond what the column can hold
        return np.zeros(len(entries), np.bool_)


def _step(kind: pa.DataType) -> Decimal:
    return Decimal(1).scaleb(-kind.scale)


def _equal_moment(entries: pa.Array, value: str) -> NDArray[np.bool_]:
    """A day stands for all its moments; times without a zone are UTC."""
    text, utc = value.strip(), _utc(value)
    kind = pa.timestamp("us", "UTC")
    whole_day = len(text) == len("2020-01-02")
    if pa.types.is_date(entries.type):
        if not whole_day and utc != utc.replace(hour=0, minute=0, second=0, microsecond=0):
            return np.zeros(len(entries), np.bool_)
        return _mask(pc.equal(entries.cast(pa.date32()), pa.scalar(utc.date(), pa.date32())))
    moments = entries.cast(pa.timestamp("us", entries.type.tz), safe=False).cast(pa.int64())
    first = pa.scalar(utc, kind).cast(pa.int64())
    if not whole_day:
        return _mask(pc.equal(moments, first))
    last = pa.scalar(utc + timedelta(days=1), kind).cast(pa.int64())
    return _mask(pc.and_(pc.greater_equal(moments, first), pc.less(moments, last)))


def _utc(value: str) -> datetime:
    moment = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)


def _before_number(entries: pa.Array, value: str) -> NDArray[np.bool_]:
    """x < v; of whole numbers and decimals that is x < v rounded up to what the column can hold."""
    number = Decimal(value.strip())
    if not number.is_finite():
        raise ValueError(value)
    if pa.types.is_floating(entries.type):
        return _mask(pc.less(entries, pa.scalar(float(number), pa.float64()).cast(entries.type)))
    try:
        if pa.types.is_integer(entries.type):
            bound: Any = int(number.to_integral_value(ROUND_CEILING))
        else:
            bound = number.quantize(_step(entries.type), ROUND_CEILING)
        return _mask(pc.less(entries, pa.scalar(bound, entries.type)))
    except (pa.ArrowInvalid, OverflowError, InvalidOperation):  # beyond all that the column can hold
        return np.full(len(entries), number > 0) & pc.is_valid(entries).to_numpy(zero_copy_only=False)


def _before_moment(entries: pa.Array, value: str) -> NDArray[np.bool_]:
    """Whether a moment lies before another; a day is its first moment, times without a zone are UTC."""
    utc = _utc(value)
    if pa.types.is_date(entries.type):
        midnight = utc.replace(hour=0, minute=0, second=0, microsecond=0)
        day = utc.date() if utc == midnight else utc.date() + timedelta(days=1)
        return _mask(pc.less(entries.cast(pa.date32()), pa.scalar(day, pa.date32())))
    moments = entries.cast(pa.timestamp("us", entries.type.tz), safe=False).cast(pa.int64())
    return _mask(pc.less(moments, pa.scalar(utc, pa.timestamp("us", "UTC")).cast(pa.int64())))
