"""Bytes a rank needs, known before anything is allocated.

What an element of a table costs follows from where it lies and what trains it; what else a rank holds is counted from
the model, whose tables are on the meta device then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torchrec import EmbeddingCollection

from intrr_rec.config import Recipe
from intrr_rec.distributed.planner.hardware import GB, Machines
from intrr_rec.distributed.zch import managed_rows
from intrr_rec.models.base import Recommender

FLOAT = 4
# A replicated or dense parameter: itself, Adam's two moments, the gradient, and once more the gradient: the dense backward
# of a table and the averaging over ranks each hold one (measured: docs/sharding.md).
REPLICATED = 5 * FLOAT
# Optimizer state of a sharded table: bytes an element, bytes a row of a shard.
STATE = {
    "sgd": (0, 0),
    "rowwise_adagrad": (0, FLOAT),
    "adagrad": (FLOAT, 0),
    "adam": (2 * FLOAT, 0),
    "rowwise_adam": (FLOAT, FLOAT),
}
CACHE_SHARE = 0.2  # of a table's rows that `fused_uvm_caching` keeps on the device: the kernel's default
# A process with torch, TorchRec and its process group, before any table; on CUDA also the context and the collectives' buffers.
PROCESS = {"cpu": 1 * GB, "cuda": 2 * GB}
TRIE = 16  # bytes an item at most, at four levels of 256 codes or fewer (semantic_ids/trie.py)
NEIGHBOUR = 10  # bytes of a neighbour of an item: its id and three terms in half precision
GATHERED_ITEMS = 1 << 17  # of a catalogue up to which every rank holds the token of every item, beyond it a share
USABLE = 0.9  # of the memory; the rest is for activations and what the allocator cannot use


@dataclass(frozen=True)
class Bytes:
    """Of one rank: where it computes, and on its host where that is another memory."""

    device: int
    host: int = 0

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(self.device + other.device, self.host + other.host)


def shard_bytes(
    rows: int, columns: int, sharding: str, optimizer: str, kernel: str, *, training: bool, averaged: bool
) -> Bytes:
    """What a shard of `rows` × `columns` costs the rank that holds it, its optimizer state and gradient included, and the
    average of it where one is kept."""
    average = FLOAT if averaged else 0
    if sharding == "data_parallel":
        return Bytes(rows * columns * ((REPLICATED if training else FLOAT) + average))
    per_element, per_row = STATE[optimizer]
    size = rows * columns * (FLOAT + per_element + average) + rows * per_row
    if kernel == "fused_uvm_caching":
        return Bytes(int(CACHE_SHARE * size), size)
    return Bytes(size)


def largest_shard(rows: int, columns: int, sharding: str, ranks: int) -> tuple[int, int]:
    """Rows and columns of the largest shard of a table."""
    if sharding == "row_wise":
        return math.ceil(rows / ranks), columns
    if sharding == "column_wise":
        return rows, columns // ranks
    return rows, columns


def other_bytes(
    model: Recommender, machines: Machines, recipe: Recipe, *, training: bool, allocated: bool
) -> dict[str, Bytes]:
    """What a rank holds beside its tables, by name.

    Args:
        model: not yet sharded.
        allocated: this process holds the model's dense part already, and its own code.
    """
    tables = {id(p) for m in model.modules() if isinstance(m, EmbeddingCollection) for p in m.parameters()}
    dense = [p for p in model.parameters() if id(p) not in tables]
    managed = {id(b): b for rows in managed_rows(model) for b in rows.buffers()}
    buffers = [b for b in model.buffers() if id(b) not in managed]
    moved = not allocated or machines.device == "cuda"
    parameters = _size(dense)
    found = {
        "dense parameters": parameters * (REPLICATED // FLOAT if training else 1) - (0 if moved else parameters),
        "buffers": _size(buffers) if moved else 0,
    }
    if managed:
        found["owners of managed rows"] = _size(list(managed.values())) // machines.ranks
    if training and recipe.train.ema_decay:
        found["average of the dense parameters"] = parameters
    codes_IL = getattr(model, "codes_IL", None)
    items = (
        len(codes_IL)
        if codes_IL is not None
        else cast(EmbeddingCollection, model.uid).embedding_configs()[0].num_embeddings
    )
    if machines.device == "cuda":  # on CPUs it is mapped, once a host (`host.py`)
        found["prefix trie, in evaluation"] = TRIE * items
    if model.token_width is not None and recipe.keeps_catalogue(items):
        own = math.ceil(items / machines.ranks)  # of a small catalogue gathered with the others'
        held = own if machines.ranks == 1 or items > GATHERED_ITEMS else (1 + machines.ranks) * own
        found["catalogue's tokens, in evaluation"] = held * model.token_width * FLOAT
    if recipe.uses_neighbours:
        found["neighbours of items, in evaluation"] = NEIGHBOUR * recipe.model.neighbours.kept * items
    if not allocated:
        found["process"] = PROCESS[machines.device]
    return {name: Bytes(size) for name, size in found.items()}


def _size(tensors: list[Tensor] | list[nn.Parameter]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)
