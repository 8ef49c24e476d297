"""The flattened baseline: every item is L tokens, its Semantic ID, and the backbone predicts the next code.

The decoder-only form of generative retrieval by Semantic IDs that IntRR (section 4.1) is compared with: the same
backbones, codebooks and loss, but N·L tokens a history instead of N, and a pass of the backbone for each code decoded.

Tokens are rows of the codebooks, and the same rows give the logits.

Shape suffixes: M item slots, T = M·L token slots, S scored item slots, B users, W beams, D width, L levels, K codes,
I items, C blocks, N slots of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.config import FlattenedConfig, ModelConfig
from intrr_rec.data.loading.batch import Batch
from intrr_rec.models.backbones.backbone import make_backbone
from intrr_rec.models.backbones.kv_cache import Cache, Prompts
from intrr_rec.models.base import Catalogue, CodeRecommender
from intrr_rec.models.codes import target_codes
from intrr_rec.models.dropout import dropout
from intrr_rec.models.losses import level_nll


class Flattened(CodeRecommender):
    """The baseline model.

    Args:
        config: backbone and its settings, window, `codebook_std`, `input_dropout`.
        codes_IL: the Semantic ID of every item, the de-duplication digit included.
        codes_per_level: K_l of each of the L levels.
        device: of the codebooks.
    """

    Config = FlattenedConfig
    with_targets = True

    @classmethod
    def build(cls, config: ModelConfig, catalogue: Catalogue) -> Flattened:
        """The model for this catalogue."""
        return cls(config, catalogue.codes_IL, catalogue.codes_per_level, catalogue.device)

    def __init__(
        self, config: ModelConfig, codes_IL: Tensor, codes_per_level: Sequence[int], device: torch.device
    ) -> None:
        super().__init__(codes_IL, codes_per_level, config.width, config.codebook_std, device)
        self.input_dropout = config.input_dropout
        # The longest sequence is a full window and the target's codes.
        self.backbone = make_backbone(config, (config.window + 1) * self.levels)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The step's loss, to be averaged over replicas. The batch holds targets in place (`Collator.with_targets`).

        Returns:
            `loss`, the sum over levels of `rec_L`, the mean negative log-likelihood of each level's code.
        """
        codebooks = self.codebooks()
        x_TD, layout = self.tokens(batch, codebooks)
        state_TD = self.backbone(dropout(x_TD, self.input_dropout, self.training), layout)
        # The last token of an item predicts the first code of the next; that code's token predicts the second; and so on.
        predicts_S = self.last_token(batch.scored_S)
        logits = [state_TD[predicts_S + level] @ book_KD.T for level, book_KD in enumerate(codebooks)]
        rec_L = batch.over_targets(level_nll(logits, target_codes(self.codes_IL, batch)))
        return {"loss": rec_L.sum(), "rec_L": rec_L.detach()}

    def begin(self, batch: Batch, codebooks: Sequence[Tensor]) -> tuple[Tensor, Prompts]:
        """One pass over the packed histories: logits `[B, K]` of the first code, and the prompts."""
        x_TD, layout = self.tokens(batch, codebooks)
        last_B = self.last_token(batch.scored_S)
        state_BD, packed = self.backbone.prefill(x_TD, layout, last_B)
        return state_BD @ codebooks[0].T, Prompts.up_to(last_B, layout, packed)

    def step(self, level: int, code_BW: Tensor, cache: Cache, codebooks: Sequence[Tensor]) -> Tensor:
        """Logits `[B, W, K]` of level `level` + 1."""
        state_BWD = self.backbone.step(F.embedding(code_BW, codebooks[level]), cache)
        return state_BWD @ codebooks[level + 1].T
