"""The causal T5 stack (Raffel et al. 2020) as a backbone: pre-norm blocks, bucketed relative bias, no absolute positions.

RMSNorm → attention with the bias of `log2`-spaced distances, unscaled scores → residual; RMSNorm → ReLU feed-forward →
residual; a last RMSNorm. One bias table serves all layers.

Shape suffixes: C blocks, N slots of a block, T = C·N slots, D width, H heads, F width of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intrr_rec.config import T5Config
from intrr_rec.data.batch import Layout
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

    def forward(self, x_TD: Tensor, bias_CHNN: Tensor) -> Tensor:
        """`[T, D]` → `[T, D]`; `bias_CHNN` is added to the scores, -inf where a slot may not look."""
        blocks, _, slots, _ = bias_CHNN.shape
        qkv = self.qkv(self.attention_norm(x_TD)).view(blocks, slots, 3, self.heads, -1)
        q_CHNF, k_CHNF, v_CHNF = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended_CHNF = F.scaled_dot_product_attention(q_CHNF, k_CHNF, v_CHNF, attn_mask=bias_CHNN, scale=1.0)
        mixed_TD = self.output(attended_CHNF.transpose(1, 2).reshape(len(x_TD), -1))
        x_TD = x_TD + dropout(mixed_TD, self.dropout, self.training)
        hidden = dropout(F.relu(self.expand(self.feed_forward_norm(x_TD))), self.dropout, self.training)
        if self.deepen is not None:
            hidden = dropout(F.relu(self.deepen(hidden)), self.dropout, self.training)
        return x_TD + dropout(self.contract(hidden), self.dropout, self.training)


class T5(nn.Module):
    """A stack of T5 layers: item representations in, user states out (IntRR Eq. 9).

    Args:
        config: layers, width, heads, width of a head and of the feed-forward, dropout.
    """

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.layers = nn.ModuleList(T5Layer(config) for _ in range(config.layers))
        self.distance_bias = nn.Parameter(torch.randn(BUCKETS, config.heads) * config.width**-0.5)
        self.norm = nn.RMSNorm(config.width, eps=1e-6)

    def forward(self, x_TD: Tensor, layout: Layout) -> Tensor:
        """Token representations `[T, D]` → states `[T, D]`, one causal pass within each history of `layout`."""
        visible_CNN = layout.visible_CNN()
        position_N = torch.arange(visible_CNN.shape[1], device=x_TD.device)
        bucket_NN = distance_bucket(position_N[:, None] - position_N[None, :])
        bias_HNN = self.distance_bias[bucket_NN].permute(2, 0, 1)
        bias_CHNN = bias_HNN.masked_fill(~visible_CNN[:, None], -torch.inf)
        for layer in self.layers:
            x_TD = layer(x_TD, bias_CHNN)
        return self.norm(x_TD)


def distance_bucket(distance: Tensor) -> Tensor:
    """Bucket of how far back a slot looks: exact up to 15, then logarithmic up to `MAX_DISTANCE`; negative counts as 0."""
    exact = BUCKETS // 2
    distance = distance.clamp(min=0)
    far = exact + (distance.clamp(min=1) / exact).log() / math.log(MAX_DISTANCE / exact) * (BUCKETS - exact)
    return torch.where(distance < exact, distance, far.long().clamp(max=BUCKETS - 1))
