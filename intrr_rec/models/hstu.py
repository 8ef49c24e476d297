"""HSTU backbone (Zhai et al. 2024): SiLU attention with a relative position bias, a bias by time, and a gated output.

LayerNorm → one u,v,q,k projection under SiLU → SiLU(q·kᵀ + bias)/N, masked causally → u ⊙ LayerNorm(attention) → linear,
residual. Attention is divided by the configured window N, a constant, so packing several histories into a block of N slots
changes nothing. The bias by time (an option) has one scalar for each bucket of log time, shared by the heads.

Shape suffixes: C blocks, N slots of a block, T = C·N slots, D width, H heads, F width of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intrr_rec.config import HstuConfig
from intrr_rec.data.batch import Layout
from intrr_rec.models.dropout import dropout

TIME_BUCKETS = 128
TIME_BUCKET_WIDTH = 0.301


class HstuLayer(nn.Module):
    """One HSTU block over packed tokens."""

    def __init__(self, config: HstuConfig, window: int) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.dropout = config.dropout
        self.uvqk = nn.Linear(width, 4 * width, bias=False)
        self.output = nn.Linear(width, width)
        self.position_bias = nn.Parameter(torch.zeros(window))
        self.time_bias = nn.Parameter(torch.zeros(TIME_BUCKETS)) if config.time_bias else None
        nn.init.normal_(self.uvqk.weight, std=0.02)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x_TD: Tensor, weight_CNN: Tensor, bucket_CNN: Tensor | None) -> Tensor:
        """One layer.

        Args:
            x_TD: tokens.
            weight_CNN: what multiplies SiLU(scores): 1/N where a slot may look, else 0.
            bucket_CNN: `time_bucket` of each pair of slots, where the layer has a bias by time.

        Returns:
            Tokens, `[T, D]`.
        """
        blocks, slots, _ = weight_CNN.shape
        width = x_TD.shape[-1]
        u_TD, vqk_TD = F.silu(self.uvqk(F.layer_norm(x_TD, (width,)))).split((width, 3 * width), dim=1)
        heads = vqk_TD.view(blocks, slots, 3, self.heads, width // self.heads)
        v_CHNF, q_CHNF, k_CHNF = heads.permute(2, 0, 3, 1, 4).unbind(0)
        scores_CHNN = torch.matmul(q_CHNF, k_CHNF.transpose(-1, -2)) + self._bias(slots, bucket_CNN)
        attended_CHNF = torch.matmul(F.silu(scores_CHNN) * weight_CNN[:, None], v_CHNF)
        attended_TD = attended_CHNF.transpose(1, 2).reshape(-1, width)
        gated_TD = u_TD * F.layer_norm(attended_TD, (width,))
        return x_TD + self.output(dropout(gated_TD, self.dropout, self.training))

    def _bias(self, slots: int, bucket_CNN: Tensor | None) -> Tensor:
        """What is added to the scores of every head: `[N, N]`, or `[C, 1, N, N]` where times count."""
        position = torch.arange(slots, device=self.position_bias.device)
        bias_NN = self.position_bias[(position[:, None] - position[None, :]).clamp(min=0)]
        if self.time_bias is None or bucket_CNN is None:
            return bias_NN
        time_bias_P = self.time_bias.index_select(0, bucket_CNN.flatten())
        return (bias_NN + time_bias_P.view(bucket_CNN.shape))[:, None]


class Hstu(nn.Module):
    """A stack of HSTU layers: item representations in, user states out (IntRR Eq. 9).

    Args:
        config: layers, width, heads, dropout, bias by time.
        window: N, the longest history.
    """

    time_edges: Tensor | None

    def __init__(self, config: HstuConfig, window: int) -> None:
        super().__init__()
        self.window = window
        self.layers = nn.ModuleList(HstuLayer(config, window) for _ in range(config.layers))
        self.register_buffer("time_edges", time_edges() if config.time_bias else None, persistent=False)

    def forward(self, x_TD: Tensor, layout: Layout) -> Tensor:
        """Token representations `[T, D]` → states `[T, D]`, one causal pass within each history of `layout`.

        With the bias by time, the layout must carry the times of its slots.
        """
        weight_CNN = layout.visible_CNN().to(x_TD.dtype) / self.window
        bucket_CNN = None if self.time_edges is None else time_bucket(layout, self.time_edges)
        for layer in self.layers:
            x_TD = layer(x_TD, weight_CNN, bucket_CNN)
        return x_TD


def time_edges() -> Tensor:
    """The fewest whole seconds that fall into each bucket but the first, int64 `[TIME_BUCKETS - 1]`."""
    return torch.tensor([math.ceil(math.exp(TIME_BUCKET_WIDTH * bucket)) for bucket in range(1, TIME_BUCKETS)])


def time_bucket(layout: Layout, edges: Tensor) -> Tensor:
    """⌊ln(max(|Δt|, 1)) / 0.301⌋ of each query and key slot, at most `TIME_BUCKETS - 1`: int32 `[C, N, N]`.

    Δt is the time from the key's event to the moment the query's prediction is asked for. Counting integer `edges` gives
    this bucket exactly, while a rounded logarithm may differ between two places of a batch, or two devices.
    """
    assert layout.event_time_CN is not None and layout.request_time_CN is not None, "the layout carries no times"
    seconds_CNN = (layout.request_time_CN[:, :, None] - layout.event_time_CN[:, None, :]).abs()
    return torch.bucketize(seconds_CNN, edges, out_int32=True, right=True)
