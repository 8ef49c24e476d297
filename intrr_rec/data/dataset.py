"""The prepared dataset: every user's events in order, as flat arrays over dense ids.

Leave-one-out: a user's last event is the test target, the last but one the validation target, all before are the training
part. Validation may see the training part as history, test may see the validation target too. The other split, at moments that
are the same for all users, is that of `split.py`.

Shape suffixes: E events, U users, I items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from intrr_rec.config.logs.features import Side
from intrr_rec.config.logs.time_units import TimeUnit
from intrr_rec.data.event_store import LENGTH, TARGETS, EventStore
from intrr_rec.data.features.columns import Column
from intrr_rec.data.features.store import FEATURES, TABLES, DatasetFeatures, FeatureRecord
from intrr_rec.data.loading.windows import IntArray
from intrr_rec.data.seen import SEEN, Seen
from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import MANIFEST, Manifest, Opened
from intrr_rec.io.formats.mapped import roomy
from intrr_rec.io.formats.parquet import batches
from intrr_rec.io.formats.records import as_record
from intrr_rec.io.stores.storage import Location, location

if TYPE_CHECKING:
    from torch import Tensor

KIND = "dataset"
SEQUENCES = "sequences"
ITEMS = "items.parquet"
USERS = "users.parquet"
STATISTICS = "statistics.json"
REQUIRED = (f"{SEQUENCES}/*.parquet", ITEMS, USERS, STATISTICS)
MOMENT = 1 << 53  # seconds, beyond any time of a log
CHUNK = 1 << 16  # rows or events that are looked at together

SEQUENCE_SCHEMA = pa.schema(
    [
        ("user", pa.int64()),
        ("items", pa.list_(pa.int64())),
        ("timestamps", pa.list_(pa.int64())),
        (LENGTH, pa.int32()),
    ]
)
TARGET_FIELD = pa.field(TARGETS, pa.list_(pa.uint8()))  # 1 of an event that is a target; left out where all are


Part = Literal["train", "valid", "test"]
_LAST_ONES: dict[Part, int] = {"train": 2, "valid": 2, "test": 1}


@dataclass(frozen=True)
class Events:
    """Columns of some events.

    Attributes:
        feature_FE: of the features that are read.
    """

    items_E: IntArray
    times_E: IntArray | None = None
    feature_FE: Sequence[NDArray[np.integer]] = ()


class UserEvents(Protocol):
    """Events of users, one after another, each in time order; `Dataset` says what the names mean."""

    @property
    def offsets(self) -> np.ndarray:
        """Where each user's events begin, and the end of the last, `[U+1]`."""

    @property
    def first_users(self) -> IntArray:
        """Users whose events are read at once are neighbours: the first of each such group, `[G]`."""

    @property
    def has_times(self) -> bool:
        """Whether times are known."""

    def read(self, group: int, *, times: bool, features: Sequence[Column] = ()) -> Events:
        """The events of one group; times must be known."""

    def held_out(self, part: Part) -> IntArray:
        """Events at the end of each user's history that a part may not see."""

    def dropped(self, users_B: IntArray, length_B: IntArray) -> list[IntArray] | None:
        """Items that each of these users had in events that preparation drops, by the time that so many events of his history were
        over; None where there are none of anybody."""


class Counts(BaseModel):
    """Sizes that the manifest of a dataset tells."""

    users: int = Field(ge=1)
    items: int = Field(ge=1)
    interactions: int = Field(ge=1)


class _Split(BaseModel):
    model_config = ConfigDict(strict=True)

    valid_from: int = Field(ge=-MOMENT, le=MOMENT)
    test_from: int = Field(ge=-MOMENT, le=MOMENT)


