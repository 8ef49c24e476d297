"""The two embedding collections of IntRR: the UID table and the codebooks.

They are TorchRec modules so that a plan can shard them; nothing here knows whether it did. Lookups use one id per
"sample" (lengths of ones), the form in which every kernel, the CPU's dense one included, returns a row per id.

Rows are multiplied by √D on their way out. Drawn at a small scale and stepped by Adam, both tables would otherwise need
thousands of steps before a softmax over codes is anything but flat; multiplied, one step moves them √D times as far.

Shape suffixes: U items looked up, D width, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor

UID_TABLE = "uid"
CODEBOOK_TABLE = "codebooks"
ITEM_CODEBOOK_TABLE = "item_codebooks"


def make_collection(name: str, rows: int, width: int, std: float, device: torch.device) -> EmbeddingCollection:
    """A collection of one table, rows drawn from N(0, std²)."""

    def init(weight: Tensor) -> Tensor:
        return nn.init.normal_(weight, std=std)

    config = EmbeddingConfig(name=name, num_embeddings=rows, embedding_dim=width, feature_names=[name], init_fn=init)
    return EmbeddingCollection(tables=[config], device=device)


def look_up(collection: nn.Module, name: str, ids_U: Tensor) -> Tensor:
    """Rows of the table times √D, `[U]` → `[U, D]`, in the order asked for; sharded or not."""
    lengths = torch.ones(len(ids_U), dtype=torch.int32, device=ids_U.device)
    features = KeyedJaggedTensor(keys=[name], values=ids_U, lengths=lengths)
    rows_UD = collection(features)[name].values()
    return rows_UD * rows_UD.shape[-1] ** 0.5


class Codebooks(nn.Module):
    """All levels' codebooks in one table, level after level; the forward pass asks for all rows.

    Args:
        name: of the table.
        codes_per_level: K_l.
        width: D.
        std: initial scale.
        device: where the rows are first drawn.
    """

    rows: Tensor

    def __init__(self, name: str, codes_per_level: Sequence[int], width: int, std: float, device: torch.device) -> None:
        super().__init__()
        self.name = name
        self.codes_per_level = list(codes_per_level)
        self.collection = make_collection(name, sum(codes_per_level), width, std, device)
        self.register_buffer("rows", torch.arange(sum(codes_per_level), device=device), persistent=False)

    def forward(self) -> tuple[Tensor, ...]:
        """L tensors `[K_l, D]`."""
        return look_up(self.collection, self.name, self.rows).split(self.codes_per_level)

    @torch.no_grad()
    def start_from(self, centroids: Sequence[Tensor]) -> None:
        """Replace the first rows of the leading levels by Stage 1's centroids, before the table is sharded.

        Centroids `[K_l, V]` are brought to D dimensions on their principal axes, level after level alike, and to the scale
        the random rows have, so that only their geometry is taken over. Levels without centroids keep their random rows.
        """
        table_RD = self.collection.embeddings[self.name].weight
        stacked = torch.cat(list(centroids)).to(table_RD)
        axes_VD = torch.linalg.svd(stacked - stacked.mean(0), full_matrices=False).Vh[: table_RD.shape[1]].T
        projected = stacked @ axes_VD
        scale = table_RD.std() / projected.std()
        table_RD[: len(projected)] = F.pad(projected * scale, (0, table_RD.shape[1] - projected.shape[1]))
