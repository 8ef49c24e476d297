"""The causal T5 stack (Raffel et al. 2020) as a backbone: pre-norm blocks, bucketed relative bias, no absolute positions.

RMSNorm → attention with the bias of `log2`-spaced distances, unscaled scores → residual; RMSNorm → ReLU feed-forward →
residual; a last RMSNorm. One bias table serves all layers.

Shape suffixes: C blocks, N slots of a block, T = C·N slots, S of them asked for, D width, H heads, F width of a head; when
decoding token by token, B users, W beams, P longest prompt, G tokens a beam has generated.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intrr_rec.config import T5Config
from intrr_rec.data.loading.batch import Layout
from intrr_rec.models.backbones.backbone import Backbone
from intrr_rec.models.backbones.kv_cache import Cache, KeysValues, LayerCache, scores_with_bias
from intrr_rec.models.dropout import dropout

BUCKETS = 32
MAX_DISTANCE = 128


class T5Layer(nn.Module):
    """Self-attention and feed-forward over packed tokens."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.dropout = config.dropout
        self.attention_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.qkv = nn.Linear(config.width, 3 * inner, bias=False)
        self.output = nn.Linear(inner, config.width, bias=False)
        self.feed_forward_norm = nn.RMSNorm(config.width, eps=1e-6)
        self.expand = nn.Linear(config.width, config.feed_forward, bias=False)
        self.deepen = (
            nn.Linear(config.feed_forward, config.feed_forward, bias=False) if config.deep_feed_forward else None
        )
        self.contract = nn.Linear(config.feed_forward, config.width, bias=False)
        # T5 leaves scores unscaled; the queries' initial scale does it.
        nn.init.normal_(self.qkv.weight, std=config.width**-0.5)
        with torch.no_grad():
            self.qkv.weight[:inner].mul_(config.head_width**-0.5)
        nn.init.normal_(self.output.weight, std=inner**-0.5)
        nn.init.normal_(self.expand.weight, std=config.width**-0.5)
        if self.deepen is not None:
            nn.init.normal_(self.deepen.weight, std=config.feed_forward**-0.5)
        nn.init.normal_(self.contract.weight, std=config.feed_forward**-0.5)

    def forward(self, x_TD: Tensor, bias_CHNN: Tensor, at_S: Tensor | None = None) -> tuple[Tensor, KeysValues]:
        """`[T, D]` → `[T, D]` (with `at_S`, `[S, D]`: at these slots alone), and keys and values `[C, H, N, F]`.

        `bias_CHNN` is added to the scores, -inf where a slot may not look.
        """
        if at_S is not None:
            return self._at(x_TD, bias_CHNN, at_S)
        blocks, _, slots, _ = bias_CHNN.shape
        q_CHNF, k_CHNF, v_CHNF = self.project(x_TD).unflatten(0, (blocks, slots)).permute(2, 0, 3, 1, 4).unbind(0)
        attended_CHNF = F.scaled_dot_product_attention(q_CHNF, k_CHNF, v_CHNF, attn_mask=bias_CHNN, scale=1.0)
        x_TD = self.add_attention(x_TD, attended_CHNF.transpose(1, 2).flatten(2).flatten(0, 1))
        return self.add_feed_forward(x_TD), (k_CHNF, v_CHNF)

    def _at(self, x_TD: Tensor, bias_CHNN: Tensor, at_S: Tensor) -> tuple[Tensor, KeysValues]:
        """Of slots that are not asked for, only keys and values are made."""
        blocks, _, slots, _ = bias_CHNN.shape
        normed_TD, inner = self.attention_norm(x_TD), self.output.in_features
        query_ED, keys_values_ED = self.qkv.weight.split((inner, 2 * inner))
        keys_values = F.linear(normed_TD, keys_values_ED).view(blocks, slots, 2, self.heads, -1)
        k_CHNF, v_CHNF = keys_values.permute(2, 0, 3, 1, 4).contiguous().unbind(0)
        q_SH1F = F.linear(normed_TD[at_S], query_ED).unflatten(-1, (self.heads, -1))[:, :, None]
        block_S = at_S // slots
        bias_SH1N = bias_CHNN[block_S, :, at_S % slots][:, :, None]
        attended_SH1F = F.scaled_dot_product_attention(
            q_SH1F, k_CHNF[block_S], v_CHNF[block_S], attn_mask=bias_SH1N, scale=1.0
        )
        x_SD = self.add_attention(x_TD[at_S], attended_SH1F.flatten(1))
        return self.add_feed_forward(x_SD), (k_CHNF, v_CHNF)

    def step(self, x_BWD: Tensor, cache: LayerCache, prompt_bias_BHP: Tensor, own_bias_GH: Tensor) -> Tensor:
        """One more token a beam, `[B, W, D]` → `[B, W, D]`; its key and value join the cache.

        The biases are of the distances; the prompt's is -inf beyond its end.
        """
        q_BWHF, k_BWHF, v_BWHF = self.project(x_BWD).unbind(2)
        cache.own.append((k_BWHF, v_BWHF))
        q_BHWF, prompt = q_BWHF.transpose(1, 2), cache.prompt_k_BHPF.shape[2]
        prompt_BHWP = scores_with_bias(q_BHWF, cache.prompt_k_BHPF, prompt_bias_BHP[:, :, None])
        own = [(q_BWHF * key_BWHF).sum(-1) + bias for (key_BWHF, _), bias in zip(cache.own, own_bias_GH, strict=True)]
        scores = torch.cat([prompt_BHWP, torch.stack(own, dim=-1).transpose(1, 2)], dim=-1)
        p_BHWP, p_BHWG = scores.softmax(-1).split((prompt, len(own)), dim=-1)
        attended_BWHF = torch.matmul(p_BHWP, cache.prompt_v_BHPF).transpose(1, 2)
        for (_, value_BWHF), p_BHW in zip(cache.own, p_BHWG.unbind(-1), strict=True):
            attended_BWHF = attended_BWHF + p_BHW.transpose(1, 2)[..., None] * value_BWHF
        return self.add_feed_forward(self.add_attention(x_BWD, attended_BWHF.flatten(2)))

    def project(self, x_D: Tensor) -> Tensor:
        """Queries, keys and values of tokens `[…, D]`, `[…, 3, H, F]`."""
        return self.qkv(self.attention_norm(x_D)).unflatten(-1, (3, self.heads, -1))

    def add_attention(self, x_D: Tensor, attended_D: Tensor) -> Tensor:
        """Tokens `[…, D]` and what they gathered, `[…, H·F]` → tokens."""
        return x_D + dropout(self.output(attended_D), self.dropout, self.training)

    def add_feed_forward(self, x_D: Tensor) -> Tensor:
        """Tokens `[…, D]` → tokens."""
        hidden = dropout(F.relu(self.expand(self.feed_forward_norm(x_D)), inplace=True), self.dropout, self.training)
        if self.deepen is not None:
            hidden = dropout(F.relu(self.deepen(hidden), inplace=True), self.dropout, self.training)
        return x_D + dropout(self.contract(hidden), self.dropout, self.training)


