"""TIGER (Rajput et al. 2023): a T5 encoder reads the history's codes, a decoder spells the next item's.

The encoder looks in both directions, so a pass serves one target only: each training position is a sample of its own
(`data/loading/windows.py`: `prefix_windows`). The decoder's L tokens are a start token and the target's codes before the last;
they look at one another causally and, by cross-attention without a bias, at the encoded history. Left out of the paper's
model: the token of the hashed user id.

Shape suffixes: S samples (scored item slots), G tokens of the decoder, T token slots = C blocks · N slots, B users, W beams,
P longest prompt, H heads, F width of a head, D width, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intrr_rec.config import ModelConfig, TigerConfig
from intrr_rec.data.loading.batch import Batch, Layout
from intrr_rec.data.loading.windows import prefix_windows
from intrr_rec.models.backbones.kv_cache import Cache, KeysValues, LayerCache, Prompts, scores_with_bias
from intrr_rec.models.backbones.t5 import BUCKETS, T5Layer, distance_bucket, two_sided_bucket
from intrr_rec.models.base import Catalogue, CodeRecommender
from intrr_rec.models.codes import target_codes
from intrr_rec.models.dropout import dropout
from intrr_rec.models.losses import level_nll


class DecoderLayer(nn.Module):
    """Self-attention, attention to the history, feed-forward."""

    def __init__(self, config: TigerConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.own = T5Layer(config)
        self.norm = nn.RMSNorm(config.width, eps=1e-6)
        self.query = nn.Linear(config.width, inner, bias=False)
        self.keys_values = nn.Linear(config.width, 2 * inner, bias=False)
        self.output = nn.Linear(inner, config.width, bias=False)
        nn.init.normal_(self.query.weight, std=(config.width * config.head_width) ** -0.5)
        nn.init.normal_(self.keys_values.weight, std=config.width**-0.5)
        nn.init.normal_(self.output.weight, std=inner**-0.5)

    def history(self, encoded_TD: Tensor, blocks: int) -> KeysValues:
        """Keys and values `[C, H, N, F]` of the encoded histories."""
        heads = self.keys_values(encoded_TD).view(
            blocks, -1, 2, self.own.heads, self.query.out_features // self.own.heads
        )
        k_CHNF, v_CHNF = heads.permute(2, 0, 3, 1, 4).unbind(0)
        return k_CHNF, v_CHNF

    def forward(
        self, x_SGD: Tensor, bias_HGG: Tensor, history: KeysValues, slot_SG: Tensor, bias_CNN: Tensor
    ) -> tuple[Tensor, KeysValues]:
        """All tokens of the decoder at once, `[S, G, D]` → `[S, G, D]`, and their keys and values `[S, G, H, F]`.

        Args:
            x_SGD: tokens.
            bias_HGG: of the self-attention, -inf ahead of a token.
            history: what `history` gave.
            slot_SG: a token slot of the sample's own history for each token, from which it looks at that history.
            bias_CNN: 0 where slots are of one history, else -inf.
        """
        q_SGHF, k_SGHF, v_SGHF = self.own.project(x_SGD).unbind(2)
        q_SHGF, k_SHGF, v_SHGF = (x.transpose(1, 2) for x in (q_SGHF, k_SGHF, v_SGHF))
        # Spelled out: on an empty share of a step, the fused product would leave the bias without a gradient.
        attended_SHGF = (q_SHGF @ k_SHGF.transpose(-1, -2) + bias_HGG).softmax(-1) @ v_SHGF
        x_SGD = self.own.add_attention(x_SGD, attended_SHGF.transpose(1, 2).flatten(2))
        # Queries take the place of slots of their own history, so that packed histories need no padding of each.
        k_CHNF, v_CHNF = history
        query_D = self.query(self.norm(x_SGD)).flatten(0, 1)
        q_TD = query_D.new_zeros(bias_CNN.shape[:2].numel(), query_D.shape[1]).index_copy(0, slot_SG.flatten(), query_D)
        q_CHNF = q_TD.view(k_CHNF.transpose(1, 2).shape).transpose(1, 2)
        attended_CHNF = F.scaled_dot_product_attention(q_CHNF, k_CHNF, v_CHNF, attn_mask=bias_CNN[:, None], scale=1.0)
        attended_SGD = attended_CHNF.transpose(1, 2).reshape(q_TD.shape)[slot_SG]
        return self.own.add_feed_forward(self._add(x_SGD, attended_SGD)), (k_SGHF, v_SGHF)

    def step(self, x_BWD: Tensor, cache: LayerCache, own_bias_GH: Tensor, prompt_bias_BP: Tensor) -> Tensor:
        """One more token a beam, `[B, W, D]` → `[B, W, D]`; its key and value join the cache."""
        q_BWHF, k_BWHF, v_BWHF = self.own.project(x_BWD).unbind(2)
        cache.own.append((k_BWHF, v_BWHF))
        scores = [
            (q_BWHF * key_BWHF).sum(-1) + bias for (key_BWHF, _), bias in zip(cache.own, own_bias_GH, strict=True)
        ]
        p_GBWH = torch.stack(scores).softmax(0)
        attended_BWHF = sum(p_BWH[..., None] * value for (_, value), p_BWH in zip(cache.own, p_GBWH, strict=True))
        x_BWD = self.own.add_attention(x_BWD, cast(Tensor, attended_BWHF).flatten(2))
        q_BWHF = self.query(self.norm(x_BWD)).unflatten(-1, (self.own.heads, -1))
        bias_BHWP = prompt_bias_BP[:, None, None]
        p_BHWP = scores_with_bias(q_BWHF.transpose(1, 2), cache.prompt_k_BHPF, bias_BHWP).softmax(-1)
        attended_BWHF = torch.matmul(p_BHWP, cache.prompt_v_BHPF).transpose(1, 2)
        return self.own.add_feed_forward(self._add(x_BWD, attended_BWHF.flatten(2)))

    def _add(self, x_D: Tensor, attended_D: Tensor) -> Tensor:
        return x_D + dropout(self.output(attended_D), self.own.dropout, self.training)


class Tiger(CodeRecommender):
    """The encoder-decoder.

    Args:
        config: layers of either stack, width, heads, dropout.
        codebook_std: initial scale of the codebooks.
        codes_IL: the Semantic ID of every item, the de-duplication digit included.
        codes_per_level: K_l of each of the L levels.
        device: of the codebooks.
    """

    Config = TigerConfig
    windows = staticmethod(prefix_windows)

    @classmethod
    def build(cls, config: ModelConfig, catalogue: Catalogue) -> Tiger:
        """The model for this catalogue."""
        ids = catalogue
        return cls(config.tiger, config.codebook_std, ids.codes_IL, ids.codes_per_level, ids.device)

    def __init__(
        self,
        config: TigerConfig,
        codebook_std: float,
        codes_IL: Tensor,
        codes_per_level: Sequence[int],
        device: torch.device,
    ) -> None:
        super().__init__(codes_IL, codes_per_level, config.width, codebook_std, device)
        self.dropout = config.dropout
        self.encoder = nn.ModuleList(T5Layer(config) for _ in range(config.layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.encoder_bias = nn.Parameter(torch.randn(BUCKETS, config.heads) * config.width**-0.5)
        self.decoder_bias = nn.Parameter(torch.randn(BUCKETS, config.heads) * config.width**-0.5)
        self.encoder_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.decoder_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.start = nn.Parameter(torch.randn(config.width) * codebook_std * config.width**0.5)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The step's loss, to be averaged over replicas; only the last slot of a history may be scored.

        Returns:
            `loss`, the sum over levels of `rec_L`, the mean negative log-likelihood of each level's code.
        """
        codebooks, target_SL = self.codebooks(), target_codes(self.codes_IL, batch)
        before = [F.embedding(target_SL[:, level], book_KD) for level, book_KD in enumerate(codebooks[:-1])]
        x_SGD = torch.stack([self.start.expand(len(target_SL), -1), *before], dim=1)
        state_SGD, *_ = self._decode(x_SGD, batch, codebooks)
        logits = [state_SGD[:, level] @ book_KD.T for level, book_KD in enumerate(codebooks)]
        rec_L = batch.over_targets(level_nll(logits, target_SL))
        return {"loss": rec_L.sum(), "rec_L": rec_L.detach()}

    def begin(self, batch: Batch, codebooks: Sequence[Tensor]) -> tuple[Tensor, Prompts]:
        """Encode the packed histories: logits `[B, K]` of the first code, and the encoded prompts."""
        start_B1D = self.start.expand(len(batch.scored_S), 1, -1)
        state_B1D, layout, packed, start = self._decode(start_B1D, batch, codebooks)
        prompts = Prompts.up_to(self.last_token(batch.scored_S), layout, packed, start)
        return state_B1D[:, 0] @ codebooks[0].T, prompts

    def step(self, level: int, code_BW: Tensor, cache: Cache, codebooks: Sequence[Tensor]) -> Tensor:
        """Logits `[B, W, K]` of level `level` + 1."""
        x_BWD = F.embedding(code_BW, codebooks[level])
        own_bias_GH = self.decoder_bias[distance_bucket(cache.own_distance_G())]
        prompt_bias_BP = x_BWD.new_zeros(()).masked_fill(cache.prompt_distance_BP() <= 0, -torch.inf)
        for layer, layer_cache in zip(self.decoder, cache.layers, strict=True):
            x_BWD = cast(DecoderLayer, layer).step(x_BWD, layer_cache, own_bias_GH, prompt_bias_BP)
        return self.decoder_norm(x_BWD) @ codebooks[level + 1].T

    def _decode(
        self, x_SGD: Tensor, batch: Batch, codebooks: Sequence[Tensor]
    ) -> tuple[Tensor, Layout, list[KeysValues], list[KeysValues]]:
        """States of the decoder's tokens, the layout of the history's, and keys and values of both in each layer."""
        encoded_TD, layout = self._encode(batch, codebooks)
        bias_CNN = encoded_TD.new_zeros(()).masked_fill(~layout.together_CNN(), -torch.inf)
        step_G = torch.arange(x_SGD.shape[1], device=x_SGD.device)
        distance_GG = step_G[:, None] - step_G[None, :]
        bias_HGG = self.decoder_bias[distance_bucket(distance_GG)].permute(2, 0, 1)
        bias_HGG = bias_HGG.masked_fill(distance_GG < 0, -torch.inf)
        slot_SG = batch.scored_S[:, None] * self.levels + step_G
        x_SGD = dropout(x_SGD, self.dropout, self.training)
        packed, own = [], []
        for layer in self.decoder:
            packed.append(cast(DecoderLayer, layer).history(encoded_TD, len(bias_CNN)))
            x_SGD, keys_values = layer(x_SGD, bias_HGG, packed[-1], slot_SG, bias_CNN)
            own.append(keys_values)
        return dropout(self.decoder_norm(x_SGD), self.dropout, self.training), layout, packed, own

    def _encode(self, batch: Batch, codebooks: Sequence[Tensor]) -> tuple[Tensor, Layout]:
        """Encoded tokens `[T, D]` of the histories, and their layout."""
        x_TD, layout = self.tokens(batch, codebooks)
        together_CNN = layout.together_CNN()
        position_N = torch.arange(together_CNN.shape[1], device=x_TD.device)
        bias_HNN = self.encoder_bias[two_sided_bucket(position_N[:, None] - position_N[None, :])].permute(2, 0, 1)
        bias_CHNN = bias_HNN.masked_fill(~together_CNN[:, None], -torch.inf)
        x_TD = dropout(x_TD, self.dropout, self.training)
        for layer in self.encoder:
            x_TD, _ = layer(x_TD, bias_CHNN)
        return dropout(self.encoder_norm(x_TD), self.dropout, self.training), layout