class _Statistics(BaseModel):
    """What is read of `statistics.json`: the moments of a split by time, and what numbers in the logs' time column counted."""

    split: _Split | None = None
    time_unit: TimeUnit | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """A dataset artefact, opened.

    Attributes:
        path: a folder, or the URL of one.
        events: its row groups, for who reads them one at a time.
        offsets: [U+1]; the events of user `u` are `items_E[offsets[u]:offsets[u+1]]`, at least three.
        moments: seconds since 1970 from which on events are for validation and for testing; None: leave-one-out.
        time_unit: what numbers in the time column of its logs counted; None: there were none.
        features: of events, items and users; None where none were declared.
        until: seconds since 1970 from which on events are not of the training part, whatever the split.
    """

    path: Location
    manifest: Manifest
    n_users: int
    n_items: int
    events: EventStore
    offsets: np.ndarray
    moments: tuple[int, int] | None = None
    time_unit: TimeUnit | None = None
    features: DatasetFeatures | None = None
    until: int | None = None

    @classmethod
    def open(cls, path: Location) -> Dataset:
        """Verify the artefact's hashes and read the lengths of its histories; no event is read.

        Raises:
            ArtefactError: `path` is not a whole, unaltered dataset artefact.
        """
        path = location(path)
        return artefact.open_artefact(path, KIND, lambda opened: cls._of(path, opened), REQUIRED)

    @classmethod
    def _of(cls, path: Location, opened: Opened) -> Dataset:
        manifest = opened.manifest
        counts = as_record(manifest.counts, Counts, f"{path}/{MANIFEST}", "prepare the logs again")
        parts = sorted(name for name in manifest.files if name.startswith(f"{SEQUENCES}/"))
        events = EventStore(opened.folder, parts, counts.interactions, counts.items)
        found = {"users": len(events.offsets) - 1, "interactions": len(events)}
        for name in (USERS, ITEMS):
            found[name] = opened.parquet(name).metadata.num_rows
        for name, expected in (("users", counts.users), ("interactions", counts.interactions)):
            if found[name] != expected:
                raise ArtefactError(f"{path}: {SEQUENCES} has {found[name]} {name}, its {MANIFEST} says {expected}")
        for name, expected in ((USERS, counts.users), (ITEMS, counts.items)):
            if found[name] != expected:
                raise ArtefactError(f"{path}: {name} has {found[name]} rows, its {MANIFEST} says {expected}")
        statistics = opened.record(STATISTICS, _Statistics)
        split, unit = statistics.split, statistics.time_unit
        moments = (split.valid_from, split.test_from) if split else None
        features = None
        if FEATURES in manifest.files:
            features = DatasetFeatures(opened.record(FEATURES, FeatureRecord), events)
            sizes: dict[Side, int] = {"item": counts.items, "user": counts.users}
            for side, expected in sizes.items():
                name = TABLES[side]
                if features.record.of(side) and opened.parquet(name).metadata.num_rows != expected:
                    raise ArtefactError(f"{path}: {name} has not the {expected} rows of its {MANIFEST}")
        return cls(path, manifest, counts.users, counts.items, events, events.offsets, moments, unit, features)

    @cached_property
    def items_E(self) -> np.ndarray:
        """Dense item id of every event, users one after another, each in time order (equal or no times: file order)."""
        return self.events.whole("items")

    @property
    def first_users(self) -> IntArray:
        """See `UserEvents`: a group is a row group."""
        return np.array([group.first_user for group in self.events.groups])

    def read(self, group: int, *, times: bool, features: Sequence[Column] = ()) -> Events:
        """See `UserEvents`."""
        times_E = self.events.read(group, "timestamps") if times else None
        assert self.features is not None or not features
        feature_FE = [self.features.of_group(group, column) for column in features] if self.features else ()
        return Events(self.events.read(group, "items"), times_E, feature_FE)

    @cached_property
    def seen(self) -> Seen | None:
        """What users had in events that were dropped; None where none were for their type or weight."""
        return Seen.read(self.events.folder, self.n_users, self.n_items) if SEEN in self.manifest.files else None

    def dropped(self, users_B: IntArray, length_B: IntArray) -> list[IntArray] | None:
        """See `UserEvents`."""
        return None if self.seen is None else self.seen.of(users_B, length_B)

    @cached_property
    def timestamps_E(self) -> np.ndarray | None:
        """Seconds since 1970, as long as `items_E`; None where the logs have no time column."""
        return self.events.whole("timestamps") if self.events.has_times else None

    @property
    def has_times(self) -> bool:
        """Whether the logs had a time column."""
        return self.events.has_times

    def held_out(self, part: Part) -> IntArray:
        """How many events at the end of each user's history this part may not see, int64 [U].

        Training reads none of them. For "valid" and "test" the first of them is the target, all before it its history, and 0
        says that the user has no target. Where not all events are targets, the last two targets are held out in place of the last
        two events, and after a moment the first target in place of the first event. From `until` on training sees nothing.
        """
        if part == "train" and self.until is not None:
            return self._held_out_until
        return self._held_out(part)

    @cached_property
    def _held_out_until(self) -> IntArray:
        assert self.until is not None
        return np.maximum(self._held_out("train"), self.events.count_from(self.until))

    def _held_out(self, part: Part) -> IntArray:
        """`held_out` by the split alone."""
        if self.events.marks_targets:
            return self._held_out_targets[part]
        if self.moments is None:
            return np.broadcast_to(np.int64(_LAST_ONES[part]), self.n_users)
        after_U, until_U = self._from_moments
        if part == "valid":
            return np.where(after_U > until_U, after_U, 0)
        return after_U if part == "train" else until_U

    @cached_property
    def _held_out_targets(self) -> dict[Part, IntArray]:
        """`held_out` where not all events are targets."""
        if self.moments is None:
            test_U, valid_U = self.events.last_targets()
            return {"test": test_U, "valid": valid_U, "train": np.where(valid_U > 0, valid_U, test_U)}
        first, second = self.moments
        valid_U = self.events.first_targets(first, second)
        return {"train": self._from_moments[0], "valid": valid_U, "test": self.events.first_targets(second, None)}

    @cached_property
    def is_target_E(self) -> NDArray[np.uint8] | None:
        """1 of every event that is a target, 0 of the others, as long as `items_E`; None where all are targets."""
        return self.events.whole_marks() if self.events.marks_targets else None

    @cached_property
    def _from_moments(self) -> tuple[IntArray, IntArray]:
        """Events of each user from either moment on."""
        assert self.moments is not None
        return self.events.count_from(self.moments[0]), self.events.count_from(self.moments[1])

    def targets(self, part: Literal["valid", "test"]) -> tuple[IntArray, IntArray]:
        """Users [T] who have a target and a history before it, rising; and the number of the target's event, [T]."""
        held_out_U = self.held_out(part)
        event_U = self.offsets[1:] - held_out_U
        users = np.flatnonzero((held_out_U > 0) & (event_U > self.offsets[:-1]))
        return users, event_U[users]

    def history(self, user: int) -> IntArray:
        """All items of a user; his row group is read."""
        group = int(np.searchsorted(self.first_users, user, side="right")) - 1
        first = self.events.events_of(group)[0]
        return self.events.read(group, "items")[self.offsets[user] - first : self.offsets[user + 1] - first]

    def popularity(self) -> np.ndarray:
        """Targets of the training part of each item, int64 [I]; of a large catalogue, in a file of TMPDIR that is mapped."""
        if not self._counted:
            self._counted.append(self._count(range(len(self.events.groups))))
        return self._counted[0]

    def share_popularity(self, add: Callable[[Tensor], Tensor], rank: int, ranks: int) -> None:
        """Count `popularity` by ranks, each of which reads its share of the row groups; every rank calls this.

        Args:
            add: adds up over ranks.
        """
        if self._counted or ranks == 1:
            return
        import torch  # pages that only look at files do without it

        groups = len(self.events.groups)
        counts_I = self._count(range(groups * rank // ranks, groups * (rank + 1) // ranks))
        for first in range(0, self.n_items, CHUNK):
            part = counts_I[first : first + CHUNK]
            part[:] = add(torch.from_numpy(part)).numpy()
        self._counted.append(counts_I)

    @cached_property
    def _counted(self) -> list[np.ndarray]:
        return []

    def _count(self, groups: Iterable[int]) -> np.ndarray:
        """Targets of the training part of each item in some row groups."""
        held_out_U, counts_I = self.held_out("train"), roomy(np.int64, (self.n_items,))
        for group in groups:
            found = self.events.groups[group]
            users = slice(found.first_user, found.end_user)
            length_U = np.diff(self.offsets[users.start : users.stop + 1])
            left_E = np.repeat(np.cumsum(length_U) - held_out_U[users], length_U)  # events before it are learnt from
            is_target_E = np.arange(len(left_E)) < left_E
            if self.events.marks_targets:
                is_target_E &= self.events.read_marks(group) > 0
            np.add.at(counts_I, self.events.read(group, "items")[is_target_E], 1)
        return counts_I

    def item_ids(self) -> pa.ChunkedArray:
        """The user's own item ids (int64 or string), at the position of their dense id; sorted, but for those added later."""
        return self.table(ITEMS, ["item_id"])["item_id"]

    def own_id_parts(self) -> Iterator[pa.Array]:
        """`item_ids`, some at a time."""
        with self.events.folder.open(ITEMS) as handle:
            for batch in batches(pq.ParquetFile(handle), CHUNK, ["item_id"]):
                yield batch["item_id"]

    def own_ids(self, items: Sequence[int] | np.ndarray) -> pa.Array:
        """The user's own ids of these items (dense ids); the others are not held in memory."""
        return self.take(ITEMS, ["item_id"], items)["item_id"].combine_chunks()

    def user_ids(self) -> pa.ChunkedArray:
        """The user's own user ids (int64 or string), at the position of their dense id; sorted, but for those added later."""
        return self.table(USERS, ["user_id"])["user_id"]

    @property
    def item_columns(self) -> list[str]:
        """Columns of the item table."""
        with self.events.folder.open(ITEMS) as handle:
            return pq.read_schema(handle).names

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A Parquet file of the dataset, or some of its columns; those it does not have are left out."""
        with self.events.folder.open(name) as handle:
            file = pq.ParquetFile(handle)
            present = None if columns is None else [each for each in columns if each in file.schema_arrow.names]
            return file.read(present)

    def take(self, name: str, columns: Sequence[str], places: Sequence[int] | np.ndarray) -> pa.Table:
        """Rows of a Parquet file of the dataset, in the order asked for; columns it does not have are left out."""
        place_R = np.asarray(places, np.int64)
        order_R = np.argsort(place_R, kind="stable")
        sorted_R, parts, first = place_R[order_R], [], 0
        with self.events.folder.open(name) as handle:
            file = pq.ParquetFile(handle)
            present = [each for each in columns if each in file.schema_arrow.names]
            empty = file.schema_arrow.empty_table().select(present)
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                if np.searchsorted(sorted_R, first) < np.searchsorted(sorted_R, end):  # else nothing of it is asked for
                    start = first
                    for batch in file.iter_batches(CHUNK, row_groups=[group], columns=present):
                        low, high = np.searchsorted(sorted_R, [start, start + len(batch)])
                        parts.append(pa.Table.from_batches([batch]).take(pa.array(sorted_R[low:high] - start)))
                        start += len(batch)
                first = end
        found = pa.concat_tables(parts) if parts else empty
        return found.take(pa.array(np.argsort(order_R, kind="stable")))

    def titles(self, items: Sequence[int] | None = None) -> list[str]:
        """What to call each item, or each of `items` (dense ids): its `title`, else its `text`, else its own id."""
        table = self.take(ITEMS, ["title", "text", "item_id"], range(self.n_items) if items is None else items)
        return [str(next(v for v in row if v is not None)) for row in zip(*(c.to_pylist() for c in table), strict=True)]
