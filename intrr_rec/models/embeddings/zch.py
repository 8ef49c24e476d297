"""Managed collision for ids that are not known ahead: a UID table whose rows go to the ids that come, and are taken back.

The rows of the table form sets of `WAYS`. An id belongs to one set, `id mod S`; in it each row but the last is owned by one
id at a time, and the last is shared by the ids of the set that own none. A set lies whole on one rank, so which id owns
which row depends on the steps alone, not on the number of ranks, and a checkpoint loads on another number of them.

TorchRec's own modules for this (`MCHManagedCollisionModule`, `HashZchManagedCollisionModule`) bring sharding, exchange and
look-up, which are used here; their bookkeeping is not: the kernel of the one inserts on CUDA only, and the rows that the
other gives depend on the number of ranks.

Shape suffixes: U ids looked up, N distinct ids, G sets that need rows, S sets, W rows of a set, R rows of a shard, I items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor
from torchrec import JaggedTensor
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection
from torchrec.modules.mc_modules import ManagedCollisionCollection, ManagedCollisionModule

from intrr_rec.config import ZchConfig
from intrr_rec.models.embeddings.tables import InitialRows, make_collection

WAYS = 32
FREE, SHARED = -1, -2  # owners that are no ids
NEVER = torch.iinfo(torch.int64).max


class ManagedInitialRows(InitialRows):
    """As its base class, but shared rows start at zero: an id that no step has seen brings nothing of its own."""

    def fill(self, shard_RC: Tensor, first_row: int, first_column: int) -> None:
        """Fill a shard, in place, whose first element is at this row and column of the table."""
        super().fill(shard_RC, first_row, first_column)
        shard_RC.detach()[(WAYS - 1 - first_row) % WAYS :: WAYS] = 0


class ManagedRows(ManagedCollisionModule):
    """Which id owns which row of a shard, as TorchRec asks it.

    In training mode a look-up is a step: the ids it asks for are seen, and those without a row get one in their set, a
    free one or that of the id which `config.eviction` names among the ids not seen for `config.unseen_steps` steps. In
    evaluation mode nothing changes.

    Args:
        rows: of the shard, whole sets.
        sets: S of the whole table.
        config: policy of eviction.
        device: of the bookkeeping, 20 bytes a row.
        first_row: of the shard in the table.
    """

    _current_iter_tensor: Tensor  # the base class's: steps so far
    _owner: Tensor
    _seen: Tensor
    _uses: Tensor
    _turnovers: Tensor

    def __init__(self, rows: int, sets: int, config: ZchConfig, device: torch.device, first_row: int = 0) -> None:
        super().__init__(device, output_segments=[])
        self.rows, self.sets, self.config, self.first_row = rows, sets, config, first_row
        owner_SW = torch.full((rows // WAYS, WAYS), FREE, device=device)
        owner_SW[:, -1] = SHARED
        self.register_buffer("_owner", owner_SW.flatten())
        for name in ("_seen", "_uses", "_turnovers"):
            self.register_buffer(name, torch.zeros(rows, dtype=torch.int32, device=device))
        self._evicted: Tensor | None = None

    @torch.no_grad()
    def remap(
        self, features: dict[str, JaggedTensor], mutate_miss_lengths: bool = True, write_weights: Tensor | None = None
    ) -> dict[str, JaggedTensor]:
        """Ids of each feature by the rows of the whole table that stand for them."""
        return {
            name: JaggedTensor(
                values=self._rows_of(feature.values()) + self.first_row,
                lengths=feature.lengths(),
                offsets=feature.offsets(),
                weights=feature.weights_or_none(),
            )
            for name, feature in features.items()
        }

    def _rows_of(self, ids_U: Tensor) -> Tensor:
        ids_N, place_U = ids_U.unique(return_inverse=True)
        set_N = ids_N % self.sets - self.first_row // WAYS
        first_N = set_N * WAYS
        owned_NW = self._owner.view(-1, WAYS)[set_N] == ids_N[:, None]
        has_N = owned_NW.any(1)
        row_N = torch.where(has_N, first_N + owned_NW.int().argmax(1), first_N + WAYS - 1)
        if self.training:
            self._current_iter_tensor += 1
            self._seen[row_N[has_N]] = self._current_iter_tensor.int()
            row_N[~has_N] = self._take(ids_N[~has_N], set_N[~has_N])
            self._uses.index_add_(0, row_N, torch.ones_like(row_N, dtype=torch.int32))
        return row_N[place_U]

    def _take(self, ids_N: Tensor, set_N: Tensor) -> Tensor:
        """Rows for ids that own none, in ascending order of ids within a set: the likeliest to be given up first."""
        order_N = torch.argsort(set_N, stable=True)
        sets_G, group_N, size_G = set_N[order_N].unique_consecutive(return_inverse=True, return_counts=True)
        turn_N = torch.arange(len(ids_N), device=ids_N.device) - (size_G.cumsum(0) - size_G)[group_N]
        worth_GW, way_GW = self._worth(sets_G).sort(dim=1, stable=True)
        turn_N = turn_N.clamp(max=WAYS - 1)
        taken_N = worth_GW[group_N, turn_N] != NEVER
        row_N = sets_G[group_N] * WAYS + torch.where(taken_N, way_GW[group_N, turn_N], WAYS - 1)
        new_N = row_N[taken_N]
        evicted_N = new_N[self._owner[new_N] != FREE]
        self._turnovers[evicted_N] += 1
        self._owner[new_N] = ids_N[order_N][taken_N]
        self._uses[new_N] = 0
        self._seen[new_N] = self._current_iter_tensor.int()
        self._evicted = evicted_N if self._evicted is None else torch.cat([self._evicted, evicted_N]).unique()
        return torch.empty_like(row_N).scatter_(0, order_N, row_N)

    def _worth(self, sets_G: Tensor) -> Tensor:
        """What each row of some sets is worth keeping, `[G, W]`: the least is given up first, NEVER is not."""
        owner_GW, seen_GW, uses_GW = (
            each.view(-1, WAYS)[sets_G].long() for each in (self._owner, self._seen, self._uses)
        )
        worth_GW = seen_GW if self.config.eviction == "lru" else (uses_GW << 32) + seen_GW
        kept_GW = (seen_GW > self._current_iter_tensor - self.config.unseen_steps) | (owner_GW == SHARED)
        return worth_GW.masked_fill(kept_GW, NEVER).masked_fill(owner_GW == FREE, FREE)

    def counts(self) -> Tensor:
        """Of this shard: rows that an id owns, evictions so far, and look-ups of training that got a shared row, `[3]`."""
        return torch.stack(
            [(self._owner >= 0).sum(), self._turnovers.sum(), self._uses[WAYS - 1 :: WAYS].sum(dtype=torch.int64)]
        )

    def evict(self) -> Tensor | None:
        """Rows of the whole table, counted from 0, that have changed hands since the last call."""
        evicted, self._evicted = self._evicted, None
        return None if evicted is None or not len(evicted) else evicted + self.first_row

    def preprocess(self, features: dict[str, JaggedTensor]) -> dict[str, JaggedTensor]:
        """Ids come as they are asked for."""
        return features

    def profile(self, features: dict[str, JaggedTensor]) -> dict[str, JaggedTensor]:
        """All is done by `remap`."""
        return features

    def forward(self, features: dict[str, JaggedTensor], mutate_miss_lengths: bool = True) -> dict[str, JaggedTensor]:
        """As `remap`."""
        return self.remap(features)

    def output_size(self) -> int:
        """Rows."""
        return self.rows

    def input_size(self) -> int:
        """0: ids are any non-negative number, and go to the rank of their bucket, `id mod S`."""
        return 0

    def buckets(self) -> int:
        """S."""
        return self.sets

    def open_slots(self) -> Tensor:
        """Rows that no id owns yet."""
        return (self._owner == FREE).sum()

    def validate_state(self) -> None:
        """Any state is valid on any rank whose rows it is of."""

    def rebuild_with_output_id_range(
        self, output_id_range: tuple[int, int], output_segments: list[int], device: torch.device | None = None
    ) -> ManagedRows:
        """The same for the shard of these rows."""
        first, end = output_id_range
        return ManagedRows(end - first, self.sets, self.config, device or self.device, first)


def make_managed_collection(
    name: str, config: ZchConfig, width: int, std: float, device: torch.device
) -> ManagedCollisionEmbeddingCollection:
    """A collection of one table of `config.rows` rows behind `ManagedRows`, to be sharded by rows."""
    assert config.rows is not None
    collection = make_collection(name, config.rows, width, std, device, ManagedInitialRows)
    managed = ManagedRows(config.rows, config.rows // WAYS, config, device)
    configs = collection.embedding_configs()
    return ManagedCollisionEmbeddingCollection(collection, ManagedCollisionCollection({name: managed}, configs))


def item_keys(item_ids: Iterable[str | int]) -> Tensor:
    """A number below 2⁶³ for every id of the user's own, `[I]`: the same in every dataset that knows the item."""
    digests = b"".join(hashlib.blake2b(str(each).encode(), digest_size=8).digest() for each in item_ids)
    return torch.frombuffer(bytearray(digests), dtype=torch.int64) & NEVER
