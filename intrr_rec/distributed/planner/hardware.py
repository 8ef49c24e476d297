"""The machines a plan is for: how many ranks, what memory each may use, how fast the ways between them are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import psutil
import torch
import torch.distributed as dist
from torchrec.distributed.planner import Topology
from torchrec.distributed.planner.types import HardwareConfig, KernelConfig, TopologyFactory, TrainerConfig

from intrr_rec.config import TopologyConfig
from intrr_rec.distributed.world import World

GB = 10**9
# GB/s one way, from data sheets: an H100 SXM in a host of eight with 400 Gb/s of network a GPU; a CPU server with 10 Gb/s.
BANDWIDTHS: dict[str, dict[str, float]] = {
    "cuda": {
        "memory_gb_s": 3350,
        "host_memory_gb_s": 300,
        "host_link_gb_s": 64,
        "intra_host_gb_s": 450,
        "inter_host_gb_s": 50,
    },
    "cpu": {
        "memory_gb_s": 25,
        "host_memory_gb_s": 25,
        "host_link_gb_s": 25,
        "intra_host_gb_s": 5,
        "inter_host_gb_s": 1.25,
    },
}
# 10¹² operations a second in matrix products. CUDA: 5 % of an H100's 67 in fp32 (published kernels for short histories reach 1 to 9 %);
# CPUs: one thread of an AMD EPYC (Zen 4).
TFLOPS = {"cuda": 3.35, "cpu": 0.1}


@dataclass(frozen=True)
class Machines:
    """What a rank has.

    Attributes:
        device: what ranks compute on.
        ranks: of the job.
        local_ranks: of one host.
        memory: bytes a rank may use where it computes; on CPUs its share of the host's.
        host_memory: bytes a rank may use of its host's memory.
        bandwidths: GB/s, by the names of `TopologyConfig`.
        tflops: 10¹² operations a second that a rank reaches in matrix products.
    """

    device: Literal["cpu", "cuda"]
    ranks: int
    local_ranks: int
    memory: int
    host_memory: int
    bandwidths: dict[str, float]
    tflops: float

    @classmethod
    def here(cls, world: World, config: TopologyConfig) -> Machines:
        """The machines this job runs on; free memory is that of the rank with least. Every rank calls this."""
        host = psutil.virtual_memory().available // world.local_size
        on_cuda = world.device.type == "cuda"
        free = torch.tensor([torch.cuda.mem_get_info(world.device)[0] if on_cuda else host, host], device=world.device)
        dist.all_reduce(free, dist.ReduceOp.MIN)
        memory, host_memory = free.tolist()
        return cls.like("cuda" if on_cuda else "cpu", world.size, world.local_size, memory, host_memory, config)

    @classmethod
    def like(
        cls,
        device: Literal["cpu", "cuda"],
        ranks: int,
        local_ranks: int,
        memory: int,
        host_memory: int,
        config: TopologyConfig,
    ) -> Machines:
        """Machines by their figures; what the settings name wins over `memory` and `host_memory` (bytes)."""
        bandwidths = {name: float(getattr(config, name) or value) for name, value in BANDWIDTHS[device].items()}
        memory = int(config.memory_gb * GB) if config.memory_gb else memory
        if device == "cpu":
            host_memory = memory
        elif config.host_memory_gb:
            host_memory = int(config.host_memory_gb * GB)
        tflops = config.tflops or TFLOPS[device]
        return cls(device, ranks, local_ranks, memory, host_memory, bandwidths, tflops)

    def topology(self, memory: int, host_memory: int) -> Topology:
        """The planner's picture of them, with the bytes a rank has for tables. All bandwidths are given: the planner's own
        constants are of older machines."""
        speed = {name: value * GB / 1000 for name, value in self.bandwidths.items()}  # bytes a millisecond
        return TopologyFactory.create_topology(
            TrainerConfig(world_size=self.ranks, local_world_size=self.local_ranks),
            HardwareConfig(
                hbm_cap_bytes=memory if self.device == "cuda" else 0,
                ddr_cap_bytes=host_memory,
                hbm_mem_bw=speed["memory_gb_s"],
                ddr_mem_bw=speed["host_memory_gb_s"],
                hbm_to_ddr_mem_bw=speed["host_link_gb_s"],
                intra_host_bw=speed["intra_host_gb_s"],
                inter_host_bw=speed["inter_host_gb_s"],
            ),
            KernelConfig(compute_device=self.device),
        )
