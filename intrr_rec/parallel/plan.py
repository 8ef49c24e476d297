"""The sharding plan: which table lies where, decided by TorchRec's planner under our constraints, printed and saved."""

from __future__ import annotations

import psutil
import torch
import torch.distributed as dist
from torch import nn
from torchrec import EmbeddingCollection
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.types import HardwareConfig, KernelConfig, TopologyFactory, TrainerConfig
from torchrec.distributed.types import ShardingPlan, ShardingType

from intrr_rec.models.tables import UID_TABLE
from intrr_rec.parallel.topology import World


def make_plan(model: nn.Module, world: World, uid_sharding: str) -> ShardingPlan:
    """Plan the tables of `model`: the UID table as asked ("data_parallel" or "row_wise"), codebooks replicated.

    A sharded table is trained by the optimizer fused into its backward pass, a replicated one by the dense optimizer.

    Raises:
        RuntimeError: the planner left out a table.
    """
    kernel = EmbeddingComputeKernel.DENSE if uid_sharding == "data_parallel" else EmbeddingComputeKernel.FUSED
    replicated = ParameterConstraints(
        sharding_types=[ShardingType.DATA_PARALLEL.value], compute_kernels=[EmbeddingComputeKernel.DENSE.value]
    )
    tables = {
        config.name for m in model.modules() if isinstance(m, EmbeddingCollection) for config in m.embedding_configs()
    }
    constraints = dict.fromkeys(tables, replicated)
    constraints[UID_TABLE] = ParameterConstraints(sharding_types=[uid_sharding], compute_kernels=[kernel.value])
    planner = EmbeddingShardingPlanner(topology=_topology(world), constraints=constraints, debug=False)
    plan = planner.collective_plan(model, [EmbeddingCollectionSharder()], dist.group.WORLD)
    planned = {name for module in plan.plan.values() for name in module}
    if missing := tables - planned:
        raise RuntimeError(f"the planner dropped the tables {sorted(missing)}")
    return plan


def _topology(world: World) -> Topology:
    """The planner's picture of the machines, with this machine's memory instead of its built-in constants."""
    share = psutil.virtual_memory().total // world.local_size
    on_cuda = world.device.type == "cuda"
    return TopologyFactory.create_topology(
        TrainerConfig(world_size=world.size, local_world_size=world.local_size),
        HardwareConfig(
            hbm_cap_bytes=torch.cuda.get_device_properties(world.device).total_memory if on_cuda else 0,
            ddr_cap_bytes=share,
        ),
        KernelConfig(compute_device=world.device.type),
    )
