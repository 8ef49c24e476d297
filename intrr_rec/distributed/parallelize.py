"""Parallelism applied from outside: a plain model in, a DistributedModelParallel module and its optimizer out.

The model comes with its tables on the meta device. They are planned, refused if they cannot fit, allocated in their shards
and filled there, so that no rank ever holds more of a table than it keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchrec import EmbeddingCollection
from torchrec.distributed import DistributedModelParallel
from torchrec.optim import SGD, Adagrad, Adam, PartialRowWiseAdam, RowWiseAdagrad
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from intrr_rec.config import Recipe
from intrr_rec.distributed.deferred_update import HeldTables
from intrr_rec.distributed.ema import WeightAverage
from intrr_rec.distributed.planner.hardware import Machines
from intrr_rec.distributed.planner.plan import Plan, make_plan
from intrr_rec.distributed.world import World
from intrr_rec.distributed.zch import sharders
from intrr_rec.models.base import Recommender
from intrr_rec.models.embeddings.tables import InitialRows

META = torch.device("meta")
FUSED: dict[str, tuple[type[torch.optim.Optimizer], dict[str, float]]] = {
    "sgd": (SGD, {}),
    "rowwise_adagrad": (RowWiseAdagrad, {"eps": 1e-8}),
    "adagrad": (Adagrad, {"eps": 1e-8}),
    "adam": (Adam, {"eps": 1e-8}),
    "rowwise_adam": (PartialRowWiseAdam, {"eps": 1e-8}),
}


@dataclass
class Parallel:
    """A model spread over the ranks.

    Attributes:
        module: what the training step calls; its gradients are averaged over ranks.
        model: the same model inside it, for methods other than `forward`.
        optimizer: the dense optimizer and, where a table is sharded, the fused one.
        plan: where each table lies and what it costs.
        held: the sharded tables, where their update waits for the rest of the step; None where it does not.
        average: of the weights, where the recipe asks for it.
    """

    module: DistributedModelParallel
    model: Recommender
    optimizer: CombinedOptimizer
    plan: Plan
    held: HeldTables | None
    average: WeightAverage | None

    @property
    def dense_parameters(self) -> list[nn.Parameter]:
        """What the dense optimizer trains, replicated tables included."""
        return [p for group in self.optimizer.optimizers[-1][1].param_groups for p in group["params"]]

    @contextmanager
    def weights(self, *, averaged: bool) -> Iterator[None]:
        """Within the block the model holds the average of the weights, where there is one, or the trained weights."""
        exchanged = self.average if self.average and self.average.applied != averaged else None
        if exchanged:
            exchanged.exchange()
        try:
            yield
        finally:
            if exchanged:
                exchanged.exchange()


def parallelize(
    model: Recommender, world: World, recipe: Recipe, *, training: bool = True, filled: bool = True
) -> Parallel:
    """Shard and replicate `model`, whose tables lie on the meta device, over the world.

    Args:
        training: False for a model that only ranks: it needs no optimizer state and no gradients.
        filled: False for tables that a checkpoint is loaded into at once: their rows are not drawn.

    Raises:
        ConfigError: a plan that does not exist on these machines or does not fit them; nothing is allocated then.
    """
    config = recipe.train
    machines = Machines.here(world, config.sharding.topology)
    plan = make_plan(model, machines, recipe, training=training, group=dist.group.WORLD)
    initial = _take_initial_rows(model)
    _fuse_optimizers(model, plan, config.sharding.learning_rate)
    with _Unfilled():
        module = DistributedModelParallel(model, device=world.device, plan=plan.torchrec, sharders=sharders())
    if filled:
        _fill(module, initial)
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(module.named_parameters())),
        lambda parameters: torch.optim.Adam(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        ),
    )
    waits = training and (config.accumulate > 1 or config.gradient_clip is not None)
    return Parallel(
        module,
        _unwrap(module),
        CombinedOptimizer([module.fused_optimizer, dense]),
        plan,
        HeldTables(module) if waits else None,
        WeightAverage(module, config.ema_decay) if training and config.ema_decay else None,
    )


def _collections(model: nn.Module) -> dict[str, EmbeddingCollection]:
    found = [module for module in model.modules() if isinstance(module, EmbeddingCollection)]
    return {config.name: collection for collection in found for config in collection.embedding_configs()}


def _take_initial_rows(model: nn.Module) -> dict[str, InitialRows]:
    """How each table starts, taken from it: the sharded table would call it without saying which rows it holds."""
    taken = {}
    for collection in _collections(model).values():
        for config in collection.embedding_configs():
            taken[config.name] = cast(InitialRows, config.init_fn)
            config.init_fn = cast(Callable[[Tensor], Tensor | None], lambda weight: weight)
    return taken


def _fuse_optimizers(model: nn.Module, plan: Plan, learning_rate: float) -> None:
    collections = _collections(model)
    for table in plan.tables:
        if table.sharding != "data_parallel":
            optimizer, settings = FUSED[table.optimizer]
            weight = collections[table.name].embeddings[table.name].weight
            apply_optimizer_in_backward(optimizer, [weight], {"lr": learning_rate, **settings})


class _Unfilled(TorchDispatchMode):
    """Leaves out the uniform draw of the kernels' own: `_fill` follows, and a large table takes seconds to fill."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.uniform_.default:
            return args[0]
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _fill(module: nn.Module, initial: dict[str, InitialRows]) -> None:
    """Draw every shard's rows where it lies."""
    state: dict[str, Any] = module.state_dict()
    for name, rows in initial.items():
        (table,) = (value for key, value in state.items() if key.endswith(f"embeddings.{name}.weight"))
        if not isinstance(table, ShardedTensor):
            rows(table)
            continue
        for shard in table.local_shards():
            rows.fill(shard.tensor, *shard.metadata.shard_offsets)


def _unwrap(module: nn.Module) -> Recommender:
    while not isinstance(module, Recommender):
        module = cast(nn.Module, module.module)
    return module
