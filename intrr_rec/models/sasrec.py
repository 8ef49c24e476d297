"""SASRec (Kang & McAuley 2018) trained by sampled softmax: the dense baseline to stand beside every table.

A pre-norm causal Transformer over item embeddings with learned positions; an item's score is the dot product of the state
with the same embedding. Each step's targets compete with one set of uniformly drawn negatives.

Shape suffixes: U items, T token slots, S scored slots, M negatives, C blocks, N slots of a block, H heads, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intrr_rec.config import SasrecConfig
from intrr_rec.data.batch import Batch, Layout
from intrr_rec.models.recommender import ItemRecommender
from intrr_rec.models.tables import UID_TABLE, look_up, make_collection


class SASRec(ItemRecommender):
    """The baseline model.

    Args:
        config: layers, width, heads, dropout, negatives.
        n_items: rows of the item table.
        window: N, the longest history.
        uid_std: initial scale of the item table.
        device: of the table's first rows.
    """

    def __init__(self, config: SasrecConfig, n_items: int, window: int, uid_std: float, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.n_items = n_items
        self.uid = make_collection(UID_TABLE, n_items, config.width, uid_std, device)
        self.positions = nn.Parameter(torch.randn(window, config.width) * 0.02 * config.width**0.5)
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, 4 * config.width, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, config.layers, nn.LayerNorm(config.width), enable_nested_tensor=False
        )
        self.input_dropout = nn.Dropout(config.dropout)

    def represent(self, items_U: Tensor, content_UV: Tensor | None) -> Tensor:
        """The item's row."""
        return look_up(self.uid, UID_TABLE, items_U)

    def states(self, history_TD: Tensor, layout: Layout) -> Tensor:
        """Tokens `[T, D]` → states `[T, D]`."""
        visible_CNN = layout.visible_CNN()
        x_CND = history_TD.view(*layout.owner_CN.shape, -1) + self.positions[visible_CNN.sum(-1) - 1]
        hidden_HNN = ~visible_CNN.repeat_interleave(self.config.heads, dim=0)
        return self.encoder(self.input_dropout(x_CND), mask=hidden_HNN).flatten(0, 1)

    def score(self, state_BD: Tensor, items_ID: Tensor) -> Tensor:
        """Scores `[B, I]` of items, given as `represent` gives them."""
        return state_BD @ items_ID.T * items_ID.shape[1] ** -0.5

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sampled softmax at every scored slot: `loss`, and the same as `rec_L` for the log."""
        negative_M = torch.randint(self.n_items, (self.config.negatives,), device=batch.items_U.device)
        wanted = torch.cat([batch.items_U, batch.target_S, negative_M])
        sizes = (len(batch.items_U), len(batch.target_S), len(negative_M))
        item_UD, target_SD, negative_MD = self.represent(wanted, None).split(sizes)
        state_SD = self.states(F.embedding(batch.slot_T, item_UD), batch.layout)[batch.scored_S]
        positive_S1 = (state_SD * target_SD).sum(-1, keepdim=True) * self.config.width**-0.5
        negative_SM = self.score(state_SD, negative_MD)
        # A negative that happens to be the target would be pushed down and up at once.
        negative_SM = negative_SM.masked_fill(negative_M == batch.target_S[:, None], -torch.inf)
        logits = torch.cat([positive_S1, negative_SM], dim=1)
        nll_S = F.cross_entropy(logits, torch.zeros_like(batch.target_S), reduction="none")
        loss = nll_S.sum() * batch.target_weight
        return {"loss": loss, "rec_L": loss.detach()[None]}
