"""Managed rows among ranks: TorchRec's sharded collection, whose rows start anew, optimizer state too, when they change hands."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.mc_embedding import (
    ManagedCollisionEmbeddingCollectionSharder,
    ShardedManagedCollisionEmbeddingCollection,
)
from torchrec.distributed.mc_modules import ManagedCollisionCollectionSharder
from torchrec.distributed.types import ModuleSharder, ParameterSharding, ShardingEnv
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingCollection

from intrr_rec.distributed.world import World
from intrr_rec.models.embeddings.zch import ManagedRows

FIGURES = ("uid_rows_owned", "uid_rows_evicted", "uid_lookups_shared")


class ShardedManagedCollection(ShardedManagedCollisionEmbeddingCollection):
    """As its base class, but a row that changes hands is set to zero in place, and so is its optimizer state.

    The base class asks fbgemm's `reset_weight_momentum` for it, which has no kernel for CPUs and knows one optimizer. Zero
    is also what an item without a row counts as in evaluation.
    """

    @torch.no_grad()
    def _evict(self, evictions_per_table: dict[str, Tensor | None]) -> None:
        for name, rows in evictions_per_table.items():
            if rows is None:
                continue
            kernel, place = self._table_to_tbe_and_index[name]
            kernel.split_embedding_weights()[int(place)][rows] = 0
            for state in kernel.split_optimizer_states()[int(place)]:
                state[rows] = 0


class ManagedSharder(ManagedCollisionEmbeddingCollectionSharder):
    """Shards a managed collection by rows."""

    def shard(
        self,
        module: ManagedCollisionEmbeddingCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedManagedCollection:
        """The shard of this rank."""
        assert device is not None
        return ShardedManagedCollection(
            module, params, EmbeddingCollectionSharder(), ManagedCollisionCollectionSharder(), env, device
        )

    @property
    def sharded_module_type(self) -> type[ShardedManagedCollection]:
        """What `shard` gives."""
        return ShardedManagedCollection


def sharders() -> list[ModuleSharder[Any]]:
    """Of every kind of collection that a model may have."""
    return [EmbeddingCollectionSharder(), ManagedSharder()]


def managed_rows(module: nn.Module) -> list[ManagedRows]:
    """The bookkeeping of managed tables in a model, sharded or not."""
    return [each for each in module.modules() if isinstance(each, ManagedRows)]


def managed_figures(module: nn.Module, world: World) -> dict[str, float]:
    """Since the run began, over all ranks: rows that an item owns now, rows that changed hands, and look-ups in training
    of items without a row; nothing where no table is managed. Every rank calls this."""
    counts = [world.sum(rows.counts()).tolist() for rows in managed_rows(module)]
    return {name: float(value) for each in counts for name, value in zip(FIGURES, each, strict=True)}
