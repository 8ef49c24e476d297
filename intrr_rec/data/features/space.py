"""All feature columns that a model reads as rows of one table, column after column: one look-up serves events, items and users.

A column that is also asked for has two blocks of rows: what an action says of the item it was done with, and what it says of the item to
come, are two things.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from intrr_rec.config.logs.features import Side
from intrr_rec.data.features.columns import Column


@dataclass(frozen=True)
class Space:
    """Where each column's rows begin.

    Attributes:
        columns: in the order of their rows.
    """

    columns: tuple[Column, ...]

    @cached_property
    def _firsts(self) -> tuple[dict[str, int], dict[str, int], int]:
        own, asked, row = {}, {}, 0
        for column in self.columns:
            own[column.name], row = row, row + column.rows
        for column in self.asked:
            asked[column.name], row = row, row + column.rows
        return own, asked, row

    def first(self, column: Column) -> int:
        """The row of a column's number 0."""
        return self._firsts[0][column.name]

    def first_asked(self, column: Column) -> int:
        """The row of number 0 of a column as it is asked for."""
        return self._firsts[1][column.name]

    @property
    def rows(self) -> int:
        """Of the table."""
        return self._firsts[2]

    def of(self, side: Side) -> list[Column]:
        """The columns of events, items or users."""
        return [column for column in self.columns if column.side == side]

    @cached_property
    def asked(self) -> list[Column]:
        """Columns of events that are also given for the event to predict."""
        return [column for column in self.columns if column.asked]

    @property
    def reads_slots(self) -> bool:
        """Whether slots of a history have features: of their event, of what was asked, of the user."""
        return bool(self.of("event") or self.of("user"))

    @property
    def reads_items(self) -> bool:
        """Whether items have features."""
        return bool(self.of("item"))

    @property
    def of_slots(self) -> Space:
        """The columns of events and users: what is left to look up once the items are represented."""
        return Space(tuple(column for column in self.columns if column.side != "item"))

    def rows_of(self, other: Space) -> NDArray[np.int64]:
        """The rows here of all rows of a space of some of these columns, in its order."""
        blocks = [self.first(column) + np.arange(column.rows) for column in other.columns]
        blocks += [self.first_asked(column) + np.arange(column.rows) for column in other.asked]
        return np.concatenate(blocks) if blocks else np.empty(0, np.int64)

    def places_in(self, other: Space) -> NDArray[np.int64]:
        """The row in a space of another dataset of every row here, -1 where it has none; a value that is not known there is its unknown one.

        Raises:
            DataError: a column is declared otherwise there.
        """
        place_R = np.full(self.rows, -1)
        theirs = {(column.side, column.name): column for column in other.columns}
        for column in self.columns:
            if (known := theirs.get((column.side, column.name))) is None:
                continue
            number_N = known.from_other(column)
            first = self.first(column)
            place_R[first : first + column.rows] = other.first(known) + number_N
            if column.asked and known.asked:
                first = self.first_asked(column)
                place_R[first : first + column.rows] = other.first_asked(known) + number_N
        return place_R


def narrow(values: NDArray[np.int64], column: Column) -> NDArray[np.integer]:
    """Numbers of a column in its narrowest type."""
    return values.astype(column.dtype)
