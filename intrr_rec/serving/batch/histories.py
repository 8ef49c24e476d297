"""Histories of a batch job, streamed: a shard of users at a time, whatever their number.

Two sources: a prepared dataset, whose sequences are in order already, and a table of events (`event_source.py`). Items are known by the
user's own id where the bundle was made from another dataset.

Shape suffixes: U users of a shard, E events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from intrr_rec.data.dataset import ITEMS, KIND, REQUIRED, SEQUENCES, USERS
from intrr_rec.data.event_store import TARGETS
from intrr_rec.data.seen import SEEN, Seen
from intrr_rec.errors import DataError
from intrr_rec.io import artefact
from intrr_rec.io.formats.mapped import roomy
from intrr_rec.io.formats.parquet import batches
from intrr_rec.serving.batch.features import FeaturesOfDataset, ShardFeatures
from intrr_rec.serving.bundle.bundle import Bundle

READ_ROWS = 131_072


@dataclass(frozen=True)
class Histories:
    """Histories of some users.

    Attributes:
        user_ids: their own ids.
        items_E: items of all events by their dense ids in the bundle, user after user, the oldest first; -1 for one it does not know.
        offsets: `[U + 1]`.
        times_E: seconds since 1970 of each event; None where there are none.
        request_U: the moment the recommendation is asked for, int64 seconds; None where times are not read.
        features: numbers of the features that the bundle reads; None where it reads none.
        seen: dense ids in the bundle of what each user had in events that were dropped, -1 for one it does not know; None: of nobody.
    """

    user_ids: pa.Array
    items_E: NDArray[np.int64]
    offsets: NDArray[np.int64]
    times_E: NDArray[np.int64] | None
    request_U: NDArray[np.int64] | None
    features: ShardFeatures | None = None
    seen: Sequence[NDArray[np.int64]] | None = None


class Source(Protocol):
    """Where histories come from."""

    @property
    def identity(self) -> str:
        """Of the content, for the name of the job."""

    @property
    def users(self) -> int | None:
        """How many there are; None where that is not known beforehand."""

    def shards(self, users: int, scratch: Path, bundle: Bundle, own: range | None = None) -> Iterator[Histories]:
        """Histories of `users` users at a time, always the same.

        Args:
            scratch: may be written to.
            bundle: knows the items that can be recommended.
            own: numbers of the shards that are asked for, where it is known how many there are; None: all.

        Raises:
            DataError: none of the events is of one of them.
        """


class DatasetSource:
    """The users of a prepared dataset.

    Args:
        path: of the dataset.
        held_out: events at the end of every history that are left out; 1 is what `intrr evaluate` does for the test
            split of leave-one-out. Where not all events are targets, so many targets and what follows them.

    Raises:
        ArtefactError: not a whole dataset.
    """

    def __init__(self, path: Path, held_out: int) -> None:
        self._opened = artefact.open_artefact(path, KIND, lambda opened: opened, REQUIRED)
        self._features: FeaturesOfDataset | None = None
        manifest = self._opened.manifest
        self._seen: Seen | None = None
        if SEEN in manifest.files:
            self._seen = Seen.read(self._opened.folder, manifest.counts["users"], manifest.counts["items"])
        self._path = path
        self.held_out = held_out
        self.identity = f"{manifest.content_hash}-{held_out}"
        self.users: int = manifest.counts["users"]
        self._parts = sorted(name for name in manifest.files if name.startswith(f"{SEQUENCES}/"))

    def shards(self, users: int, scratch: Path, bundle: Bundle, own: range | None = None) -> Iterator[Histories]:
        """See `Source`; row groups without users of these shards are not read."""
        place_I = self._places(bundle)
        wanted = range(0, self.users) if own is None else range(users * own.start, min(users * own.stop, self.users))
        if bundle.space.columns:
            self._features = FeaturesOfDataset(self._path, self._opened, bundle.space)
        user_ids = self._opened.parquet(USERS).read(["user_id"])["user_id"].combine_chunks()
        pending: list[pa.Table] = []
        for rows in self._rows(wanted, min(users, READ_ROWS)):
            pending.append(rows)
            while sum(map(len, pending)) >= users:
                table = pa.concat_tables(pending)
                yield self._histories(table[:users], place_I, user_ids)
                pending = [table[users:]]
        if sum(map(len, pending)):
            yield self._histories(pa.concat_tables(pending), place_I, user_ids)

    def _rows(self, wanted: range, rows: int) -> Iterator[pa.Table]:
        """Histories of these users, by number, at most so many at a time."""
        first = 0
        for part in self._parts:
            file = self._opened.parquet(part)
            for group in range(file.num_row_groups):
                end = first + file.metadata.row_group(group).num_rows
                if first < wanted.stop and wanted.start < end:
                    for batch in file.iter_batches(rows, row_groups=[group]):
                        if first >= wanted.stop:
                            return
                        low, high = max(wanted.start - first, 0), wanted.stop - first
                        yield pa.Table.from_batches([batch])[low:high]
                        first += len(batch)
                first = end

    def _places(self, bundle: Bundle) -> NDArray[np.int64] | None:
        """Dense ids in the bundle of the dataset's items, -1 for one it does not know; None where they are the same."""
        if bundle.manifest.parents.get("dataset") == self._opened.manifest.content_hash:
            return None
        place_I = roomy(np.int64, (self._opened.manifest.counts["items"],))
        first, is_known, example = 0, False, None
        for batch in batches(self._opened.parquet(ITEMS), READ_ROWS, ["item_id"]):
            own = batch["item_id"].cast(pa.string())
            place_I[first : first + len(own)] = found = bundle.items.index.places(own)
            is_known = is_known or bool((found >= 0).any())
            first, example = first + len(own), own[0].as_py() if example is None else example
        if not is_known:
            raise none_known(self._path, example, bundle)
        return place_I

    def _held_out_of(self, table: pa.Table) -> NDArray[np.int64] | int:
        """Events that are left out of each row's history: where not all events are targets, from the `held_out`th last target on."""
        if TARGETS not in table.column_names or not self.held_out:
            return self.held_out
        lengths = pc.list_value_length(table[TARGETS]).to_numpy()
        is_target_E = pc.list_flatten(table[TARGETS]).to_numpy() > 0
        until_E = np.concatenate([[0], np.cumsum(is_target_E)])
        first_U, end_U = np.cumsum(lengths) - lengths, np.cumsum(lengths)
        # The number, over all rows, of the first target that is left out.
        wanted_U = np.maximum(until_E[end_U] - self.held_out, until_E[first_U]) + 1
        event_U = np.searchsorted(until_E, wanted_U) - 1
        return np.where(until_E[end_U] > until_E[first_U], end_U - event_U, 0)

    def _histories(self, table: pa.Table, place_I: NDArray[np.int64] | None, user_ids: pa.Array) -> Histories:
        length_U = pc.list_value_length(table["items"]).to_numpy()
        kept_U = np.maximum(length_U - self._held_out_of(table), 0)
        place_E = np.arange(length_U.sum()) - np.repeat(np.cumsum(length_U) - length_U, length_U)
        is_kept_E = place_E < np.repeat(kept_U, length_U)
        times_E = request_U = None
        if not table["timestamps"].null_count:
            all_E = pc.list_flatten(table["timestamps"]).to_numpy()
            times_E = all_E[is_kept_E]
            asked_U = np.minimum(kept_U, length_U - 1)  # at the first event left out, or right after the last
            request_U = all_E[np.cumsum(length_U) - length_U + asked_U]
        items_E = pc.list_flatten(table["items"]).to_numpy()[is_kept_E]
        seen = None
        if self._seen is not None:
            found = self._seen.of(table["user"].to_numpy(), kept_U)
            seen = found if place_I is None else [place_I[item_N] for item_N in found]
        return Histories(
            user_ids.take(table["user"].combine_chunks()),
            items_E if place_I is None else place_I[items_E],
            np.concatenate([[0], np.cumsum(kept_U)]),
            times_E,
            request_U,
            None if self._features is None else self._features.shard(table, kept_U, is_kept_E, request_U),
            seen,
        )


def none_known(path: Path, example: object, bundle: Bundle) -> DataError:
    """The error of histories without an item that the bundle knows."""
    return DataError(
        f"{path}: holds no event of an item that the bundle knows: its item ids are such as {str(example)!r}, those of the bundle such "
        f"as {bundle.items.own([0])[0]!r}; write both the same way, or export a bundle of this catalogue"
    )