class T5(Backbone):
    """A stack of T5 layers: item representations in, user states out (IntRR Eq. 9).

    Args:
        config: layers, width, heads, width of a head and of the feed-forward, dropout.
        window: not read: distances beyond the last bucket share one bias.
    """

    Config = T5Config

    def __init__(self, config: T5Config, window: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(T5Layer(config) for _ in range(config.layers))
        self.distance_bias = nn.Parameter(torch.randn(BUCKETS, config.heads) * config.width**-0.5)
        self.norm = nn.RMSNorm(config.width, eps=1e-6)

    def prefill(self, x_TD: Tensor, layout: Layout, at_S: Tensor | None = None) -> tuple[Tensor, list[KeysValues]]:
        """`forward`, and each layer's keys and values `[C, H, N, F]`."""
        visible_CNN = layout.visible_CNN()
        bucket_NN = slot_buckets(visible_CNN.shape[1], x_TD.device)
        bias_HNN = self.distance_bias[bucket_NN].permute(2, 0, 1)
        bias_CHNN = bias_HNN.masked_fill(~visible_CNN[:, None], -torch.inf)
        packed = []
        for layer in self.layers:
            x_TD, keys_values = layer(x_TD, bias_CHNN, at_S if layer is self.layers[-1] else None)
            packed.append(keys_values)
        return self.norm(x_TD), packed

    def step(self, x_BWD: Tensor, cache: Cache) -> Tensor:
        """States `[B, W, D]` of one more token a beam, which joins the cache."""
        distance_BP = cache.prompt_distance_BP()
        prompt_bias_BHP = self.distance_bias[distance_bucket(distance_BP)].transpose(1, 2)
        prompt_bias_BHP = prompt_bias_BHP.masked_fill((distance_BP <= 0)[:, None], -torch.inf)
        own_bias_GH = self.distance_bias[distance_bucket(cache.own_distance_G())]
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            x_BWD = cast(T5Layer, layer).step(x_BWD, layer_cache, prompt_bias_BHP, own_bias_GH)
        return self.norm(x_BWD)


def slot_buckets(slots: int, device: torch.device) -> Tensor:
    """Bucket of every pair of a block's slots, looking from the first to the second, `[N, N]`."""
    position_N = torch.arange(slots, device=device)
    return distance_bucket(position_N[:, None] - position_N[None, :])


def distance_bucket(distance: Tensor, buckets: int = BUCKETS) -> Tensor:
    """Bucket of how far back a slot looks: half of them exact, then logarithmic up to `MAX_DISTANCE`; negative is 0."""
    exact = buckets // 2
    distance = distance.clamp(min=0)
    far = exact + (distance.clamp(min=1) / exact).log() / math.log(MAX_DISTANCE / exact) * (buckets - exact)
    return torch.where(distance < exact, distance, far.long().clamp(max=buckets - 1))


def two_sided_bucket(distance: Tensor) -> Tensor:
    """The same where a slot also looks ahead (negative distances): half of the buckets are for each side."""
    half = BUCKETS // 2
    return distance_bucket(distance.abs(), half) + half * (distance < 0)
