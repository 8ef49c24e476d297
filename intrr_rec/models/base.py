"""What training, evaluation and parallelism ask of any model.

Shape suffixes: U items, T token slots, S scored item slots, D width, L levels,
V width of content vectors, B users, W beams, K codes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intrr_rec.config import EvaluateConfig, KindConfig, ModelConfig
from intrr_rec.data.loading.batch import Batch, Layout
from intrr_rec.data.loading.features import BatchFeatures
from intrr_rec.data.loading.windows import Windows, training_windows
from intrr_rec.models.backbones.kv_cache import Cache, Prompts
from intrr_rec.models.codes import batch_codes
from intrr_rec.models.embeddings.tables import CODEBOOK_TABLE, Codebooks
from intrr_rec.models.neighbours.terms import Permitted


@dataclass(frozen=True)
class Catalogue:
    """What a model is made for.

    Attributes:
        codes_IL: the Semantic ID of every item, the de-duplication digit included: integers as narrow as they fit, mapped from
            a file and on the host, where a model leaves them (`item_codes`).
        codes_per_level: K_l of each of the L levels.
        content_width: V of the content vectors, where `model.content` is on.
        keys_I: a number for every item that tells it in any catalogue, where `model.zch.rows` is set.
        device: that of the model's tables.
        feature_rows: of the table of features that the model reads; 0: it reads none.
    """

    codes_IL: Tensor
    codes_per_level: Sequence[int]
    content_width: int | None
    keys_I: Tensor | None
    device: torch.device
    feature_rows: int = 0


class Recommender(nn.Module, ABC):
    """A sequential recommender over packed histories.

    Attributes:
        Config: the settings of its own; it states what a recipe must know of this kind of model (`KindConfig`).
        windows: cuts histories into what the model learns from.
        with_targets: batches for training also lay out the event after each window (`Collator`).
        decoded_by: how `decoding/decode.py` ranks the catalogue with it: "ran" is the beam in the RAN, "codes" the beam through
            a backbone with a cache, "dense" scores of the whole catalogue by `self.dense`, "own" its method `rank`.
        redistributes: an item's row becomes a mixture of codewords, level by level: it is an `IntRR`.
        token_width: D of item embeddings, where it reads one token per item; None where it does not.
        uid: the collection of the table with a row an item, or of managed rows, the one worth sharding; None where there
            is no such table.
    """

    Config: ClassVar[type[KindConfig]] = KindConfig
    windows: ClassVar[Callable[..., Windows]] = staticmethod(training_windows)
    with_targets: ClassVar[bool] = False
    decoded_by: ClassVar[Literal["ran", "codes", "dense", "own"]]
    redistributes: ClassVar[bool] = False
    token_width: int | None = None
    uid: nn.Module | None

    @classmethod
    @abstractmethod
    def build(cls, config: ModelConfig, catalogue: Catalogue) -> Recommender:
        """A freshly initialised model; `config.kind_settings` are its own settings."""

    def represent(self, items_U: Tensor, content_UV: Tensor | None, features: BatchFeatures | None = None) -> Tensor:
        """The embedding of each item, `[U, D]`; asked of models that have a `token_width`."""
        raise NotImplementedError(f"{type(self).__name__} has no item embeddings")

    def rank(self, batch: Batch, settings: EvaluateConfig, allowed: Permitted | None = None) -> tuple[Tensor, Tensor]:
        """The best `settings.beam` items after each scored slot, best first; asked of models whose `decoded_by` is "own".

        Args:
            batch: histories.
            settings: beam width.
            allowed: what the users may get; None is everything.

        Returns:
            `items_BW` dense item ids (-1 where a place is left empty) and `scores_BW`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no decoder of its own")

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
    def represent(self, items_U: Tensor, content_UV: Tensor | None, features: BatchFeatures | None = None) -> Tensor:
        """The token of each item, `[U, D]`."""

    def slot_features(self, batch: Batch) -> Tensor | None:
        """What the features of events and users add to each slot's token, `[T, D]`; None of a model or batch without."""
        return None

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

    decoded_by = "codes"
    first_L: Tensor

    def __init__(
        self, codes_IL: Tensor, codes_per_level: Sequence[int], width: int, std: float, device: torch.device
    ) -> None:
        super().__init__()
        self.uid = None
        self.levels = len(codes_per_level)
        self.codebooks = Codebooks(CODEBOOK_TABLE, codes_per_level, width, std, device)
        first_L = torch.tensor([0, *codes_per_level[:-1]]).cumsum(0)
        self.codes_IL = codes_IL  # no buffer: it stays on the host, and mapped
        self.register_buffer("first_L", first_L, persistent=False)

    def tokens(self, batch: Batch, codebooks: Sequence[Tensor]) -> tuple[Tensor, Layout]:
        """Tokens `[T, D]` of all item slots, an item's L side by side, and whose they are."""
        row_T = (batch_codes(self.codes_IL, batch) + self.first_L)[batch.slot_T].flatten()
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
