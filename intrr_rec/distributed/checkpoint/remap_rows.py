"""A checkpoint into a model whose tables have other rows: those they share move to their new places, optimizer state too.

Shape suffixes: I rows of the new table, N of them new, R rows of a shard, C its columns, D all columns.
"""

from __future__ import annotations

import pickle
from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from intrr_rec.distributed.checkpoint.storage import WeightsOnlyReader, checkpoint_tensors, verify
from intrr_rec.distributed.parallelize import Parallel
from intrr_rec.distributed.world import World
from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.places import not_the_input
from intrr_rec.io.stores.storage import Location
from intrr_rec.models.embeddings.tables import UID_TABLE

WEIGHT = "embeddings.{}.weight"  # of a table


class UidRows:
    """The parts of the UID table that this rank holds, whatever its sharding.

    Args:
        state: tensors by name: a module's, or the averages of them.
    """

    def __init__(self, state: dict[str, Any]) -> None:
        (table,) = (value for name, value in state.items() if name.endswith(WEIGHT.format(UID_TABLE)))
        self.width = table.size()[1]
        self.replicated = not isinstance(table, ShardedTensor)
        self.shards = _shards(table)

    @torch.no_grad()
    def put(self, rows_I: Tensor, values_ND: Tensor) -> None:
        """Write rows by their place in the table; what other ranks hold is left to them."""
        for shard_RC, first_row, first_column in self.shards:
            here_N = (rows_I >= first_row) & (rows_I < first_row + len(shard_RC))
            columns = slice(first_column, first_column + shard_RC.shape[1])
            shard_RC[(rows_I[here_N] - first_row).to(shard_RC.device)] = values_ND[here_N, columns].to(shard_RC.device)

    @torch.no_grad()
    def sum_by(self, group_I: Tensor, groups: int) -> Tensor:
        """Sums of the rows of each group over all ranks, `[groups, D]`; a negative group leaves its row out."""
        total = self.shards[0][0].new_zeros(groups, self.width) if self.shards else torch.zeros(groups, self.width)
        for shard_RC, first_row, first_column in self.shards:
            group_R = group_I[first_row : first_row + len(shard_RC)].to(shard_RC.device)
            counted = group_R >= 0
            columns = slice(first_column, first_column + shard_RC.shape[1])
            total[:, columns].index_add_(0, group_R[counted], shard_RC[counted])
        if not self.replicated:
            dist.all_reduce(total)
        return total


def load_grown(path: Location, parallel: Parallel, world: World, places: Mapping[str, Tensor]) -> None:
    """Load model, optimizer and average of a checkpoint whose tables had other rows; every rank calls this.

    Args:
        places: by name of a table, the row each of its rows had there; -1 where it had none, whose optimizer state becomes 0. Its
            weight stays what it is.

    Raises:
        ArtefactError: no complete checkpoint there, a damaged one, or one of another model.
    """
    world.agree(lambda: verify(path, world))
    parallel.optimizer.optimizers[-1][1].init_state()
    tensors = checkpoint_tensors(parallel, with_optimizer=True)
    reader = WeightsOnlyReader(path)
    saved = reader.read_metadata().state_dict_metadata
    averaged = any(name.startswith("average.") for name in saved)
    if parallel.average and not averaged:
        del tensors["average"]
    rows = {
        name: (value, place_I)
        for name, value in _leaves(tensors)
        for table, place_I in places.items()
        if _is_rows(name, value, table, len(place_I))
    }
    try:
        dcp.load(_without(tensors, rows), storage_reader=reader)
        for name, (value, place_I) in rows.items():
            entry = saved[name] if bool((place_I >= 0).any()) else None  # a table that there was not
            assert entry is None or isinstance(entry, TensorStorageMetadata)
            for shard, first_row, first_column in _shards(value):
                _load_rows(path, name, entry, shard, first_column, place_I[first_row : first_row + len(shard)])
    except (dcp.CheckpointException, pickle.UnpicklingError, KeyError, RuntimeError, ValueError) as error:
        not_the_input(error)
        first = str(error).strip().splitlines()[-1][:200]
        raise ArtefactError(f"{path}: does not fit this model ({first})") from None
    if parallel.average and not averaged:
        parallel.average.restart()


@torch.no_grad()
def _load_rows(
    path: Location, name: str, saved: TensorStorageMetadata | None, shard: Tensor, first_column: int, place_R: Tensor
) -> None:
    """Rows of one shard, read as one stretch of the saved tensor: ids in order keep their order as a catalogue grows."""
    known_R = place_R >= 0
    if not name.startswith(("model.", "average.")):
        shard[~known_R.to(shard.device)] = 0
    if saved is None or not known_R.any():
        return
    first, last = int(place_R[known_R].min()), int(place_R[known_R].max())
    buffer = torch.empty(last + 1 - first, *shard.shape[1:], dtype=shard.dtype)
    offsets = (first, first_column)[: shard.dim()]
    dcp.load({}, storage_reader=WeightsOnlyReader(path), planner=_Stretch(name, saved, offsets, buffer), no_dist=True)
    shard[known_R.to(shard.device)] = buffer[place_R[known_R] - first].to(shard.device)


class _Stretch(dcp.DefaultLoadPlanner):
    """Reads a block of one saved tensor into `buffer`."""

    def __init__(self, name: str, saved: TensorStorageMetadata, offsets: tuple[int, ...], buffer: Tensor) -> None:
        super().__init__()
        self._block = ChunkStorageMetadata(torch.Size(offsets), buffer.size())
        self._name, self._saved, self._buffer = name, saved, buffer

    def create_local_plan(self) -> LoadPlan:
        return LoadPlan(create_read_items_for_chunk_list(self._name, self._saved, [self._block]))

    def lookup_tensor(self, index: Any) -> Tensor:
        return self._buffer

    def transform_tensor(self, read_item: ReadItem, tensor: Tensor) -> Tensor:
        for dim, (offset, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            tensor = tensor.narrow(dim, offset, length)
        return tensor


def _shards(value: Tensor | ShardedTensor) -> list[tuple[Tensor, int, int]]:
    """Local tensors, with the row and column each begins at."""
    if isinstance(value, ShardedTensor):
        found = [(shard.tensor.detach(), shard.metadata.shard_offsets) for shard in value.local_shards()]
        return [(tensor, offsets[0], offsets[1] if len(offsets) > 1 else 0) for tensor, offsets in found]
    return [(value.detach(), 0, 0)]


def _is_rows(name: str, value: Any, table: str, rows: int) -> bool:
    """Whether a tensor of the tree has one entry a row of a table."""
    sized = isinstance(value, Tensor | ShardedTensor) and len(value.size()) > 0
    return WEIGHT.format(table) in name and sized and cast(Tensor, value).size()[0] == rows


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in the tree, by the names the checkpoint has for it."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _without(tree: dict[str, Any], names: Collection[str], prefix: str = "") -> dict[str, Any]:
    return {
        key: _without(value, names, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in tree.items()
        if f"{prefix}{key}" not in names
    }
