"""Where an indexer's vectors come from: Parquet shards read as a stream, or rows kept in memory.

Shape legend: I items, R rows of this rank, P rows of a block, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from intrr_rec.data.dataset import Dataset
from intrr_rec.semantic_ids.quantizers.exact import ALONE, Peers, hash_edge, hash_ids
from intrr_rec.semantic_ids.quantizers.quantizer import BLOCK_ROWS, VectorSource
from intrr_rec.vectors.table import VectorTable


class ParquetSource:
    """A file or folder of vectors, each rank reading its own row groups, block by block, each time anew.

    Raises:
        DataError: as `VectorTable`; faults of single vectors are found as they are read, by the rank that reads them.
    """

    def __init__(self, path: Path | str, dataset: Dataset | None = None, peers: Peers = ALONE) -> None:
        self._table = VectorTable(path, dataset)
        self._peers = peers

    @property
    def n_items(self) -> int:
        """I, over all ranks."""
        return self._table.n_items

    @property
    def width(self) -> int:
        """D."""
        return self._table.width

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Ids and vectors of this rank; blocks without a row of the dataset are left out."""
        for ids_P, x_PD in self._table.blocks(self._peers.rank, self._peers.size):
            if len(ids_P):
                yield (
                    torch.from_numpy(ids_P),
                    torch.tensor(x_PD) if not x_PD.flags.writeable else torch.from_numpy(x_PD),
                )


@dataclass(frozen=True)
class RowsSource:
    """Rows of this rank that lie in memory: a share or a draw of the items, in any order."""

    ids_R: Tensor
    x_RD: Tensor
    n_items: int

    @property
    def width(self) -> int:
        """D."""
        return self.x_RD.shape[1]

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of at most `BLOCK_ROWS` rows."""
        if len(self.ids_R):
            yield from zip(self.ids_R.split(BLOCK_ROWS), self.x_RD.split(BLOCK_ROWS), strict=True)


def draw_samples(source: VectorSource, sizes: Sequence[int], seed: int, peers: Peers = ALONE) -> list[RowsSource]:
    """Disjoint samples of about so many rows each, of each rank its own rows, by one pass over the source.

    Which items are drawn depends on (seed, id) alone. The samples count their rows over all ranks as their `n_items`.
    """
    edge_S = torch.tensor([hash_edge(sum(sizes[: n + 1]) / source.n_items) for n in range(len(sizes))])
    ids: list[list[Tensor]] = [[torch.empty(0, dtype=torch.int64)] for _ in sizes]
    rows: list[list[Tensor]] = [[torch.empty(0, source.width)] for _ in sizes]
    for ids_P, x_PD in source.blocks():
        sample_P = torch.bucketize(hash_ids(ids_P, ~seed), edge_S, right=True)
        for sample in range(len(sizes)):
            is_drawn_P = sample_P == sample
            ids[sample].append(ids_P[is_drawn_P])
            rows[sample].append(x_PD[is_drawn_P])
    counts_S = peers.sum(torch.tensor([sum(map(len, each)) for each in ids]))
    return [
        RowsSource(torch.cat(each), torch.cat(x), int(count))
        for each, x, count in zip(ids, rows, counts_S.tolist(), strict=True)
    ]
