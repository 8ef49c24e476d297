"""The flattened baseline: every item is L tokens, its Semantic ID, and the backbone predicts the next code.

The decoder-only form of generative retrieval by Semantic IDs that IntRR (section 4.1) is compared with: the same
backbones, codebooks and loss, but N·L tokens a history instead of N, and a pass of the backbone for each code decoded.

A token is the row of its level's codebook, so the level needs no mark of its own; the same rows give the logits.

Shape suffixes: M item slots, T = M·L token slots, S scored item slots, B users, W beams, D width, L levels, K codes,
I items, C blocks, N slots of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.config import ModelConfig
from intrr_rec.data.batch import Batch, Layout
from intrr_rec.models.backbone import make_backbone
from intrr_rec.models.cache import Cache, Prompts
from intrr_rec.models.dropout import dropout
from intrr_rec.models.losses import level_nll
from intrr_rec.models.recommender import CodeRecommender
from intrr_rec.models.tables import CODEBOOK_TABLE, Codebooks


class Flattened(CodeRecommender):
    """The baseline model.

    Args:
        config: backbone and its settings, window, `codebook_std`, `input_dropout`.
        codes_IL: the Semantic ID of every item, the de-duplication digit included.
        codes_per_level: K_l of each of the L levels.
        device: of the codebooks' first rows.
    """

    codes_IL: Tensor
    rows_IL: Tensor

    def __init__(
        self, config: ModelConfig, codes_IL: Tensor, codes_per_level: Sequence[int], device: torch.device
    ) -> None:
        super().__init__()
        self.config = config
        self.uid = None
        self.levels = len(codes_per_level)
        self.codebooks = Codebooks(CODEBOOK_TABLE, codes_per_level, config.width, config.codebook_std, device)
        # The longest sequence is a full window and the target's codes.
        self.backbone = make_backbone(config, (config.window + 1) * self.levels)
        first_L = torch.tensor([0, *codes_per_level[:-1]]).cumsum(0)
        self.register_buffer("codes_IL", codes_IL, persistent=False)
        self.register_buffer("rows_IL", codes_IL + first_L, persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The step's loss, to be averaged over replicas. The batch holds targets in place (`Collator.with_targets`).

        Returns:
            `loss`, the sum over levels of `rec_L`, the mean negative log-likelihood of each level's code.
        """
        codebooks = self.codebooks()
        state_TD = self.backbone(*self._tokens(batch, codebooks))
        # The last token of an item predicts the first code of the next; that code's token predicts the second; and so on.
        predicts_S = self._last_token(batch.scored_S)
        logits = [state_TD[predicts_S + level] @ book_KD.T for level, book_KD in enumerate(codebooks)]
        rec_L = level_nll(logits, self.codes_IL[batch.target_S]).sum(0) * batch.target_weight
        return {"loss": rec_L.sum(), "rec_L": rec_L.detach()}

    def begin(self, batch: Batch, codebooks: Sequence[Tensor]) -> tuple[Tensor, Prompts]:
        """One pass over the packed histories: logits `[B, K]` of the first code, and the prompts."""
        x_TD, layout = self._tokens(batch, codebooks)
        state_TD, packed = self.backbone.prefill(x_TD, layout)
        last_B = self._last_token(batch.scored_S)
        slots = layout.owner_CN.shape[1]
        block_B, slot_B = last_B // slots, last_B % slots
        is_own_BN = layout.owner_CN[block_B] == layout.owner_CN.flatten()[last_B][:, None]
        first_B = is_own_BN.int().argmax(1)
        return state_TD[last_B] @ codebooks[0].T, Prompts(packed, block_B, first_B, slot_B - first_B + 1)

    def step(self, level: int, code_BW: Tensor, cache: Cache, codebooks: Sequence[Tensor]) -> Tensor:
        """Logits `[B, W, K]` of level `level` + 1."""
        state_BWD = self.backbone.step(F.embedding(code_BW, codebooks[level]), cache)
        return state_BWD @ codebooks[level + 1].T

    def _tokens(self, batch: Batch, codebooks: Sequence[Tensor]) -> tuple[Tensor, Layout]:
        """Tokens `[T, D]` of all slots, an item's L side by side, and whose they are."""
        row_T = self.rows_IL[batch.items_U[batch.slot_T]].flatten()
        x_TD = F.embedding(row_T, torch.cat(list(codebooks)))
        owner_CN = batch.layout.owner_CN.repeat_interleave(self.levels, dim=1)
        return dropout(x_TD, self.config.input_dropout, self.training), Layout(owner_CN)

    def _last_token(self, slot_S: Tensor) -> Tensor:
        return slot_S * self.levels + self.levels - 1
