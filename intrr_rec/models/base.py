"""What training, evaluation and parallelism ask of any model.

Shape suffixes: U items, T token slots, S scored item slots, D width, L levels,
V width of content vectors, B users, W beams, K codes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intrr_rec.data.loading.batch import Batch, Layout
from intrr_rec.models.backbones.kv_cache import Cache, Prompts
from intrr_rec.models.embeddings.tables import CODEBOOK_TABLE, Codebooks


class Recommender(nn.Module, ABC):
    """A sequential recommender over packed histories.

    Attributes:
        uid: the collection of the table with a row an item, or of managed rows, the one worth sharding; None where there
            is no such table.
    """

    uid: nn.Module | None

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, to be averaged over replicas and differentiated, and detached figures for the log."""


class ItemRecommender(Recommender):
    """A recommender that reads one token an item, so that a catalogue's tokens are made once and then looked up.

    Attributes:
        token_width: D of those tokens.
    """

    uid: nn.Module
    token_width: int

    @abstractmethod
    def represent(self, items_U: Tensor, content_UV: Tensor | None) -> Tensor:
        """The token of each item, `[U, D]`."""

    @abstractmethod
    def states(self, history_TD: Tensor, layout: Layout, at_S: Tensor | None = None) -> Tensor:
        """Tokens of histories `[T, D]` → states `[T, D]`, one causal pass; with `at_S`, of these slots alone, `[S, D]`."""


class CodeRecommender(Recommender):
    """A recommender that reads an item as L tokens and generates the next item's Semantic ID code by code.

    A token is the row of its level's codebook, so the level needs no mark of its own.

    Args:
        codes_IL: the Semantic ID of every item, the de-duplication digit included.
        codes_per_level: K_l of each of the L levels.
        width: D of tokens and codebooks.
        std: initial scale of the codebooks.
        device: of the codebooks' first rows.
    """

    codes_IL: Tensor
    rows_IL: Tensor

    def __init__(
        self, codes_IL: Tensor, codes_per_level: Sequence[int], width: int, std: float, device: torch.device
    ) -> None:
        super().__init__()
        self.uid = None
        self.levels = len(codes_per_level)
        self.codebooks = Codebooks(CODEBOOK_TABLE, codes_per_level, width, std, device)
        first_L = torch.tensor([0, *codes_per_level[:-1]]).cumsum(0)
        self.register_buffer("codes_IL", codes_IL, persistent=False)
        self.register_buffer("rows_IL", codes_IL + first_L, persistent=False)

    def tokens(self, batch: Batch, codebooks: Sequence[Tensor]) -> tuple[Tensor, Layout]:
        """Tokens `[T, D]` of all item slots, an item's L side by side, and whose they are."""
        row_T = self.rows_IL[batch.items_U[batch.slot_T]].flatten()
        x_TD = F.embedding(row_T, torch.cat(list(codebooks)))
        return x_TD, Layout(batch.layout.owner_CN.repeat_interleave(self.levels, dim=1))

    def last_token(self, slot_S: Tensor) -> Tensor:
        """The token slot of the last code in each item slot."""
        return slot_S * self.levels + self.levels - 1

    @abstractmethod
    def begin(self, batch: Batch, codebooks: Sequence[Tensor]) -> tuple[Tensor, Prompts]:
        """Logits `[B, K]` of the first code after each scored slot of the batch, and the prompts of the codes after it."""

    @abstractmethod
    def step(self, level: int, code_BW: Tensor, cache: Cache, codebooks: Sequence[Tensor]) -> Tensor:
        """Logits `[B, W, K]` of level `level` + 1, each beam having just chosen a code of `level`; extends the cache."""
