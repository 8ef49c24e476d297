"""The two embedding collections of IntRR: the UID table and the codebooks.

They are TorchRec modules so that a plan can shard them; nothing here knows whether it did. Lookups use one id per
"sample" (lengths of ones), the form in which every kernel, the CPU's dense one included, returns a row per id.

Rows are multiplied by √D on their way out. Drawn at a small scale and stepped by Adam, both tables would otherwise need
thousands of steps before a softmax over codes is anything but flat; multiplied, one step moves them √D times as far.

Shape suffixes: U items looked up, D width, K codes, R rows of a shard, C columns of a shard.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor

UID_TABLE = "uid"
CODEBOOK_TABLE = "codebooks"
ITEM_CODEBOOK_TABLE = "item_codebooks"


BLOCK_ROWS = 4096  # rows drawn by one generator


class InitialRows:
    """Rows from N(0, std²) that depend on seed, table and row alone: a shard is filled with its own, whoever holds it.

    Rows come in blocks, each drawn on the CPU by a generator of its own, so that no rank draws the whole table and every
    division of it, on whatever device, starts alike.

    Args:
        name: of the table; two tables of one model start differently.
        width: D.
        std: scale. The seed is the one last given to `torch.manual_seed`.
    """

    def __init__(self, name: str, width: int, std: float) -> None:
        self.width = width
        self.std = std
        self.first_RD = torch.empty(0, width)
        self._seed = (torch.initial_seed(), zlib.crc32(name.encode()))

    def __call__(self, table: Tensor) -> Tensor:
        """Fill a whole table, in place."""
        if not table.is_meta:
            self.fill(table.data, 0, 0)
        return table

    def fill(self, shard_RC: Tensor, first_row: int, first_column: int) -> None:
        """Fill a shard, in place, whose first element is at this row and column of the table."""
        rows, columns = shard_RC.shape
        shard_RC = shard_RC.detach()

        def fill_block(block: int) -> None:
            start = block * BLOCK_ROWS - first_row
            here_RC = shard_RC[max(start, 0) : start + BLOCK_ROWS]
            if here_RC.shape == (BLOCK_ROWS, self.width) and here_RC.is_contiguous() and here_RC.device.type == "cpu":
                self._draw(block, here_RC)
                return
            drawn_RD = self._draw(block, torch.empty(BLOCK_ROWS, self.width))[max(-start, 0) :]
            here_RC.copy_(drawn_RD[: len(here_RC), first_column : first_column + columns])

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            deque(pool.map(fill_block, range(first_row // BLOCK_ROWS, -(-(first_row + rows) // BLOCK_ROWS))), maxlen=0)
        given = self.first_RD[first_row : first_row + rows, first_column : first_column + columns]
        shard_RC[: len(given)] = given

    def _draw(self, block: int, rows_RD: Tensor) -> Tensor:
        seed = int(np.random.SeedSequence([*self._seed, block]).generate_state(1, np.uint64)[0])
        return rows_RD.normal_(0, self.std, generator=torch.Generator().manual_seed(seed))


def make_collection(
    name: str, rows: int, width: int, std: float, device: torch.device, start: type[InitialRows] = InitialRows
) -> EmbeddingCollection:
    """A collection of one table, its rows as `start` has them; on the meta device, to be filled in its shards."""
    config = EmbeddingConfig(
        name=name,
        num_embeddings=rows,
        embedding_dim=width,
        feature_names=[name],
        init_fn=start(name, width, std),
    )
    return EmbeddingCollection(tables=[config], device=device)


def look_up(collection: nn.Module, name: str, ids_U: Tensor) -> Tensor:
    """Rows of the table times √D, `[U]` → `[U, D]`, in the order asked for; sharded or not, managed or not."""
    lengths = torch.ones(len(ids_U), dtype=torch.int32, device=ids_U.device)
    # TorchRec would read the number of ids from the device.
    features = KeyedJaggedTensor(keys=[name], values=ids_U, lengths=lengths, length_per_key=[len(ids_U)])
    found = collection(features)
    rows_UD = (found[0] if isinstance(found, tuple) else found)[name].values()
    return rows_UD * rows_UD.shape[-1] ** 0.5


class Codebooks(nn.Module):
    """All levels' codebooks in one table, level after level; the forward pass asks for all rows.

    Args:
        name: of the table.
        codes_per_level: K_l.
        width: D.
        std: initial scale.
        device: of the rows; meta for a table that is to be sharded.
    """

    rows: Tensor

    def __init__(self, name: str, codes_per_level: Sequence[int], width: int, std: float, device: torch.device) -> None:
        super().__init__()
        self.name = name
        self.codes_per_level = list(codes_per_level)
        self.collection = make_collection(name, sum(codes_per_level), width, std, device)
        self.register_buffer("rows", torch.arange(sum(codes_per_level)), persistent=False)

    def forward(self) -> tuple[Tensor, ...]:
        """L tensors `[K_l, D]`."""
        return look_up(self.collection, self.name, self.rows).split(self.codes_per_level)

    @torch.no_grad()
    def start_from(self, centroids: Sequence[Tensor]) -> None:
        """Let the first rows of the leading levels start as Stage 1's centroids, before the table is sharded.

        Centroids `[K_l, V]` are brought to D dimensions on their principal axes, level after level alike, and to the scale
        the random rows have, so that only their geometry is taken over. Levels without centroids keep their random rows.
        """
        weight = self.collection.embeddings[self.name].weight
        rows = self.collection.embedding_configs()[0].init_fn
        assert isinstance(rows, InitialRows)
        stacked = torch.cat(list(centroids)).float().cpu()
        axes_VD = torch.linalg.svd(stacked - stacked.mean(0), full_matrices=False).Vh[: rows.width].T
        projected = stacked @ axes_VD
        projected *= rows.std / projected.std()
        rows.first_RD = F.pad(projected, (0, rows.width - projected.shape[1]))
        rows(weight)
