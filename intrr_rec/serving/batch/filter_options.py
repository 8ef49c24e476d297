"""Filters as a person writes them on a command line → filters over dense ids."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from intrr_rec.config.logs.time_units import seconds_of
from intrr_rec.errors import ConfigError, DataError
from intrr_rec.serving.bundle.items import ItemTable
from intrr_rec.serving.conditions import Bounds, Conditions
from intrr_rec.serving.filters import Filters

OR = " OR "
SIGN = re.compile(r"!=|>=|<=|=|<|>")


def read_filters(
    items: ItemTable,
    *,
    exclude_seen: bool | None = None,
    deny: Path | None = None,
    allow: Path | None = None,
    where: Sequence[str] = (),
    newer_than: str | None = None,
) -> Filters:
    """Filters of a command.

    Args:
        items: of the bundle.
        exclude_seen: nothing of the user's own history; None is as the bundle was evaluated.
        deny, allow: text files of own item ids, one a line; ids that the bundle does not know are passed over.
        where: `COLUMN=VALUE` words, of which several of one column mean any of the values; `COLUMN!=VALUE`, `COLUMN>=BOUND` and
            `COLUMN<BOUND`; and several of these with ` OR ` between them. All words must hold.
        newer_than: seconds since 1970, or a date (UTC unless it says otherwise).

    Raises:
        DataError: a file that cannot be read, or `allow` names no item of the bundle.
        ConfigError: a word that is none of these, a column or value that is not there, or filters that no item passes.
    """
    alone = [word for word in where if OR not in word]
    conditions = _conditions(alone)
    filters = Filters(
        exclude_seen=exclude_seen,
        deny=read_ids(items, deny) if deny else (),
        allow=read_ids(items, allow) if allow else None,
        where=conditions.where,
        without=conditions.without,
        ranges=conditions.ranges,
        any_of=tuple([_conditions([part]) for part in word.split(OR)] for word in where if OR in word),
        newer_than=None if newer_than is None else _seconds(newer_than),
    )
    if allow and not filters.allow:
        raise DataError(
            f"{allow}: none of its ids is an item of the bundle, whose ids are such as {items.own([0])[0]!r}"
        )
    filters.require_some(items)
    return filters


def _conditions(words: Sequence[str]) -> Conditions:
    """What words say together: values of one column are alternatives, bounds and values that are ruled out hold all."""
    where: dict[str, list[str]] = {}
    without: dict[str, list[str]] = {}
    ranges: dict[str, Bounds] = {}
    for word in words:
        column, sign, value = _parted(word.strip())
        if sign in ("=", "!="):
            (where if sign == "=" else without).setdefault(column, []).append(value)
            continue
        low, high = ranges.get(column, (None, None))
        if (low if sign == ">=" else high) is not None:
            raise ConfigError(f"--where {word}: '{column}' has such a bound already; give one")
        ranges[column] = (value, high) if sign == ">=" else (low, value)
    return Conditions(where, without, ranges)


def _parted(word: str) -> tuple[str, str, str]:
    found = SIGN.search(word)
    if found is None or not found.start() or (found[0] in (">=", "<") and not word[found.end() :].strip()):
        raise ConfigError(f"--where {word}: write COLUMN=VALUE, COLUMN!=VALUE, COLUMN>=BOUND or COLUMN<BOUND")
    if found[0] in (">", "<="):
        raise ConfigError(f"--where {word}: bounds are written >= and <")
    return word[: found.start()], found[0], word[found.end() :]


def read_ids(items: ItemTable, path: Path) -> list[int]:
    """Dense ids of a text file of own ones, one a line; those that the bundle does not know are passed over.

    Raises:
        DataError: it cannot be read.
    """
    try:
        words = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); write item ids as text, one a line") from None
    return [item for item in items.dense(word.strip() for word in words) if item is not None]


def _seconds(word: str) -> int:
    try:
        return cast(int, seconds_of(word))
    except ValueError as error:
        raise ConfigError(f"--newer-than: {error}; write a date such as 2026-01-31, or seconds since 1970") from None
