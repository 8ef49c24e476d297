"""What training, evaluation and parallelism ask of any model.

Shape suffixes: U items, T token slots, D width, V width of content vectors, B users, W beams, K codes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn
from torchrec import EmbeddingCollection

from intrr_rec.data.batch import Batch, Layout
from intrr_rec.models.cache import Cache, Prompts
from intrr_rec.models.tables import Codebooks


class Recommender(nn.Module, ABC):
    """A sequential recommender over packed histories.

    Attributes:
        uid: the collection of the table with a row an item, the one worth sharding; None where there is no such table.
    """

    uid: EmbeddingCollection | None

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, to be averaged over replicas and differentiated, and detached figures for the log."""


class ItemRecommender(Recommender):
    """A recommender that reads one token an item, so that a catalogue's tokens are made once and then looked up."""

    uid: EmbeddingCollection

    @abstractmethod
    def represent(self, items_U: Tensor, content_UV: Tensor | None) -> Tensor:
        """The token of each item, `[U, D]`."""

    @abstractmethod
    def states(self, history_TD: Tensor, layout: Layout) -> Tensor:
        """Tokens of histories `[T, D]` → states `[T, D]`, one causal pass."""


class CodeRecommender(Recommender):
    """A recommender that generates the next item's Semantic ID code by code, each through its backbone."""

    codebooks: Codebooks

    @abstractmethod
    def begin(self, batch: Batch, codebooks: Sequence[Tensor]) -> tuple[Tensor, Prompts]:
        """Logits `[B, K]` of the first code after each scored slot of the batch, and the prompts of the codes after it."""

    @abstractmethod
    def step(self, level: int, code_BW: Tensor, cache: Cache, codebooks: Sequence[Tensor]) -> Tensor:
        """Logits `[B, W, K]` of level `level` + 1, each beam having just chosen a code of `level`; extends the cache."""
