"""Settings of where tables lie, what trains them there, and the machines the planner has in mind."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from intrr_rec.config.section import Section

MANY_ITEMS = 1_000_000  # above, 20 bytes an element of a replicated table are too many
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

    uid: Sharding | None = Field(
        None,
        description="of the table with a row an item; auto: the planner's choice among what fits; null: row_wise in a catalogue of more "
        "than a million items, else data_parallel",
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

    def of_catalogue(self, items: int) -> ShardingConfig:
        """With a place for the table that has a row an item, where that was left open.

        Not `auto`: on few ranks the planner would replicate the table, which Adam trains, and on many shard it, which Adagrad trains, so
        that results would depend on the number of ranks.
        """
        return (
            self.model_copy(update={"uid": "row_wise" if items > MANY_ITEMS else "data_parallel"})
            if self.uid is None
            else self
        )
