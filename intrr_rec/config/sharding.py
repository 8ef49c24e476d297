"""Settings of where tables lie, what trains them there, and the machines the planner has in mind."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from intrr_rec.config.section import Section

Sharding = Literal["data_parallel", "row_wise", "column_wise", "table_wise", "auto"]
TableOptimizer = Literal["rowwise_adagrad", "adagrad", "adam", "rowwise_adam"]


class TopologyConfig(Section):
    """The machines. Null: measured (memory) or the figure docs/sharding.md lists for the kind of device (bandwidths)."""

    memory_gb: float | None = Field(
        None, gt=0, description="GB a rank may use; null: what is free, shared by local ranks"
    )
    host_memory_gb: float | None = Field(None, gt=0, description="the same of the host's memory, for ranks on GPUs")
    memory_gb_s: float | None = Field(None, gt=0, description="bandwidth of the device's memory")
    host_memory_gb_s: float | None = Field(None, gt=0, description="bandwidth of the host's memory")
    host_link_gb_s: float | None = Field(None, gt=0, description="bandwidth from GPU to host memory")
    intra_host_gb_s: float | None = Field(None, gt=0, description="bandwidth between ranks of a host, one way")
    inter_host_gb_s: float | None = Field(None, gt=0, description="bandwidth a rank has between hosts, one way")
    tflops: float | None = Field(
        None,
        gt=0,
        description="10¹² operations a second that a rank reaches in matrix products; null: 3.35 on CUDA, 0.1 on CPUs",
    )


class ShardingConfig(Section):
    """Tables among ranks. A replicated table is trained by Adam with the rest, a sharded one in its own backward pass."""

    uid: Sharding = Field(
        "data_parallel", description="of the table with a row an item; auto: the planner's choice among what fits"
    )
    codebooks: Sharding = Field("data_parallel", description="of the codebooks: worth sharding for a large K only")
    optimizer: TableOptimizer | None = Field(
        None,
        description="of sharded tables. On CPUs rowwise_adagrad and adagrad exist. null: rowwise_adagrad, but adagrad "
        "where columns are sharded: a state a row would then differ with the number of ranks",
    )
    learning_rate: float = Field(0.02, gt=0, description="of the sharded tables' optimizer")
    kernel: Literal["fused", "fused_uvm_caching"] = Field(
        "fused", description="fused_uvm_caching (CUDA): sharded tables lie in host memory behind a cache on the device"
    )
    topology: TopologyConfig = TopologyConfig()
