"""Features of the histories of a batch job, as numbers of the bundle's columns: from a prepared dataset, or from raw tables.

Shape suffixes: U users of a shard, E events, A columns that are asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from intrr_rec.config import PrepareConfig
from intrr_rec.config.logs.features import FeaturesConfig
from intrr_rec.data.features.columns import FIRST, MISSING, Column, find, parts_of
from intrr_rec.data.features.encode import encode_events, raws_of
from intrr_rec.data.features.prepare import FeatureTables
from intrr_rec.data.features.space import Space
from intrr_rec.data.features.store import FEATURES, IN_SEQUENCES, TABLES, FeatureRecord, Lists, lists_of
from intrr_rec.data.loading.features import HistoryFeatures
from intrr_rec.data.raw.files import IdKind
from intrr_rec.errors import ConfigError, DataError
from intrr_rec.io.artefact import Opened
from intrr_rec.io.formats.records import as_record
from intrr_rec.serving.bundle.bundle import Bundle

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShardFeatures:
    """Features of a shard's users.

    Attributes:
        event_EF: of each event, in the order of `Space.of("event")`.
        asked_UA: of what is asked for after the last event of each user, in the order of `Space.asked`.
        user: of each column of users, by user.
    """

    event_EF: NDArray[np.int64]
    asked_UA: NDArray[np.int64]
    user: Sequence[Lists]

    def history(self, user: int, event_EF: NDArray[np.int64]) -> HistoryFeatures:
        """Of one user, with the events that are left of his."""
        own = [each.take(np.array([user]))[0].tolist() for each in self.user]
        return HistoryFeatures(event_EF, self.asked_UA[user], own)


class FeaturesOfDataset:
    """Features of the users of a prepared dataset: values by their words, since its numbers may be others than the bundle's.

    Args:
        path: of the dataset, for error messages.
        opened: the dataset.
        space: what the bundle reads.

    Raises:
        DataError: the dataset has not these features, or declares them otherwise.
    """

    def __init__(self, path: Path, opened: Opened, space: Space) -> None:
        self.space = space
        columns: tuple[Column, ...] = ()
        if FEATURES in opened.manifest.files:
            record = as_record(opened.json(FEATURES), FeatureRecord, f"{path}/{FEATURES}", "prepare it again")
            columns = record.columns
        self._numbers = {}
        for column in space.columns:
            try:
                (theirs,) = find([each for each in columns if each.side == column.side], column.name)
            except DataError:
                raise DataError(
                    f"{path}: has no feature '{column.feature}', which the bundle reads; prepare it as the dataset that the model was "
                    "trained on"
                ) from None
            self._numbers[column.name] = column.from_other(theirs)
        self._users = []
        for column in space.of("user"):
            values = opened.parquet(TABLES["user"]).read([column.name])[column.name].combine_chunks()
            lists = lists_of(values)
            self._users.append(Lists(self._numbers[column.name][lists.values_N], lists.offsets))

    def shard(
        self,
        table: pa.Table,
        kept_U: NDArray[np.int64],
        is_kept_E: NDArray[np.bool_],
        request_U: NDArray[np.int64] | None,
    ) -> ShardFeatures:
        """Features of rows of `sequences/`.

        What is asked for is what the first event that is left out says; where none is, nothing but the time of the request is known.

        Args:
            table: the rows.
            kept_U: events of each user that are not left out.
            is_kept_E: which those are.
            request_U: moments of the requests.
        """
        length_U = pc.list_value_length(table["items"]).to_numpy()
        next_U = np.cumsum(length_U) - length_U + np.minimum(kept_U, length_U - 1)
        is_left_out_U = kept_U < length_U
        events, asked = [], []
        for column in self.space.of("event"):
            all_E = pc.list_flatten(table[IN_SEQUENCES + column.name]).to_numpy()
            numbers_E = self._numbers[column.name][all_E]
            events.append(numbers_E[is_kept_E])
            if column.asked:
                asked.append(np.where(is_left_out_U, numbers_E[next_U], _of_request(column, len(table), request_U)))
        rows = table["user"].to_numpy()
        user = [_some(lists, rows) for lists in self._users]
        return ShardFeatures(_stacked(events, int(is_kept_E.sum())), _stacked(asked, len(table)), user)


class FeaturesOfEvents:
    """Features of a raw table of events and a raw table of users; `events` of the connection has its raw values replaced.

    Args:
        con: has the table `events`.
        config: how the features are read.
        space: what the bundle reads.
        users: user table; None: features of users are missing.
        kind: of user ids.

    Raises:
        DataError: a table, a column or a value that cannot be used.
    """

    def __init__(
        self, con: duckdb.DuckDBPyConnection, config: PrepareConfig, space: Space, users: Path | None, kind: IdKind
    ) -> None:
        self.space = space
        columns = space.of("event")
        self.columns = [f"feature_{n}" for n in range(len(columns))]
        if columns:
            encode_events(con, raws_of(config.features, "event"), columns)
        self._con: duckdb.DuckDBPyConnection | None = None
        if space.of("user") and users is None:
            log.warning("the bundle reads features of users, and no user table is given: they count as missing")
        if space.of("user") and users is not None:
            tables = FeatureTables(con, config)
            tables.read_users(users, kind, space.of("user"))
            con.execute(f"CREATE TABLE user_numbers AS {tables.encoded('user')}")
            self._con = con.cursor()  # another query goes on meanwhile

    def shard(self, table: pa.Table, user_ids: pa.Array, request_U: NDArray[np.int64] | None) -> ShardFeatures:
        """Features of the events of some users, and of these users."""
        events = [table[name].to_numpy().astype(np.int64) for name in self.columns]
        asked = [_of_request(column, len(user_ids), request_U) for column in self.space.asked]
        return ShardFeatures(_stacked(events, len(table)), _stacked(asked, len(user_ids)), self._of_users(user_ids))

    def _of_users(self, user_ids: pa.Array) -> list[Lists]:
        columns = self.space.of("user")
        if self._con is None:
            return [Lists(np.full(len(user_ids), MISSING, np.int64)) for _ in columns]
        chosen = (
            f"coalesce(n.feature_{n}, {f'[{MISSING}]' if column.is_multi else MISSING})"
            for n, column in enumerate(columns)
        )
        self._con.register("asked_users", pa.table({"id": user_ids, "place": np.arange(len(user_ids))}))
        found = self._con.sql(
            f"SELECT {', '.join(chosen)} FROM asked_users a LEFT JOIN user_numbers n USING (id) ORDER BY a.place"
        ).to_arrow_table()
        self._con.unregister("asked_users")
        lists = [lists_of(column.combine_chunks()) for column in found.columns]
        return [Lists(each.values_N.astype(np.int64), each.offsets) for each in lists]


def read_features(bundle: Bundle, users: Path | None) -> FeaturesConfig:
    """How the features that a bundle reads stand in raw tables.

    Raises:
        ConfigError: a user table for a bundle that reads nothing of users.
    """
    declared, space = bundle.settings.prepare.features, bundle.space
    names = {column.feature for column in space.columns}
    if users is not None and not space.of("user"):
        raise ConfigError(f"recommend --users {users}: the bundle reads no features of users; leave it out")
    return FeaturesConfig(
        event={name: each for name, each in declared.event.items() if name in names},
        user={name: each for name, each in declared.user.items() if name in names} if users is not None else {},
    )


def _of_request(column: Column, users: int, request_U: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """What is known of the event to predict without being told: when it is asked for."""
    if not column.clock or column.part is None or request_U is None:
        return np.full(users, MISSING, np.int64)
    return FIRST + parts_of(request_U, column.part)


def _stacked(columns: Sequence[NDArray[np.int64]], rows: int) -> NDArray[np.int64]:
    return np.stack(columns, 1) if columns else np.empty((rows, 0), np.int64)


def _some(lists: Lists, rows: NDArray[np.int64]) -> Lists:
    values, lengths = lists.take(rows)
    return Lists(values, None if lists.offsets is None else np.concatenate([[0], np.cumsum(lengths)]))
