"""Features of a batch: which rows of the feature table it asks for, and how each slot and item adds them up.

Each row is asked for once, whatever the number of slots that need it: what ranks exchange grows with the different values of a batch.

Shape suffixes: R rows asked for, N entries of all bags, B bags, T slots, U items, E events, F columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from intrr_rec.data.features.columns import MISSING, Column, find
from intrr_rec.data.features.space import Space
from intrr_rec.data.features.store import DatasetFeatures, Lists
from intrr_rec.data.loading.windows import IntArray
from intrr_rec.errors import DataError

_GOLDEN, _MIX = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9  # of SplitMix64


@dataclass
class Bags:
    """Sums of rows.

    Attributes:
        place_N: places in the rows asked for.
        first_B: where each bag begins in `place_N`.
        weight_N: what each entry counts; of a list of n values each counts 1/n.
    """

    place_N: Tensor
    first_B: Tensor
    weight_N: Tensor

    def pool(self, rows_RD: Tensor) -> Tensor:
        """The sum of each bag, `[B, D]`."""
        return F.embedding_bag(
            self.place_N, rows_RD, self.first_B, mode="sum", per_sample_weights=self.weight_N.to(rows_RD.dtype)
        )

    def to(self, device: torch.device) -> Bags:
        """The same on a device."""
        return Bags(*(each.to(device, non_blocking=True) for each in (self.place_N, self.first_B, self.weight_N)))


@dataclass
class BatchFeatures:
    """Rows asked for, `[R]`, and the bags of the slots `[T]` and of the items `[U]`; None where there are no such features."""

    row_R: Tensor
    slot: Bags | None
    item: Bags | None

    def to(self, device: torch.device) -> BatchFeatures:
        """The same on a device."""
        slot, item = (None if bags is None else bags.to(device) for bags in (self.slot, self.item))
        return BatchFeatures(self.row_R.to(device, non_blocking=True), slot, item)

    @classmethod
    def of(cls, slot: _Entries | None, item: _Entries | None) -> BatchFeatures:
        """Ask for each row once."""
        parts = [entries for entries in (slot, item) if entries is not None]
        row_R, place_N = np.unique(np.concatenate([entries.row_N for entries in parts]), return_inverse=True)
        places = iter(np.split(place_N.reshape(-1), np.cumsum([len(entries.row_N) for entries in parts])[:-1]))
        bags = [None if entries is None else entries.bags(next(places)) for entries in (slot, item)]
        return cls(torch.from_numpy(row_R), *bags)

    @classmethod
    def of_histories(
        cls, space: Space, features: Sequence[HistoryFeatures], length_B: IntArray, slot_E: IntArray, slots: int
    ) -> BatchFeatures | None:
        """The features of histories that are laid out in slots; None where slots have none.

        Args:
            length_B: events of each history that are laid out, the newest ones.
            slot_E: slot of each of them, one history after another.
            slots: how many there are; those that are padding ask for what is there anyway.
        """
        if not space.reads_slots:
            return None
        newest = [each.event_EF[-length:] for each, length in zip(features, length_B.tolist(), strict=True)]
        columns = space.of("event")
        places = [columns.index(column) for column in space.asked]
        after = [
            np.concatenate([event_EF[1:, places], each.asked_A[None]])
            for event_EF, each in zip(newest, features, strict=True)
        ]
        event_T = np.zeros(slots, np.int64)
        event_T[slot_E] = np.arange(len(slot_E))
        owner_T = np.repeat(np.arange(len(features)), length_B)[event_T]
        user = []
        for place in range(len(space.of("user"))):
            lists = [each.user[place] for each in features]
            ends = np.cumsum([0, *map(len, lists)])
            user.append(Lists(np.array([number for each in lists for number in each]), ends).take(owner_T))
        event_TF, after_TA = np.concatenate(newest)[event_T], np.concatenate(after)[event_T]
        return cls.of(_Entries.of_slots(space, event_TF.T, after_TA.T, user), None)


@dataclass(frozen=True)
class HistoryFeatures:
    """The numbers of one history's features.

    Attributes:
        event_EF: of each event, in the order of `Space.of("event")`.
        asked_A: of what is asked for after the last event, in the order of `Space.asked`.
        user: of each column of `Space.of("user")`.
    """

    event_EF: NDArray[np.integer]
    asked_A: NDArray[np.integer]
    user: Sequence[Sequence[int]]


@dataclass
class _Entries:
    """Rows of bags, bag after bag."""

    row_N: IntArray
    length_B: IntArray
    weight_N: NDArray[np.float32]

    @classmethod
    def joined(cls, parts: Sequence[tuple[IntArray, IntArray]]) -> _Entries:
        """Bags made of columns, each given by its rows and by how many of them each bag has; a column counts 1 in all."""
        if all(len(rows) == len(lengths) for rows, lengths in parts):
            matrix_BF = np.stack([rows for rows, _ in parts], axis=1)
            return cls(matrix_BF.reshape(-1), np.full(len(matrix_BF), len(parts)), np.ones(matrix_BF.size, np.float32))
        bag_N = np.concatenate([np.repeat(np.arange(len(lengths)), lengths) for _, lengths in parts])
        weight_N = np.concatenate([np.repeat(1 / np.maximum(lengths, 1), lengths) for _, lengths in parts])
        order_N = np.argsort(bag_N, kind="stable")
        rows_N = np.concatenate([rows for rows, _ in parts])[order_N]
        length_B = np.sum([lengths for _, lengths in parts], axis=0)
        return cls(rows_N, length_B, weight_N[order_N].astype(np.float32))

    @classmethod
    def of_slots(
        cls,
        space: Space,
        event_FT: Sequence[NDArray[np.integer]] | NDArray[np.integer],
        asked_FT: Sequence[NDArray[np.integer]] | NDArray[np.integer],
        user: Sequence[tuple[IntArray, IntArray]],
    ) -> _Entries:
        """What slots ask for: the numbers of their events, those asked for next, and of each column of users the numbers and how many
        each slot has."""
        parts = []
        for column, values_T in zip(space.of("event"), event_FT, strict=True):
            parts.append((space.first(column) + values_T.astype(np.int64), np.ones(len(values_T), np.int64)))
        for column, values_T in zip(space.asked, asked_FT, strict=True):
            parts.append((space.first_asked(column) + values_T.astype(np.int64), np.ones(len(values_T), np.int64)))
        for column, (values, lengths) in zip(space.of("user"), user, strict=True):
            parts.append((space.first(column) + values, lengths))
        return cls.joined(parts)

    def bags(self, place_N: IntArray) -> Bags:
        first_B = np.cumsum(self.length_B) - self.length_B
        return Bags(torch.from_numpy(place_N), torch.from_numpy(first_B), torch.from_numpy(self.weight_N))


class FeatureReader:
    """Reads the features of batches from a dataset.

    Args:
        space: the columns that the model reads.
        features: of the dataset.
        whole: events are read at once; False: `over` hands them in, step by step.
        unasked: share of the windows of a training step in which nothing is said of the event to predict, so that the model can be asked without.
    """

    def __init__(self, space: Space, features: DatasetFeatures, *, whole: bool = True, unasked: float = 0.0) -> None:
        self.space, self.features, self.unasked = space, features, unasked
        self.event_FE: list[NDArray[np.integer]] = []
        self._tables: dict[str, Lists] = {}
        if whole:
            self.event_FE = [features.of_events(column) for column in space.of("event")]

    def over(self, event_FE: Sequence[NDArray[np.integer]]) -> FeatureReader:
        """The same over other events."""
        other = copy(self)
        other.event_FE = list(event_FE)
        return other

    def of_later(self, later: DatasetFeatures | None, where: str) -> FeatureReader:
        """Reads the items of a later dataset: values by their words, since numbers may have moved.

        Raises:
            DataError: it has not the features, or they are declared otherwise.
        """
        tables = {}
        for column in self.space.of("item"):
            theirs = find(later.columns if later is not None else (), column.name)[0]
            if theirs.side != "item":
                raise DataError(
                    f"{where}: feature '{column.name}' is no feature of items there; prepare it as the run's dataset"
                )
            lists = later.of_table(theirs) if later is not None else None
            assert lists is not None
            tables[column.name] = Lists(column.from_other(theirs)[lists.values_N], lists.offsets)
        other = copy(self)
        other._tables = tables
        return other

    def history(self, user: int, first: int, last: int) -> HistoryFeatures:
        """Of a user's events number `first` … `last - 1` among the events, with what event number `last` asks."""
        columns = self.space.of("event")
        event_EF = (
            np.stack([values[first:last] for values in self.event_FE], 1)
            if columns
            else np.empty((last - first, 0), np.int64)
        )
        asked_A = np.array([self.event_FE[columns.index(column)][last] for column in self.space.asked], np.int64)
        lists = [self._take(column, np.array([user])) for column in self.space.of("user")]
        return HistoryFeatures(event_EF, asked_A, [values.tolist() for values, _ in lists])

    def items(self, items_U: IntArray) -> BatchFeatures | None:
        """The features of items, by dense id."""
        entries = self._items(items_U)
        return None if entries is None else BatchFeatures.of(None, entries)

    def batch(self, event_T: IntArray, user_T: IntArray, items_U: IntArray, step: int | None) -> BatchFeatures:
        """The features of a batch.

        Args:
            event_T: number of each slot's event among the events.
            user_T: user of each slot.
            items_U: items of the batch.
            step: of training, which decides whose windows go without what is asked; None: all have it.
        """
        return BatchFeatures.of(self._slots(event_T, user_T, step), self._items(items_U))

    def _slots(self, event_T: IntArray, user_T: IntArray, step: int | None) -> _Entries | None:
        if not self.space.reads_slots:
            return None
        columns = self.space.of("event")
        is_told_T = np.ones(len(event_T), np.bool_)
        if step is not None and self.unasked:
            is_told_T = ~_chosen(user_T, step, self.unasked)
        asked = (self.event_FE[columns.index(column)][event_T + 1] for column in self.space.asked)
        return _Entries.of_slots(
            self.space,
            [values[event_T] for values in self.event_FE],
            [np.where(is_told_T, values_T, MISSING) for values_T in asked],
            [self._take(column, user_T) for column in self.space.of("user")],
        )

    def _items(self, items_U: IntArray) -> _Entries | None:
        parts = []
        for column in self.space.of("item"):
            values, lengths = self._take(column, items_U)
            parts.append((self.space.first(column) + values, lengths))
        return _Entries.joined(parts) if parts else None

    def _take(self, column: Column, rows: IntArray) -> tuple[IntArray, IntArray]:
        return (self._tables.get(column.name) or self.features.of_table(column)).take(rows)


def _chosen(user_T: IntArray, step: int, share: float) -> NDArray[np.bool_]:
    """Whose windows of a step go without: by user and step alone, however they are dealt out."""
    mixed_T = (user_T.astype(np.uint64) + np.uint64(step * _GOLDEN % 2**64)) * np.uint64(_MIX)
    mixed_T ^= mixed_T >> np.uint64(29)
    mixed_T *= np.uint64(_GOLDEN)
    return (mixed_T >> np.uint64(11)) * 2.0**-53 < share
