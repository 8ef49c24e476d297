"""Parallelism applied from outside: a plain model in, a DistributedModelParallel module and its optimizer out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.types import ShardingPlan
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from intrr_rec.config import TrainConfig
from intrr_rec.models.recommender import Recommender
from intrr_rec.parallel.plan import make_plan
from intrr_rec.parallel.topology import World


@dataclass
class Parallel:
    """A model spread over the ranks.

    Attributes:
        module: what the training step calls; its gradients are averaged over ranks.
        model: the same model inside it, for methods other than `forward`.
        optimizer: the dense optimizer and, where a table is sharded, the fused one.
        plan: where each table lies.
    """

    module: DistributedModelParallel
    model: Recommender
    optimizer: CombinedOptimizer
    plan: ShardingPlan


def parallelize(model: Recommender, world: World, config: TrainConfig) -> Parallel:
    """Shard and replicate `model` over the world; Adam on what is replicated, row-wise Adagrad on a sharded UID table."""
    if config.uid_sharding != "data_parallel" and model.uid is not None:
        # On CPU the fused kernels know SGD and Adagrad only, so a sharded table means row-wise Adagrad.
        apply_optimizer_in_backward(
            RowWiseAdagrad, model.uid.parameters(), {"lr": config.uid_learning_rate, "eps": 1e-8}
        )
    plan = make_plan(model, world, config.uid_sharding)
    module = DistributedModelParallel(model, device=world.device, plan=plan, sharders=[EmbeddingCollectionSharder()])
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(module.named_parameters())),
        lambda parameters: torch.optim.Adam(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        ),
    )
    return Parallel(module, _unwrap(module), CombinedOptimizer([module.fused_optimizer, dense]), plan)


def _unwrap(module: nn.Module) -> Recommender:
    while not isinstance(module, Recommender):
        module = cast(nn.Module, module.module)
    return module
