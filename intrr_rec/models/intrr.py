"""IntRR: items redistributed by their UID, one token an item, the same RAN as decoder (IntRR section 3).

Notable:
- the item side runs once per distinct item of a batch, not per occurrence;
- one causal pass of the backbone supervises every position;
- user states, item representations and the decode are separate methods, so evaluation and serving reuse them.

Shape suffixes: U items, T token slots, S scored slots, D width, L levels, K codes, V width of content vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from intrr_rec.config import IntrrConfig, ModelConfig
from intrr_rec.data.loading.batch import Batch, Layout
from intrr_rec.data.loading.features import BatchFeatures
from intrr_rec.models.backbones.backbone import make_backbone
from intrr_rec.models.base import Catalogue, ItemRecommender
from intrr_rec.models.codes import batch_codes, item_codes, target_codes
from intrr_rec.models.dense_head import DenseHead
from intrr_rec.models.dropout import dropout
from intrr_rec.models.embeddings.features import FeatureTable
from intrr_rec.models.embeddings.tables import (
    CODEBOOK_TABLE,
    ITEM_CODEBOOK_TABLE,
    UID_TABLE,
    Codebooks,
    look_up,
    make_collection,
)
from intrr_rec.models.embeddings.zch import make_managed_collection
from intrr_rec.models.losses import level_nll, sid_nll
from intrr_rec.models.ran import Ran

LOGITS = 1 << 25  # of the user side, that are kept between the forward and the backward pass


@dataclass
class ItemSide:
    """What redistribution gives for a set of items: representations and log p_l of each level."""

    representation_UD: Tensor
    log_p: list[Tensor]


class IntRR(ItemRecommender):
    """The model of Stage 2.

    Args:
        config: widths, λ and the switches.
        codes_IL: the Semantic ID of every item, the de-duplication digit included.
        codes_per_level: K_l of each of the L levels.
        content_width: V of the content vectors, needed when `config.content`.
        device: of the tables.
        keys_I: a number for every item that tells it in any catalogue, needed when `config.zch.rows`.
    """

    Config = IntrrConfig
    decoded_by = "ran"
    redistributes = True
    keys_I: Tensor | None

    @classmethod
    def build(cls, config: ModelConfig, catalogue: Catalogue) -> IntRR:
        """The model for this catalogue."""
        ids = catalogue
        made = cls(config, ids.codes_IL, ids.codes_per_level, ids.content_width, ids.device, ids.keys_I)
        if ids.feature_rows:
            made.features = FeatureTable(ids.feature_rows, config.width, ids.device)
        return made

    def __init__(
        self,
        config: ModelConfig,
        codes_IL: Tensor,
        codes_per_level: Sequence[int],
        content_width: int | None,
        device: torch.device,
        keys_I: Tensor | None = None,
    ) -> None:
        super().__init__()
        width, uid_width = config.width, config.uid_width or config.width
        self.config = config
        self.token_width = width
        managed = config.zch.rows is not None
        self.uid: nn.Module = (
            make_managed_collection(UID_TABLE, config.zch, uid_width, config.uid_std, device)
            if managed
            else make_collection(UID_TABLE, len(codes_IL), uid_width, config.uid_std, device)
        )
        self.register_buffer("keys_I", keys_I if managed else None, persistent=False)
        self.uid_map = nn.Linear(uid_width, width, bias=False) if config.uid_width else None
        self.codebooks = Codebooks(CODEBOOK_TABLE, codes_per_level, width, config.codebook_std, device)
        self.ran = Ran(len(codes_per_level), width, config.ran)
        self.item_codebooks, self.item_ran = None, None
        if not config.shared_ran:
            self.item_codebooks = Codebooks(ITEM_CODEBOOK_TABLE, codes_per_level, width, config.codebook_std, device)
            self.item_ran = Ran(len(codes_per_level), width, config.ran)
        self.backbone = make_backbone(config, config.window)
        self.dense = DenseHead(config.dense, width) if config.dense.weight else None
        self.features: FeatureTable | None = None
        self.content_map = nn.Linear(content_width or 0, width, bias=False) if config.content else None
        self.content_scale = width**0.5  # as the tables' rows: content and UID start and learn alike
        self.codes_IL = codes_IL  # no buffer: it stays on the host, and mapped

    def items(
        self,
        items_U: Tensor,
        content_UV: Tensor | None,
        codebooks: Sequence[Tensor],
        features_UD: Tensor | None = None,
    ) -> ItemSide:
        """E_i (Eq. 7) of each item, with the assignment it came from (Eq. 4-6).

        Args:
            items_U: dense item ids.
            content_UV: their vectors, where `content` is on.
            codebooks: what `self.codebooks()` gave; a RAN of the item side's own brings its own.
            features_UD: what the features of each item add up to, where it has some.
        """
        guidance_UD = self.guidance(items_U, content_UV, features_UD=features_UD)
        return self.assign(items_U, guidance_UD, codebooks, features_UD)

    def guidance(
        self,
        items_U: Tensor,
        content_UV: Tensor | None,
        is_new_U: Tensor | None = None,
        features_UD: Tensor | None = None,
    ) -> Tensor:
        """What guides the redistribution of each item, `[U, D]`: its UID row, its content where that is on, and its features.

        An item that is new has no UID row: whatever row is looked up counts as zero.
        """
        ids_U = items_U if self.keys_I is None else self.keys_I[items_U]
        rows_UD = look_up(self.uid, UID_TABLE, ids_U)
        if is_new_U is not None:
            rows_UD = rows_UD.masked_fill(is_new_U[:, None], 0)
        return self.guide(rows_UD, content_UV, features_UD)

    def guide(self, rows_UD: Tensor, content_UV: Tensor | None, features_UD: Tensor | None = None) -> Tensor:
        """`guidance` from UID rows as a lookup gives them, times √D."""
        guidance_UD = rows_UD if self.uid_map is None else self.uid_map(rows_UD)
        if self.content_map is not None:
            guidance_UD = guidance_UD + self.content_map(content_UV) * self.content_scale
        return guidance_UD if features_UD is None else guidance_UD + features_UD

    def item_features(self, features: BatchFeatures | None) -> Tensor | None:
        """What the features of each item add up to, `[U, D]`; None where there are none."""
        return None if self.features is None or features is None else self.features(features)[1]

    def slot_features(self, batch: Batch) -> Tensor | None:
        """What event, user and what is asked for add to each slot's item embedding, `[T, D]`; None where there are none."""
        return None if self.features is None or batch.features is None else self.features(batch.features)[0]

    def assign(
        self, items_U: Tensor, guidance_UD: Tensor, codebooks: Sequence[Tensor], features_UD: Tensor | None = None
    ) -> ItemSide:
        """`items` from guidance that is already there.

        What an item's features say is also added to E_i: the alignment of its mixture with its Semantic ID leaves hardly any room for it.
        """
        ran, codebooks = self._item_side(codebooks)
        if self.config.item_side == "redistribution":
            mixture_UD, log_p = ran.redistribute(guidance_UD, codebooks)
        else:
            codes_UL = item_codes(self.codes_IL, items_U)
            mixture_UD = _spelt(codes_UL, codebooks)
            log_p = [F.log_softmax(level, dim=-1) for level in ran.teacher_forced(guidance_UD, codes_UL, codebooks)]
        return ItemSide(self._with_guidance(mixture_UD, guidance_UD, features_UD), log_p)

    @torch.no_grad()
    def embed(
        self, items_U: Tensor, guidance_UD: Tensor, codebooks: Sequence[Tensor], features_UD: Tensor | None = None
    ) -> Tensor:
        """E_i of `assign`, `[U, D]`, without gradients and log p_l."""
        ran, codebooks = self._item_side(codebooks)
        if self.config.item_side == "redistribution":
            mixture_UD = ran.mixture(guidance_UD, codebooks)
        else:
            mixture_UD = _spelt(item_codes(self.codes_IL, items_U), codebooks)
        return self._with_guidance(mixture_UD, guidance_UD, features_UD)

    def _item_side(self, codebooks: Sequence[Tensor]) -> tuple[Ran, Sequence[Tensor]]:
        return self.item_ran or self.ran, codebooks if self.item_codebooks is None else self.item_codebooks()

    def _with_guidance(self, mixture_UD: Tensor, guidance_UD: Tensor, features_UD: Tensor | None) -> Tensor:
        if self.config.uid_residual:
            return mixture_UD + guidance_UD
        return mixture_UD if features_UD is None else mixture_UD + features_UD

    def represent(self, items_U: Tensor, content_UV: Tensor | None, features: BatchFeatures | None = None) -> Tensor:
        """E_i of each item, `[U, D]`, without gradients."""
        features_UD = self.item_features(features)
        guidance_UD = self.guidance(items_U, content_UV, features_UD=features_UD)
        return self.embed(items_U, guidance_UD, self.codebooks(), features_UD)

    def states(self, history_TD: Tensor, layout: Layout, at_S: Tensor | None = None) -> Tensor:
        """Backbone over item representations, `[T, D]` → `[T, D]` (Eq. 9), or `[S, D]` at some slots."""
        dropped_TD = dropout(history_TD, self.config.input_dropout, self.training)
        return self.backbone(dropped_TD, layout, at_S)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The step's losses, to be averaged over replicas.

        Returns:
            `loss` = L_rec + λ·L_aln (Eq. 11), to be differentiated; for the log, `rec_L` (Eq. 10) and `align_L` (Eq. 8)
            level by level, and `entropy_L`, the mean entropy of each level's redistribution in nats. With `model.dense`,
            its loss is part of `loss` and stands beside them as `dense`.
        """
        codebooks = self.codebooks()
        slot_TD = features_UD = None
        if self.features is not None and batch.features is not None:
            slot_TD, features_UD = self.features(batch.features)
        items = self.items(batch.items_U, batch.content_UV, codebooks, features_UD)
        history_TD = F.embedding(batch.slot_T, items.representation_UD)
        state_TD = self.states(history_TD if slot_TD is None else history_TD + slot_TD, batch.layout)
        state_SD = state_TD[batch.scored_S]
        target_SL = target_codes(self.codes_IL, batch)
        rec_L = self._rec(state_SD, target_SL, codebooks, batch.weight_S) * batch.target_weight
        align_L = batch.align_weight_U @ sid_nll(items.log_p, batch_codes(self.codes_IL, batch))
        loss = rec_L.sum() + self.config.align_weight * align_L.sum()
        figures = {}
        if self.dense is not None:
            nll_S = self.dense.nll(state_TD, history_TD, items.representation_UD, batch)
            dense = batch.over_targets(nll_S)
            loss = loss + self.config.dense.weight * dense
            figures["dense"] = dense.detach()
        return figures | {
            "loss": loss,
            "rec_L": rec_L.detach(),
            "align_L": align_L.detach(),
            "entropy_L": torch.stack([batch.align_weight_U @ _entropy(log_p) for log_p in items.log_p]).detach(),
        }

    def _rec(self, state_SD: Tensor, target_SL: Tensor, codebooks: Sequence[Tensor], weight_S: Tensor | None) -> Tensor:
        """-log P of the targets' codes given the states (Eq. 10), each by its weight, summed over slots, `[L]`.

        Of many slots some at a time, so that no logits of all slots are kept: the backward pass computes them again.
        """

        def of_slots(state_SD: Tensor, target_SL: Tensor, weight_S: Tensor | None) -> Tensor:
            if self.config.user_side == "teacher_forcing":
                logits = self.ran.teacher_forced(state_SD, target_SL, codebooks)
            else:
                logits = self.ran.redistribute(state_SD, codebooks)[1]
            nll_SL = level_nll(logits, target_SL)
            return (nll_SL if weight_S is None else nll_SL * weight_S[:, None]).sum(0)

        slots = max(1, LOGITS // sum(len(codebook_KD) for codebook_KD in codebooks))
        if len(state_SD) <= slots:
            return of_slots(state_SD, target_SL, weight_S)
        n_parts = -(-len(state_SD) // slots)
        weights = [None] * n_parts if weight_S is None else weight_S.split(slots)
        parts = zip(state_SD.split(slots), target_SL.split(slots), weights, strict=True)
        return torch.stack([checkpoint(of_slots, *part, use_reentrant=False) for part in parts]).sum(0)


def _spelt(codes_UL: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
    """The sum of each Semantic ID's codewords, `[U, D]`."""
    return torch.stack([F.embedding(codes_UL[:, level], book_KD) for level, book_KD in enumerate(codebooks)]).sum(0)


def _entropy(log_p_UK: Tensor) -> Tensor:
    log_p_UK = log_p_UK.detach()
    return -(log_p_UK.exp() * log_p_UK).sum(-1)
