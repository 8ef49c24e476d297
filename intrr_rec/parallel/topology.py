"""Who and where this process is: rank, device, threads. World size 1 is a process group of one, by the same code.

Under torchrun (or TorchX) the environment tells rank and size; alone, a group of one is made without any port.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int
    size: int
    local_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files and talks to the user."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over ranks, on every rank."""
        total = values.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(values.device)

    def gather_rows(self, rows_ND: Tensor) -> Tensor:
        """Rows of all ranks, rank after rank, `[N, D]` → `[size·N, D]`; N is the same on every rank."""
        mine_ND = rows_ND.to(self.device).contiguous()
        gathered = mine_ND.new_empty(self.size * len(mine_ND), *mine_ND.shape[1:])
        dist.all_gather_single(gathered, mine_ND)
        return gathered.to(rows_ND.device)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        dist.barrier()


@contextmanager
def join_world() -> Iterator[World]:
    """Join the process group for the length of the block; gloo on CPU, NCCL on CUDA."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", size))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        # Spinning threads of two ranks on the same cores slow each other tenfold: each rank gets its share and no more.
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // local_size))
    backend = "nccl" if device.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=TIMEOUT)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=TIMEOUT)
    if dist.get_rank():
        logging.getLogger("intrr_rec").setLevel(logging.WARNING)  # one voice for the job
    try:
        yield World(dist.get_rank(), dist.get_world_size(), local_size, device)
    finally:
        dist.destroy_process_group()
