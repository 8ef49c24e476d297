"""HSTU backbone (Zhai et al. 2024): SiLU attention with a relative position bias, a bias by time, and a gated output.

LayerNorm → one u,v,q,k projection under SiLU → SiLU(q·kᵀ + bias)/N, masked causally → u ⊙ LayerNorm(attention) → linear,
residual. Attention is divided by the configured window N, a constant, so packing several histories into a block of N slots
changes nothing. The bias by time (an option) has one scalar for each bucket of log time, shared by the heads.

Shape suffixes: C blocks, N slots of a block, T = C·N slots, S of them asked for, D width, H heads, F width of a head; when
decoding token by token, B users, W beams, P longest prompt, G tokens a beam has generated; when a known history goes on, E new
tokens, P tokens known before, K tokens of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intrr_rec.config import HstuConfig
from intrr_rec.data.loading.batch import Layout
from intrr_rec.models.backbones.backbone import Backbone
from intrr_rec.models.backbones.hstu_attention import Pairs, attend_from, silu_attention
from intrr_rec.models.backbones.kv_cache import Cache, KeysValues, LayerCache, scores_with_bias
from intrr_rec.models.dropout import dropout

TIME_BUCKETS = 128
TIME_BUCKET_WIDTH = 0.301


class HstuLayer(nn.Module):
    """One HSTU block over packed tokens."""

    def __init__(self, config: HstuConfig, window: int) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.window = window
        self.dropout = config.dropout
        self.uvqk = nn.Linear(width, 4 * width, bias=False)
        self.output = nn.Linear(width, width)
        self.position_bias = nn.Parameter(torch.zeros(window))
        self.time_bias = nn.Parameter(torch.zeros(TIME_BUCKETS)) if config.time_bias else None
        nn.init.normal_(self.uvqk.weight, std=0.02)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x_TD: Tensor, pairs: Pairs, at_S: Tensor | None) -> tuple[Tensor, KeysValues]:
        """Tokens `[T, D]` → `[T, D]` (with `at_S`, `[S, D]`: at these slots alone), and keys and values `[C, H, N, F]`.

        Keys and values carry no gradients.
        """
        if at_S is not None:
            return self._at(x_TD, pairs, at_S)
        u_TD, attended_TD, k_CHNF, v_CHNF = silu_attention(
            self._projected(x_TD), pairs, self.heads, self.position_bias, self.time_bias
        )
        return self._gate(x_TD, u_TD, attended_TD), (k_CHNF, v_CHNF)

    def _at(self, x_TD: Tensor, pairs: Pairs, at_S: Tensor) -> tuple[Tensor, KeysValues]:
        """Of slots that are not asked for, only keys and values are made."""
        normed_TD = F.layer_norm(x_TD, x_TD.shape[-1:])
        u_DD, v_DD, q_DD, k_DD = self.uvqk.weight.chunk(4)
        blocks = (*pairs.owner_CN.shape, self.heads, x_TD.shape[1] // self.heads)
        k_CHNF, v_CHNF = (F.silu(F.linear(normed_TD, part)).view(blocks).transpose(1, 2) for part in (k_DD, v_DD))
        u_SD, q_SD = (F.silu(F.linear(normed_TD[at_S], part)) for part in (u_DD, q_DD))
        q_SHF = q_SD.unflatten(-1, (self.heads, -1))
        attended_SHF = attend_from(at_S, q_SHF, k_CHNF, v_CHNF, pairs, self.position_bias, self.time_bias)
        return self._gate(x_TD[at_S], u_SD, attended_SHF.flatten(1)), (k_CHNF.detach(), v_CHNF.detach())

    def step(self, x_BWD: Tensor, cache: LayerCache, prompt_distance_BP: Tensor, own_distance_G: Tensor) -> Tensor:
        """One more token a beam, `[B, W, D]` → `[B, W, D]`; its key and value join the cache."""
        u_BWD, vqk_BWD = F.silu(self._projected(x_BWD)).tensor_split([x_BWD.shape[-1]], dim=-1)
        v_BWHF, q_BWHF, k_BWHF = vqk_BWD.unflatten(-1, (3, self.heads, -1)).unbind(2)
        cache.own.append((k_BWHF, v_BWHF))
        bias_BHWP = self.position_bias[prompt_distance_BP][:, None, None]
        weight_BHWP = F.silu(scores_with_bias(q_BWHF.transpose(1, 2), cache.prompt_k_BHPF, bias_BHWP), inplace=True)
        attended_BWHF = torch.matmul(weight_BHWP, cache.prompt_v_BHPF).transpose(1, 2)
        for (key_BWHF, value_BWHF), bias in zip(cache.own, self.position_bias[own_distance_G], strict=True):
            score_BWH1 = (q_BWHF * key_BWHF).sum(-1, keepdim=True) + bias
            attended_BWHF = attended_BWHF + F.silu(score_BWH1) * value_BWHF
        return self._gate(x_BWD, u_BWD, attended_BWHF.flatten(2) / self.window)

    def extend(self, x_ED: Tensor, past: KeysValues, bias_EK: Tensor, weight_EK: Tensor) -> tuple[Tensor, KeysValues]:
        """The tokens after those of `past`, `[E, D]` → `[E, D]`, and their own keys and values, `[H, E, F]`; the past's are not copied."""
        u_ED, vqk_ED = F.silu(self._projected(x_ED)).tensor_split([x_ED.shape[-1]], dim=-1)
        v_HEF, q_HEF, k_HEF = vqk_ED.unflatten(-1, (3, self.heads, -1)).permute(1, 2, 0, 3).unbind(0)
        k_HPF, v_HPF = past
        scores_HEK = torch.cat([torch.matmul(q_HEF, keys.transpose(1, 2)) for keys in (k_HPF, k_HEF)], dim=2)
        weight_HEK = F.silu(scores_HEK.add_(bias_EK), inplace=True).mul_(weight_EK)
        known = k_HPF.shape[1]
        attended_HEF = torch.matmul(weight_HEK[..., :known], v_HPF) + torch.matmul(weight_HEK[..., known:], v_HEF)
        return self._gate(x_ED, u_ED, attended_HEF.transpose(0, 1).flatten(1)), (k_HEF, v_HEF)

    def _projected(self, x_D: Tensor) -> Tensor:
        """u, v, q and k before their SiLU, side by side."""
        return self.uvqk(F.layer_norm(x_D, x_D.shape[-1:]))

    def _gate(self, x_D: Tensor, u_D: Tensor, attended_D: Tensor) -> Tensor:
        gated_D = u_D * F.layer_norm(attended_D, x_D.shape[-1:])
        return x_D + self.output(dropout(gated_D, self.dropout, self.training))


