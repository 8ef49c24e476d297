"""Whether all weights of a model are finite numbers, wherever their shards lie."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from intrr_rec.distributed.world import World
from intrr_rec.models.finite import finite


def is_finite(module: nn.Module, world: World) -> bool:
    """Whether all weights are finite on every rank, all of which call this."""
    bad = torch.zeros((), dtype=torch.int64, device=world.device)
    for value in module.state_dict().values():
        for part in _local(value):
            bad += (~finite(part)).to(world.device)
    return not int(world.sum(bad))


def _local(value: object) -> list[Tensor]:
    """The shards of a tensor that lie on this rank."""
    if hasattr(value, "local_shards"):
        shards = value.local_shards()
        return [shard.tensor if hasattr(shard, "tensor") else shard for shard in shards]
    if hasattr(value, "to_local"):
        local = value.to_local()
        return _local(local) if local is not value else [value]
    return [value] if isinstance(value, Tensor) else []
