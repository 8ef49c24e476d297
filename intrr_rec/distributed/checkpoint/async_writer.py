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


class Staging:
    """Copies of what is to be saved, in the memory of the host. The memory of a copy is kept, and the next one is written over it.

    Fresh memory costs more than the copy: the system clears each page at its first touch. So only the first save pays for it.
    """

    def __init__(self) -> None:
        self._kept: Tree = {}

    def copied(self, tensors: Tree, world: World) -> Tree | None:
        """A copy of the tree, valid until the next call; None, on every rank, where one has no room for it.

        Args:
            world: ranks with a group on CPUs.
        """
        missing = sum(local.nbytes for local in _local(tensors)) - sum(local.nbytes for local in _local(self._kept))
        free = psutil.virtual_memory().available / world.local_size
        short = torch.tensor(int(missing > SHARE * free))
        if world.sum(short):
            self._kept = {}
            return None
        self._kept = _copy(tensors, self._kept, world)
        return self._kept


def _copy(tree: Tree, over: Tree, world: World) -> Tree:
    """A copy of `tree`, in the memory of `over` where that is of its shape."""
    found: Tree = {}
    for name, value in tree.items():
        old = over.get(name)
        if isinstance(value, dict):
            found[name] = _copy(value, old if isinstance(old, dict) else {}, world)
        elif isinstance(value, ShardedTensor):
            found[name] = _copy_shards(value, old, world)
        elif isinstance(value, Tensor):
            found[name] = _copy_tensor(value, old)
        else:
            found[name] = value
    return found


def _copy_tensor(value: Tensor, old: object) -> Tensor:
    if isinstance(old, Tensor) and (old.shape, old.dtype, old.layout) == (value.shape, value.dtype, value.layout):
        return old.copy_(value.detach())
    return value.detach().to("cpu", copy=True)


def _copy_shards(value: ShardedTensor, old: object, world: World) -> ShardedTensor:
    if isinstance(old, ShardedTensor):
        pairs = list(zip(value.local_shards(), old.local_shards(), strict=True))
        if all((new.tensor.shape, new.tensor.dtype) == (kept.tensor.shape, kept.tensor.dtype) for new, kept in pairs):
            for new, kept in pairs:
                kept.tensor.copy_(new.tensor.detach())
            return old
    on_host: ShardedTensor = value.cpu(process_group=world.group)  # itself, where it is there already
    return on_host.detach().clone() if on_host is value else on_host  # type: ignore[return-value]


def _local(tree: Tree) -> Iterator[Tensor]:
    """The parts of a tree that lie on this rank."""
    for value in tree.values():
        if isinstance(value, dict):
            yield from _local(value)
        elif isinstance(value, ShardedTensor):
            yield from (shard.tensor for shard in value.local_shards())
        elif isinstance(value, Tensor):
            yield value
