"""Sharded tables whose update waits: for the norm of the whole gradient, or for the other micro-batches of an accumulated step.

A fused kernel steps in the backward pass of its lookup, before anything else of the gradient is known. Here the looked-up
rows leave their shard as leaves: the backward pass ends at them, with each owner holding the gradients of its own rows as
the all-to-all brought them, averaged over ranks. `backward` then sends them on into the kernel, all micro-batches of the step at
once, so that a row asked for twice is stepped once.

Shape suffixes: U rows looked up in a shard, D their columns.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchrec import KeyedJaggedTensor
from torchrec.distributed.embedding import ShardedEmbeddingCollection


class HeldTables:
    """The sharded tables of a module, held; replicated ones are left to the dense optimizer.

    Args:
        module: sharded, its tables one a collection.
    """

    def __init__(self, module: nn.Module) -> None:
        self._lookups = [
            _HeldLookup(lookup)
            for collection in module.modules()
            if isinstance(collection, ShardedEmbeddingCollection)
            for lookup in collection._lookups
            if not isinstance(lookup, DistributedDataParallel) and lookup.grouped_configs
        ]

    def squared_norm(self, device: torch.device) -> Tensor:
        """Of the gradients of this rank's shards, after the backward passes of all micro-batches."""
        return torch.stack([torch.zeros((), device=device), *(each.squared_norm() for each in self._lookups)]).sum()

    def backward(self, scale: Tensor | float = 1.0) -> None:
        """Step the tables by their gradients times `scale`, and let go of them."""
        for lookup in self._lookups:
            lookup.backward(scale)


class _HeldLookup:
    """The lookup of one shard, its `forward` replaced."""

    def __init__(self, lookup: nn.Module) -> None:
        self._look_up = lookup.forward
        self._parts: list[tuple[KeyedJaggedTensor, Tensor, Tensor]] = []
        cast(Any, lookup).forward = self._forward

    def _forward(self, features: KeyedJaggedTensor) -> Tensor:
        rows = self._look_up(features)
        if not torch.is_grad_enabled():
            return rows
        leaf = rows.detach().requires_grad_()
        self._parts.append((features, rows, leaf))
        return leaf

    def squared_norm(self) -> Tensor:
        ids_U = torch.cat([features.values() for features, _, _ in self._parts])
        gradient_UD = self._gradient().view(len(ids_U), -1) if len(ids_U) else self._gradient().view(0, 1)
        # One place for each distinct id, in as many places as there are ids: their true number would be read from the device.
        sorted_U, order_U = ids_U.sort(stable=True)
        place_U = (sorted_U != sorted_U.roll(1)).cumsum(0)
        sums_UD = gradient_UD.new_zeros(len(ids_U) + 1, gradient_UD.shape[1])
        return sums_UD.index_add_(0, place_U, gradient_UD[order_U]).square().sum()

    def backward(self, scale: Tensor | float) -> None:
        features, rows, _ = self._parts[0]
        gradient = self._gradient() * scale
        if len(self._parts) > 1:
            lengths, values = zip(*((each.lengths(), each.values()) for each, _, _ in self._parts), strict=True)
            (key,) = features.keys()  # of several, the values would lie key after key
            rows = self._look_up(
                KeyedJaggedTensor(
                    [key], torch.cat(values), lengths=torch.cat(lengths), length_per_key=[sum(map(len, values))]
                )
            )
        rows.backward(gradient)
        self._parts.clear()

    def _gradient(self) -> Tensor:
        return torch.cat([leaf.grad if leaf.grad is not None else torch.zeros_like(leaf) for _, _, leaf in self._parts])
