"""Writing beside training: what is to be written is copied, and a thread of every rank writes the copy while steps go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType

import psutil
import torch
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor

from intrr_rec.distributed.checkpoint.storage import Tree
from intrr_rec.distributed.world import World

SHARE = 0.5  # of the free memory that a copy may take; the rest is for the steps meanwhile


class BackgroundWriter:
    """One piece of work at a time, on a thread of every rank; as a context it ends with that work done.

    Args:
        world: the ranks; every rank makes its writer at the same point.

    Attributes:
        world: the same ranks, by a group of their own: for the work.
    """

    def __init__(self, world: World) -> None:
        self.world = world.aside()
        self._thread: threading.Thread | None = None
        self._met: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether work met an error that `wait` has not yet raised."""
        return self._met is not None

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work`, once what was begun before is done; raises as `wait`."""
        self.wait()
        self._thread = threading.Thread(target=self._do, args=(work,), name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the work is done.

        Raises:
            BaseException: what the work raised; a UserError on every rank, where the work agrees on it.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        met, self._met = self._met, None
        if met is not None:
            raise met

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        elif self._thread is not None:
            self._thread.join()  # its process group ends with the block around this one

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._met = error


def copied(tensors: Tree, world: World) -> Tree | None:
    """A copy of the tree in the memory of the host, on every rank; None, on every rank, where one has no room for it.

    Args:
        world: ranks with a group on CPUs.
    """
    size = sum(local.nbytes for local in _local(tensors))
    free = psutil.virtual_memory().available / world.local_size
    short = torch.tensor(int(size > SHARE * free))
    return None if world.sum(short) else _copy(tensors, world)


def _copy(tree: Tree, world: World) -> Tree:
    found: Tree = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found[name] = _copy(value, world)
        elif isinstance(value, ShardedTensor):
            on_host = value.cpu(process_group=world.group)  # itself, where it is there already
            found[name] = on_host.detach().clone() if on_host is value else on_host
        else:
            found[name] = value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
    return found


def _local(tree: Tree) -> Iterator[Tensor]:
    """The parts of a tree that lie on this rank."""
    for value in tree.values():
        if isinstance(value, dict):
            yield from _local(value)
        elif isinstance(value, ShardedTensor):
            yield from (shard.tensor for shard in value.local_shards())
        elif isinstance(value, Tensor):
            yield value