class Hstu(Backbone):
    """A stack of HSTU layers: item representations in, user states out (IntRR Eq. 9).

    With the bias by time, the layout must carry the times of its slots.

    Args:
        config: layers, width, heads, dropout, bias by time.
        window: N, the longest history.
    """

    Config = HstuConfig
    time_edges: Tensor | None

    def __init__(self, config: HstuConfig, window: int) -> None:
        super().__init__()
        self.window = window
        self.layers = nn.ModuleList(HstuLayer(config, window) for _ in range(config.layers))
        self.register_buffer("time_edges", time_edges() if config.time_bias else None, persistent=False)

    def prefill(self, x_TD: Tensor, layout: Layout, at_S: Tensor | None = None) -> tuple[Tensor, list[KeysValues]]:
        """`forward`, and each layer's keys and values `[C, H, N, F]`."""
        pairs = Pairs.of(layout, self.window, self.time_edges, x_TD.dtype)
        packed = []
        for layer in self.layers:
            x_TD, keys_values = layer(x_TD, pairs, at_S if layer is self.layers[-1] else None)
            packed.append(keys_values)
        return x_TD, packed

    def step(self, x_BWD: Tensor, cache: Cache) -> Tensor:
        """States `[B, W, D]` of one more token a beam, which joins the cache; there is no bias by time here."""
        prompt_distance_BP, own_distance_G = cache.prompt_distance_BP(), cache.own_distance_G()
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            x_BWD = cast(HstuLayer, layer).step(x_BWD, layer_cache, prompt_distance_BP, own_distance_G)
        return x_BWD

    def extend(
        self, x_ED: Tensor, past: Sequence[KeysValues], event_time_K: Tensor | None, request_time_E: Tensor | None
    ) -> tuple[Tensor, list[KeysValues]]:
        """States of the tokens that follow a history known before, and each layer's keys and values of them, `[H, E, F]`.

        Args:
            x_ED: the tokens.
            past: each layer's keys and values `[H, P, F]` of the P = K - E tokens before them.
            event_time_K, request_time_E: as in `Layout`; None without the bias by time.
        """
        known, new = past[0][0].shape[1], len(x_ED)
        place_K = torch.arange(known + new, device=x_ED.device)
        apart_EK = place_K[known:, None] - place_K
        weight_EK = (apart_EK >= 0).to(x_ED.dtype) / self.window
        bucket_EK = None
        if self.time_edges is not None:
            assert event_time_K is not None and request_time_E is not None
            seconds_EK = (request_time_E[:, None] - event_time_K).abs()
            bucket_EK = torch.bucketize(seconds_EK, self.time_edges, right=True)
        found = []
        for each, its_past in zip(self.layers, past, strict=True):
            layer = cast(HstuLayer, each)
            bias_EK = layer.position_bias[apart_EK.clamp(min=0)]
            if bucket_EK is not None:
                assert layer.time_bias is not None
                bias_EK = bias_EK + layer.time_bias[bucket_EK]
            x_ED, keys_values = layer.extend(x_ED, its_past, bias_EK, weight_EK)
            found.append(keys_values)
        return x_ED, found


def time_edges() -> Tensor:
    """The fewest whole seconds that fall into each bucket but the first, int64 `[TIME_BUCKETS - 1]`."""
    return torch.tensor([math.ceil(math.exp(TIME_BUCKET_WIDTH * bucket)) for bucket in range(1, TIME_BUCKETS)])
