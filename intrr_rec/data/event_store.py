"""The events of a dataset where they lie: Parquet row groups, read one at a time through Arrow, from disk or object store.

Shape suffixes: E events, U users, G row groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from intrr_rec.data.loading.windows import IntArray
from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.places import not_the_input
from intrr_rec.io.formats.mapped import mapped_spool
from intrr_rec.io.stores.storage import Folder

Column = Literal["items", "timestamps"]
LENGTH = "length"  # column of the number of events of each history
TARGETS = "targets"  # column of marks, where not all events are targets
# Up to as many events, half a gigabyte a column, are held in memory; above, they are spooled to a local file that is mapped.
RESIDENT_EVENTS = 1 << 26
_NONE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Group:
    """One Parquet row group: whole users."""

    file: str
    number: int
    first_user: int
    end_user: int


class EventStore:
    """Row groups of whole histories, in the order of users.

    Args:
        folder: of the dataset.
        files: names in it, in order.
        events: E, of all of them.
        n_items: items have dense ids below it.

    Attributes:
        groups: in the order of users.
        offsets: `[U+1]`; the events of user `u` are numbers `offsets[u] … offsets[u+1]-1`.
        has_times: whether the events have times.
        marks_targets: whether some events are no targets.
    """

    def __init__(self, folder: Folder, files: Sequence[str], events: int, n_items: int) -> None:
        self.folder = folder
        self.groups: list[Group] = []
        self.n_items = n_items
        self.has_times, self.marks_targets = True, False
        self._whole: dict[Column, IntArray] = {}
        lengths: list[IntArray] = []
        users = seen = 0
        for file in files:
            with folder.open(file) as handle:
                parquet = pq.ParquetFile(handle)
                if LENGTH not in parquet.schema_arrow.names:
                    raise ArtefactError(f"{folder.place}/{file}: tells no lengths of histories; prepare the logs again")
                for number in range(parquet.num_row_groups):
                    length_U = _only_chunk(parquet, number, LENGTH).fill_null(0).to_numpy().astype(np.int64)
                    if len(length_U) and length_U.min() < 1:
                        raise ArtefactError(f"{folder.place}/{file}: row group {number} holds a history without events")
                    lengths.append(length_U)
                    self.groups.append(Group(file, number, users, users + len(length_U)))
                    users, seen = users + len(length_U), seen + int(length_U.sum())
                    if seen > events:
                        raise ArtefactError(f"{folder.place}/{file}: holds more events than the dataset has")
                self.marks_targets = TARGETS in parquet.schema_arrow.names
                if parquet.num_row_groups and self.has_times:
                    self.has_times = not _has_nulls(parquet, "timestamps")
        self.offsets: IntArray = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(lengths))])

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def events_of(self, group: int) -> tuple[int, int]:
        """First and end event number of a row group."""
        found = self.groups[group]
        return int(self.offsets[found.first_user]), int(self.offsets[found.end_user])

    def read(self, group: int, column: Column) -> IntArray:
        """A column of one row group, int64; a part of `whole` where that has been read.

        Raises:
            ArtefactError: the file has gone or changed since the dataset was opened.
        """
        if column in self._whole:
            return self._whole[column][slice(*self.events_of(group))]
        return self.read_narrow(group, column, np.dtype(np.int64))

    def read_narrow(self, group: int, column: str, dtype: np.dtype[Any]) -> NDArray[Any]:
        """As `read`, of any column and of the type that it has on disk."""
        found = self.groups[group]
        try:
            with self.folder.open(found.file) as handle:
                lists = _only_chunk(pq.ParquetFile(handle, pre_buffer=True), found.number, column)
                values = lists.flatten().to_numpy()
                starts = self.offsets[found.first_user : found.end_user + 1]
                if values.dtype != dtype or not np.array_equal(np.diff(lists.offsets), np.diff(starts)):
                    raise OSError(f"its {column} are not an integer for each event")
                if column == "items" and len(values) and not 0 <= values.min() <= values.max() < self.n_items:
                    raise OSError("it holds an item that is none")
                return values
        except (OSError, pa.ArrowException) as error:
            not_the_input(error)
            where = f"{self.folder.place}/{found.file}: row group {found.number}"
            raise ArtefactError(f"{where} cannot be read any more ({error}); was it changed?") from None

    def count_from(self, moment: int) -> IntArray:
        """How many events of each user lie at or after a moment (seconds since 1970), int64 [U]; one row group at a time."""
        counts = [
            np.add.reduceat(self.read(number, "timestamps") >= moment, starts, dtype=np.int64)
            for number, found in enumerate(self.groups)
            for starts in [self.offsets[found.first_user : found.end_user] - self.offsets[found.first_user]]
        ]
        return np.concatenate(counts)

    def last_targets(self) -> tuple[IntArray, IntArray]:
        """How many events of each user there are from the last target on, and from the last but one; 0 where there is none. `[U]`"""
        last, before = [], []
        for number in range(len(self.groups)):
            back_E, starts = self._back(number)
            is_target_E = self.read_marks(number) > 0
            last_U = np.minimum.reduceat(np.where(is_target_E, back_E, _NONE), starts)
            earlier_E = is_target_E & (back_E > np.repeat(last_U, np.diff(np.append(starts, len(back_E)))))
            last.append(last_U)
            before.append(np.minimum.reduceat(np.where(earlier_E, back_E, _NONE), starts))
        return tuple(np.where(found == _NONE, 0, found) for found in map(np.concatenate, (last, before)))  # type: ignore[return-value]

    def first_targets(self, moment: int, end: int | None) -> IntArray:
        """How many events of each user there are from the first target on that lies at or after a moment, and before `end`. `[U]`"""
        found = []
        for number in range(len(self.groups)):
            back_E, starts = self._back(number)
            times_E = self.read(number, "timestamps")
            counts_E = (self.read_marks(number) > 0) & (times_E >= moment)
            if end is not None:
                counts_E &= times_E < end
            found.append(np.maximum.reduceat(np.where(counts_E, back_E, 0), starts))
        return np.concatenate(found)

    def _back(self, group: int) -> tuple[IntArray, IntArray]:
        """How many events of its user there are from each event on, `[E]`, and where the users' events start."""
        found = self.groups[group]
        offsets = self.offsets[found.first_user : found.end_user + 1]
        starts = offsets[:-1] - offsets[0]
        return np.repeat(offsets[1:] - offsets[0], np.diff(offsets)) - np.arange(int(offsets[-1] - offsets[0])), starts

    def read_marks(self, group: int) -> NDArray[np.uint8]:
        """Which events of a row group are targets, 1 or 0."""
        return self.read_narrow(group, TARGETS, np.dtype(np.uint8))

    def whole_marks(self) -> NDArray[np.uint8]:
        """Which of all events are targets, 1 or 0."""
        return np.concatenate([self.read_marks(group) for group in range(len(self.groups))])

    def whole(self, column: Column) -> IntArray:
        """A column of all events, int64 [E]: in memory, or mapped from a local file without a name."""
        if column in self._whole:
            return self._whole[column]
        if len(self) <= RESIDENT_EVENTS:
            values_E: IntArray = np.empty(len(self), np.int64)
        else:
            values_E = mapped_spool(np.int64, (len(self),))
        for group in range(len(self.groups)):
            first, end = self.events_of(group)
            values_E[first:end] = self.read(group, column)
        self._whole[column] = values_E
        return values_E


def _has_nulls(parquet: Any, column: str) -> bool:
    """Whether the first row group's histories have none of a column, told by its statistics; without them it is read."""
    group = parquet.metadata.row_group(0)
    columns = (group.column(place) for place in range(group.num_columns))
    statistics = next(each.statistics for each in columns if each.path_in_schema.split(".")[0] == column)
    if statistics is None or not statistics.has_null_count:
        return bool(_only_chunk(parquet, 0, column).null_count)
    return statistics.null_count > 0


def _only_chunk(parquet: Any, number: int, column: str) -> Any:
    return parquet.read_row_group(number, columns=[column])[column].combine_chunks()
