"""Histories of a batch job, streamed: a shard of users at a time, whatever their number.

Two sources: a prepared dataset, whose sequences are in order already, and a table of events, which is read as `intrr prepare` reads
logs, and which DuckDB sorts by user and time on disk. Items are known by the user's own id where the bundle was made from another dataset.

Shape suffixes: U users of a shard, E events.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import duckdb
import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from intrr_rec.config import PrepareConfig, load_recipe
from intrr_rec.config.time_units import UNIT_NAMES, TimeUnit
from intrr_rec.data.dataset import ITEMS, KIND, REQUIRED, SEQUENCES, USERS
from intrr_rec.data.event_store import TARGETS
from intrr_rec.data.features.space import Space
from intrr_rec.data.prepare.engines import DuckDBEngine
from intrr_rec.data.prepare.filters import COUNTS, PLACE, of_histories, with_dropped
from intrr_rec.data.raw.files import IdKind
from intrr_rec.data.raw.logs import common_kinds, connect, create_events, load_events, open_logs
from intrr_rec.data.raw.paths import files_hash, table_files
from intrr_rec.data.seen import SEEN, Seen
from intrr_rec.errors import ConfigError, DataError
from intrr_rec.io import artefact
from intrr_rec.io import shards as jobs
from intrr_rec.io.mapped import roomy
from intrr_rec.io.parquet import batches
from intrr_rec.serving.batch.features import FeaturesOfDataset, FeaturesOfEvents, ShardFeatures, read_features
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.features import NONE

READ_ROWS = 131_072
MEMORY_GB = 0.256  # what DuckDB may hold while it reads and sorts; the rest goes to disk
# Settings of `prepare` that say how events are read, and which of them a history holds.
EVENT_SETTINGS = (
    "user_column",
    "item_column",
    "time_column",
    "time_unit",
    "id_type",
    "separator",
    "column_names",
    "event_column",
    "event_weights",
    "min_weight",
    "deduplicate",
    "users_column",
    "users_separator",
    "users_column_names",
    "encoding",
)


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
            raise _none_known(self._path, example, bundle)
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


class EventSource:
    """The users of a table of events: every format, and the rules, of `intrr prepare`.

    Each history is in order of the full time, and in the order of the rows where times are equal or `config.time_column` is null. A
    recommendation is asked for right after the last event. `config.event_weights`, `min_weight` and `deduplicate` choose the events
    of a history as they choose those of a dataset.

    Args:
        path: file or folder.
        config: columns, and which events count.
        unit: what numbers in the time column of the bundle's logs counted; None: there were none. With `config.time_unit` auto these
            events must count the same, as logs that are added to a dataset.
        space: features of events and users that the bundle reads; `config.features` declares how they are read.
        users: user table, for features of users; None: they are missing.
        seen: whether what `config` drops counts as seen, as where the bundle's dataset was prepared by the same settings.
        user_ids: what users are in the bundle's logs. Text tables of events, whose ids have no type, follow where that is text.

    Raises:
        DataError: a file that cannot be read, or a column that is missing; and, as shards are made, a value that cannot be used,
            times of another unit, or no event of an item that the bundle knows.
    """

    def __init__(
        self,
        path: Path,
        config: PrepareConfig,
        unit: TimeUnit | None = None,
        user_ids: IdKind | None = None,
        space: Space = NONE,
        users: Path | None = None,
        seen: bool = False,
    ) -> None:
        self.path, self.config, self.users = path, config, None
        self._counts_seen = seen and bool(config.event_weights)
        self._space, self._table = space, users
        self._unit, self._user_ids = unit if config.time_unit == "auto" else None, user_ids
        self.identity = jobs.identity(
            {
                "files": files_hash(table_files(path)),
                "settings": config.model_dump(mode="json", include=set(EVENT_SETTINGS)),
                "logs": [self._unit, user_ids, self._counts_seen],
                "users": None if users is None else files_hash(table_files(users)),
            }
        )
        with closing(duckdb.connect()) as con:
            open_logs(con, [path], config)

    def shards(self, users: int, scratch: Path, bundle: Bundle, own: range | None = None) -> Iterator[Histories]:
        """See `Source`; who there is, is known when all events are read."""
        table: pa.Table | None = None
        with (
            TemporaryDirectory(dir=scratch, prefix=".events-") as spill,
            closing(connect(Path(spill), MEMORY_GB)) as con,
        ):
            logs = open_logs(con, [self.path], self.config)
            kinds, user = common_kinds(con, logs, self.config), self.config.user_column
            if (
                self.config.id_type == "auto"
                and self._user_ids == "string"
                and not any(raw.is_typed(user) for raw in logs)
            ):
                kinds[user] = "string"
            create_events(con, kinds, self.config)
            self._require_unit(load_events(con, logs, kinds, self.config, first=0))
            self._require_known(con, bundle)
            features = FeaturesOfEvents(con, self.config, self._space, self._table, kinds[user])
            with closing(DuckDBEngine(con)) as engine:
                numbers = [*features.columns, COUNTS]
                kept = of_histories(engine, self.config)
                events = kept.with_columns(**{COUNTS: nw.lit(1, nw.Int64)})
                if self._counts_seen:  # of a user who has a history, what else he had
                    both = with_dropped(engine, self.config, kept, features.columns)
                    events = both.join(kept.select("user_id").unique(), on="user_id", how="semi")
                ordered = (
                    events.with_columns(item=nw.col("item_id").cast(nw.String))
                    .select("user_id", *PLACE, "item", *numbers)
                    .sort("user_id", *PLACE)
                    .select("user_id", "item", "time", *numbers)
                )
                for batch in engine.batches(ordered, READ_ROWS):
                    read = pa.Table.from_batches([batch])
                    table = read if table is None else pa.concat_tables([table, read])
                    first_U = np.flatnonzero(_is_start(table["user_id"]))
                    while len(first_U) > users:  # the last user may go on in the next batch
                        yield self._histories(table[: first_U[users]], bundle, features)
                        table, first_U = table[first_U[users] :], first_U[users:] - first_U[users]
                if table is not None:
                    yield self._histories(table, bundle, features)

    def _require_unit(self, unit: TimeUnit | None) -> None:
        if unit is not None and self._unit is not None and unit != self._unit:
            raise DataError(
                f"{self.path}: column '{self.config.time_column}': counts {UNIT_NAMES[unit]}, but the logs of the bundle's dataset "
                f"count {UNIT_NAMES[self._unit]}; if that is right, prepare.time_unit={unit} says so"
            )

    def _require_known(self, con: duckdb.DuckDBPyConnection, bundle: Bundle) -> None:
        con.execute("SELECT DISTINCT CAST(item_id AS VARCHAR) FROM events")
        example = None
        while rows := con.fetchmany(READ_ROWS):
            ids = pa.array([own for (own,) in rows], pa.string())
            if (bundle.items.index.places(ids) >= 0).any():
                return
            example = min([own for (own,) in rows] if example is None else [example, *(own for (own,) in rows)])
        raise _none_known(self.path, example, bundle)

    def _histories(self, table: pa.Table, bundle: Bundle, features: FeaturesOfEvents) -> Histories:
        seen = None
        if self._counts_seen:
            counts_E = table[COUNTS].to_numpy() > 0
            dropped = table.filter(pa.array(~counts_E))
            item_P = bundle.items.index.places(dropped["item"].combine_chunks())
            end_U = np.append(np.flatnonzero(_is_start(table["user_id"]))[1:], len(table))
            seen = np.split(item_P, np.cumsum(~counts_E)[end_U[:-1] - 1])
            table = table.filter(pa.array(counts_E))
        first_U = np.flatnonzero(_is_start(table["user_id"]))
        offsets = np.append(first_U, len(table))
        times_E = None if self.config.time_column is None else table["time"].to_numpy()
        request_U = None if times_E is None else times_E[offsets[1:] - 1]
        user_ids = table["user_id"].combine_chunks().take(pa.array(first_U))
        return Histories(
            user_ids,
            bundle.items.index.places(table["item"].combine_chunks()),
            offsets,
            times_E,
            request_U,
            features.shard(table, user_ids, request_U) if self._space.columns else None,
            seen,
        )


def events_for(bundle: Bundle, path: Path, overrides: Sequence[str], users: Path | None = None) -> EventSource:
    """A table of events, read as the logs of the bundle's dataset were, except for the words of a command line.

    Args:
        users: user table, for a bundle that reads features of users.

    Raises:
        ConfigError: a setting that reading events does not use, or a value out of range.
        DataError: as `EventSource`.
    """
    known = bundle.settings
    config = event_settings(bundle, overrides).model_copy(update={"features": read_features(bundle, users)})
    # Words that choose the events say which log is meant: what they leave out is no part of it.
    seen = all(getattr(config, name) == getattr(known.prepare, name) for name in ("event_weights", "min_weight"))
    return EventSource(path, config, known.time_unit, known.user_ids, bundle.space, users, seen)


def event_settings(bundle: Bundle, overrides: Sequence[str]) -> PrepareConfig:
    """How to read events for a bundle: as the logs of its dataset were read, except for the words of a command line.

    Raises:
        ConfigError: a setting that reading events does not use, or a value out of range.
    """
    readable = [f"prepare.{name}" for name in EVENT_SETTINGS]
    known = {"prepare": bundle.settings.prepare.model_dump(mode="json", include=set(EVENT_SETTINGS))}
    config = load_recipe(None, overrides, under=(bundle.path, known)).prepare
    for word in overrides:
        key = word.partition("=")[0]
        if key not in readable:
            raise ConfigError(f"recommend --events: {key} is not read; leave it out: it reads {', '.join(readable)}")
    return config


def _none_known(path: Path, example: object, bundle: Bundle) -> DataError:
    return DataError(
        f"{path}: holds no event of an item that the bundle knows: its item ids are such as {str(example)!r}, those of the bundle such "
        f"as {bundle.items.own([0])[0]!r}; write both the same way, or export a bundle of this catalogue"
    )


def _is_start(users: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Where a user differs from the one before."""
    users = users.combine_chunks()
    differs = pc.not_equal(users[1:], users[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([np.ones(min(1, len(users)), np.bool_), differs])
