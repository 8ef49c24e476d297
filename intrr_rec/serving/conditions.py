"""Conditions on columns of the item table: values, ranges of numbers and moments, and what an item must not have.

Shape suffix: I items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from intrr_rec.serving.bundle.items import ItemTable

Bounds = tuple[str | None, str | None]  # the least that passes, and the first that is too large, as text


@dataclass(frozen=True)
class Conditions:
    """What an item must meet, all of it; of a column of lists one entry is enough.

    Attributes:
        where: column → values, one of which an item must have.
        without: column → values, none of which an item may have; a missing value passes.
        ranges: column of numbers, dates or timestamps → bounds.
    """

    where: Mapping[str, Sequence[str]] = field(default_factory=dict)
    without: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ranges: Mapping[str, Bounds] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.where or self.without or self.ranges)

    def key(self) -> tuple:
        """The same of conditions that are the same."""
        lists = (tuple(sorted((column, tuple(values)) for column, values in each.items())) for each in self._lists)
        return (*lists, tuple(sorted(self.ranges.items(), key=str)))

    @property
    def _lists(self) -> tuple[Mapping[str, Sequence[str]], Mapping[str, Sequence[str]]]:
        return self.where, self.without

    def mask(self, items: ItemTable) -> NDArray[np.bool_]:
        """Which items meet them, `[I]`.

        Raises:
            ConfigError: a column, value or bound that the bundle cannot compare by.
        """
        mask_I = np.ones(len(items), np.bool_)
        for column, values in self.where.items():
            mask_I &= items.having(column, values)
        for column, values in self.without.items():
            mask_I &= ~items.having(column, values)
        for column, bounds in self.ranges.items():
            mask_I &= items.within(column, bounds)
        return mask_I

    def said(self) -> list[str]:
        """Each as it is written on a command line."""
        found = [f"{column}={'|'.join(values)}" for column, values in self.where.items()]
        found += [f"{column}!={'|'.join(values)}" for column, values in self.without.items()]
        for column, bounds in self.ranges.items():
            found += [f"{column}{sign}{bound}" for sign, bound in zip((">=", "<"), bounds, strict=True) if bound]
        return found
