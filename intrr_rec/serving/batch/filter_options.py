"""Filters as a person writes them on a command line → filters over dense ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from intrr_rec.config.time_units import seconds_of
from intrr_rec.errors import ConfigError, DataError
from intrr_rec.serving.bundle.items import ItemTable
from intrr_rec.serving.filters import Filters


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
        where: `COLUMN=VALUE` words; several of one column mean any of the values.
        newer_than: seconds since 1970, or a date (UTC unless it says otherwise).

    Raises:
        DataError: a file that cannot be read, or `allow` names no item of the bundle.
        ConfigError: a word that is none of these, a column or value that is not there, or filters that no item passes.
    """
    wanted: dict[str, list[str]] = {}
    for word in where:
        column, equals, value = word.partition("=")
        if not equals or not column:
            raise ConfigError(f"--where {word}: write COLUMN=VALUE")
        wanted.setdefault(column, []).append(value)
    filters = Filters(
        exclude_seen=exclude_seen,
        deny=_read_ids(items, deny) if deny else (),
        allow=_read_ids(items, allow) if allow else None,
        where=wanted,
        newer_than=None if newer_than is None else _seconds(newer_than),
    )
    if allow and not filters.allow:
        raise DataError(
            f"{allow}: none of its ids is an item of the bundle, whose ids are such as {items.own([0])[0]!r}"
        )
    filters.require_some(items)
    return filters


def _read_ids(items: ItemTable, path: Path) -> list[int]:
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
