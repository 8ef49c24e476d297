"""What training, evaluation and parallelism ask of any model.

Shape suffixes: U items, T token slots, C blocks, N slots of a block, D width, V width of content vectors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torchrec import EmbeddingCollection

from intrr_rec.data.batch import Batch


class Recommender(nn.Module, ABC):
    """A sequential recommender over packed histories.

    Attributes:
        uid: the collection of the table with a row an item, the one worth sharding.
    """

    uid: EmbeddingCollection

    @abstractmethod
    def represent(self, items_U: Tensor, content_UV: Tensor | None) -> Tensor:
        """The token of each item, `[U, D]`."""

    @abstractmethod
    def states(self, history_TD: Tensor, owner_CN: Tensor) -> Tensor:
        """Tokens of histories `[T, D]` → states `[T, D]`, one causal pass; `owner_CN` says whose history a slot is."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """`loss`, to be averaged over replicas and differentiated, and detached figures for the log."""
