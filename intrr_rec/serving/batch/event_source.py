"""Histories of a batch job from a table of events, read as `intrr prepare` reads logs, and sorted by user and time by DuckDB on disk.

Shape suffixes: U users of a shard, E events, P events that were dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import narwhals as nw
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from intrr_rec.config import PrepareConfig, load_recipe
from intrr_rec.config.logs.time_units import UNIT_NAMES, TimeUnit
from intrr_rec.data.features.space import Space
from intrr_rec.data.prepare.engines import DuckDBEngine
from intrr_rec.data.prepare.filters import COUNTS, PLACE, of_histories, with_dropped
from intrr_rec.data.raw.files import IdKind
from intrr_rec.data.raw.logs import common_kinds, connect, create_events, load_events, open_logs
from intrr_rec.data.raw.paths import files_hash, table_files
from intrr_rec.errors import ConfigError, DataError
from intrr_rec.io import shards as jobs
from intrr_rec.serving.batch.features import FeaturesOfEvents, read_features
from intrr_rec.serving.batch.histories import READ_ROWS, Histories, none_known
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.features import NONE

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
        raise none_known(self.path, example, bundle)

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


def _is_start(users: pa.ChunkedArray) -> NDArray[np.bool_]:
    """Where a user differs from the one before."""
    users = users.combine_chunks()
    differs = pc.not_equal(users[1:], users[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([np.ones(min(1, len(users)), np.bool_), differs])
