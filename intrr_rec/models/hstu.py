"""HSTU backbone (Zhai et al. 2024): SiLU attention with a relative position bias and a gated output.

LayerNorm → one u,v,q,k projection under SiLU → SiLU(q·kᵀ + bias)/N, masked causally → u ⊙ LayerNorm(attention) → linear,
residual. Attention is divided by the configured window N, a constant, so packing several histories into a block of N slots
changes nothing.

Shape suffixes: C blocks, N slots of a block, T = C·N slots, D width, H heads, F width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intrr_rec.config import HstuConfig
from intrr_rec.data.batch import Layout
from intrr_rec.models.dropout import dropout


class HstuLayer(nn.Module):
    """One HSTU block over packed tokens."""

    def __init__(self, width: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.uvqk = nn.Linear(width, 4 * width, bias=False)
        self.output = nn.Linear(width, width)
        self.position_bias = nn.Parameter(torch.zeros(window))
        nn.init.normal_(self.uvqk.weight, std=0.02)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x_TD: Tensor, weight_CNN: Tensor) -> Tensor:
        """`[T, D]` → `[T, D]`; `weight_CNN` is what multiplies SiLU(scores): 1/N where a slot may look, else 0."""
        blocks, slots, _ = weight_CNN.shape
        width = x_TD.shape[-1]
        u_TD, vqk_TD = F.silu(self.uvqk(F.layer_norm(x_TD, (width,)))).split((width, 3 * width), dim=1)
        heads = vqk_TD.view(blocks, slots, 3, self.heads, width // self.heads)
        v_CHNF, q_CHNF, k_CHNF = heads.permute(2, 0, 3, 1, 4).unbind(0)
        scores_CHNN = torch.matmul(q_CHNF, k_CHNF.transpose(-1, -2)) + self._bias(slots)
        attended_CHNF = torch.matmul(F.silu(scores_CHNN) * weight_CNN[:, None], v_CHNF)
        attended_TD = attended_CHNF.transpose(1, 2).reshape(-1, width)
        gated_TD = u_TD * F.layer_norm(attended_TD, (width,))
        return x_TD + self.output(dropout(gated_TD, self.dropout, self.training))

    def _bias(self, slots: int) -> Tensor:
        position = torch.arange(slots, device=self.position_bias.device)
        return self.position_bias[(position[:, None] - position[None, :]).clamp(min=0)]


class Hstu(nn.Module):
    """A stack of HSTU layers: item representations in, user states out (IntRR Eq. 9).

    Args:
        config: layers, width, heads, dropout.
        window: N, the longest history.
    """

    def __init__(self, config: HstuConfig, window: int) -> None:
        super().__init__()
        self.window = window
        self.layers = nn.ModuleList(
            HstuLayer(config.width, config.heads, window, config.dropout) for _ in range(config.layers)
        )

    def forward(self, x_TD: Tensor, layout: Layout) -> Tensor:
        """Token representations `[T, D]` → states `[T, D]`, one causal pass within each history of `layout`."""
        weight_CNN = layout.visible_CNN().to(x_TD.dtype) / self.window
        for layer in self.layers:
            x_TD = layer(x_TD, weight_CNN)
        return x_TD
