"""The exponential moving average of all weights: what is validated, kept as the best and ranked with, beside what is trained.

Averages lie where their weights lie, shard by shard, so they cost a rank once more what its weights do, and a pass over
them a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor

EXCHANGED = 1 << 24  # elements exchanged at a time, so that no second copy of a table is made


class WeightAverage:
    """The average of a module's weights, `a ← d·a + (1 - d)·w` after every step.

    d rises with the steps, `min(decay, (1 + step) / (10 + step))`, so that the start is soon forgotten and no state but the
    averages is needed.

    Args:
        module: as it is before the first step.
        decay: what d rises to.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.applied = False
        state: dict[str, Any] = module.state_dict()
        self.tensors = {name: value.detach().clone() for name, value in state.items()}
        self._weights = [local for value in state.values() for local in _local(value)]
        self._averages = [local for value in self.tensors.values() for local in _local(value)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step`, counted from 0."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averages, self._weights, weight)

    @torch.no_grad()
    def restart(self) -> None:
        """Begin again with the weights as they are."""
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.copy_(weight)

    @torch.no_grad()
    def exchange(self) -> None:
        """Put the averages where the weights are and the other way round."""
        for average, weight in zip(self._averages, self._weights, strict=True):
            rows = max(1, EXCHANGED // max(1, average[:1].numel())) if average.dim() else 1
            pairs = zip(average.split(rows), weight.split(rows), strict=True) if average.dim() else [(average, weight)]
            for ours, theirs in pairs:
                kept = ours.clone()
                ours.copy_(theirs)
                theirs.copy_(kept)
        self.applied = not self.applied


def _local(value: Tensor | ShardedTensor) -> list[Tensor]:
    if isinstance(value, ShardedTensor):
        return [shard.tensor for shard in value.local_shards()]
    return [value.detach()]
