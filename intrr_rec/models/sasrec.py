"""SASRec (Kang & McAuley 2018) trained by sampled softmax: the dense baseline to stand beside every table.

A pre-norm causal Transformer over item embeddings with learned positions. Loss and ranking are the dense head's
(`models/dense_head.py`), the very one of the `best` recipe: what differs between the two is Semantic IDs and content.

Shape suffixes: U items, T token slots, S scored slots, C blocks, N slots of a block, H heads, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intrr_rec.config import DenseConfig, ModelConfig, SasrecConfig
from intrr_rec.data.loading.batch import Batch, Layout
from intrr_rec.data.loading.features import BatchFeatures
from intrr_rec.models.base import Catalogue, ItemRecommender
from intrr_rec.models.dense_head import DenseHead
from intrr_rec.models.embeddings.tables import UID_TABLE, look_up, make_collection


class SASRec(ItemRecommender):
    """The baseline model.

    Args:
        config: layers, width, heads, dropout.
        head: temperature and repeat bias of the loss.
        n_items: rows of the item table.
        window: N, the longest history.
        uid_std: initial scale of the item table.
        device: of the table.
    """

    Config = SasrecConfig
    decoded_by = "dense"

    @classmethod
    def build(cls, config: ModelConfig, catalogue: Catalogue) -> SASRec:
        """The model for this catalogue, of which it needs the number of items alone."""
        n_items = len(catalogue.codes_IL)
        return cls(config.sasrec, config.dense, n_items, config.window, config.uid_std, catalogue.device)

    def __init__(
        self,
        config: SasrecConfig,
        head: DenseConfig,
        n_items: int,
        window: int,
        uid_std: float,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.config = config
        self.token_width = config.width
        self.dense = DenseHead(head, config.width)
        self.uid = make_collection(UID_TABLE, n_items, config.width, uid_std, device)
        self.positions = nn.Parameter(torch.randn(window, config.width) * 0.02 * config.width**0.5)
        layer = nn.TransformerEncoderLayer(
            config.width, config.heads, 4 * config.width, config.dropout, "gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, config.layers, nn.LayerNorm(config.width), enable_nested_tensor=False
        )
        self.input_dropout = nn.Dropout(config.dropout)

    def represent(self, items_U: Tensor, content_UV: Tensor | None, features: BatchFeatures | None = None) -> Tensor:
        """The item's row."""
        return look_up(self.uid, UID_TABLE, items_U)

    def states(self, history_TD: Tensor, layout: Layout, at_S: Tensor | None = None) -> Tensor:
        """Tokens `[T, D]` → states `[T, D]`, or `[S, D]` at some slots."""
        visible_CNN = layout.visible_CNN()
        x_CND = history_TD.view(*layout.owner_CN.shape, -1) + self.positions[visible_CNN.sum(-1) - 1]
        hidden_HNN = ~visible_CNN.repeat_interleave(self.config.heads, dim=0)
        state_TD = self.encoder(self.input_dropout(x_CND), mask=hidden_HNN).flatten(0, 1)
        return state_TD if at_S is None else state_TD[at_S]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sampled softmax at every scored slot: `loss`, and the same as `rec_L` for the log."""
        item_UD = self.represent(batch.items_U, None)
        history_TD = F.embedding(batch.slot_T, item_UD)
        nll_S = self.dense.nll(self.states(history_TD, batch.layout), history_TD, item_UD, batch)
        loss = batch.over_targets(nll_S)
        return {"loss": loss, "rec_L": loss.detach()[None]}
