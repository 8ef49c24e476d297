"""Who and where this process is: rank, device, threads. World size 1 is a process group of one, by the same code.

Under torchrun (or TorchX) the environment tells rank and size; alone, a group of one is made without any port.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from intrr_rec.distributed.launch import meet
from intrr_rec.distributed.malloc import keep_freed_memory
from intrr_rec.errors import UserError
from intrr_rec.io.launcher import Ranks

TIMEOUT = timedelta(minutes=10)
PATIENCE = timedelta(days=7)
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among its peers.

    Attributes:
        group: what they talk through; None is the job's own process group.
    """

    rank: int
    size: int
    local_size: int
    device: torch.device
    group: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes files and talks to the user."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over ranks, on every rank."""
        total = values.to(self.device, copy=True)
        dist.all_reduce(total, group=self.group)
        return total.to(values.device)

    def gather_rows(self, rows_ND: Tensor) -> Tensor:
        """Rows of all ranks, rank after rank, `[N, D]` → `[size·N, D]`; N is the same on every rank."""
        mine_ND = rows_ND.to(self.device).contiguous()
        gathered = mine_ND.new_empty(self.size * len(mine_ND), *mine_ND.shape[1:])
        dist.all_gather_single(gathered, mine_ND, group=self.group)
        return gathered.to(rows_ND.device)

    def barrier(self) -> None:
        """Wait until every rank is here."""
        dist.barrier(group=self.group)

    def broadcast(self, value: T) -> T:
        """The main rank's value (small, of plain types), on every rank."""
        box = [value]
        dist.broadcast_object_list(box, group=self.group, device=self.device)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """The value (small, of plain types) of every rank, on every rank."""
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.group)
        return values

    def aside(self) -> World:
        """The same ranks by a group of their own on CPUs, so that a second thread can talk; every rank calls this at one point."""
        group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        return replace(self, device=torch.device("cpu"), group=group)

    def agree(self, work: Callable[[], None]) -> None:
        """Do `work` on every rank; all ranks agree on whether it went well.

        Raises:
            UserError: of the class and message that `work` met on the first rank where it failed, on every rank.
        """
        met: UserError | None = None
        try:
            work()
        except UserError as error:
            met = error
        for found in self.gather((type(met), str(met)) if met else None):
            if found:
                kind, message = found
                raise kind(message)


class Council:
    """Ranks that wait for the main one as long as it takes: a group of its own, with a timeout of days.

    Args:
        world: the group to sit in council; every rank makes its council at the same point.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._group = dist.new_group(backend="gloo", timeout=PATIENCE) if world.size > 1 else None

    def broadcast(self, work: Callable[[], str | None]) -> str | None:
        """What `work` answers, done by the main rank alone, on every rank.

        Raises:
            UserError: what `work` raised, on every rank.
        """
        if self._group is None:
            return work()
        answer: dict[str, str | None] = {}
        if self.world.is_main:
            try:
                answer = {"value": work()}
            except UserError as error:
                answer = {"error": str(error)}
        text = torch.tensor(list(json.dumps(answer).encode()), dtype=torch.uint8)
        length = torch.tensor([len(text)])
        dist.broadcast(length, 0, group=self._group)
        text = text if self.world.is_main else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(text, 0, group=self._group)
        answer = json.loads(bytes(text.tolist()))
        if complaint := answer.get("error"):
            raise UserError(complaint)
        return answer["value"]


@contextmanager
def join_world() -> Iterator[World]:
    """Join the process group for the length of the block; gloo on CPU, NCCL on CUDA.

    A block inside another shares its group: a launcher lets a process join once only.

    Raises:
        ConfigError: RANK, WORLD_SIZE, MASTER_ADDR or MASTER_PORT make no sense, or another rank does not come.
    """
    if dist.is_initialized():
        yield _world()
        return
    ranks = Ranks.from_environment()
    device = _device()
    threads = torch.get_num_threads()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        # Spinning threads of two ranks on the same cores slow each other tenfold: each rank gets its share and no more.
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(max(1, threads // _local_size()))
        keep_freed_memory()
    backend = "nccl" if device.type == "cuda" else "gloo"
    store = meet(ranks, TIMEOUT)
    dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.size, timeout=TIMEOUT)
    if dist.get_rank():
        logging.getLogger("intrr_rec").setLevel(logging.WARNING)  # one voice for the job
    try:
        yield _world()
    finally:
        dist.destroy_process_group()
        torch.set_num_threads(threads)


def is_lost_rank(error: RuntimeError) -> bool:
    """Whether a collective failed because another rank is gone, or silent for longer than `TIMEOUT`."""
    # gloo's errors have no class of their own, and name their place in its source or, after a time-out elsewhere, this.
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in ("/gloo/", "caused pair closure"))


def _world() -> World:
    return World(dist.get_rank(), dist.get_world_size(), _local_size(), _device())


def _local_size() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE") or 1)


def _device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK") or 0))
    return torch.device("cpu")
