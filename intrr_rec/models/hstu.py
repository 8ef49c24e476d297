"""HSTU backbone (Zhai et al. 2024): SiLU attention with a relative position bias and a gated output.

LayerNorm → one u,v,q,k projection under SiLU → SiLU(q·kᵀ + bias)/N, masked causally → u ⊙ LayerNorm(attention) → linear,
residual. Attention is divided by the configured window N, a constant, so neither padding nor packing changes the result.

Shape suffixes: T token slots, B rows of a segment, N its length, D width, H heads, F width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intrr_rec.config import HstuConfig
from intrr_rec.data.batch import Segments


class HstuLayer(nn.Module):
    """One HSTU block over segment-laid-out tokens."""

    def __init__(self, width: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.dropout = dropout
        self.uvqk = nn.Linear(width, 4 * width, bias=False)
        self.output = nn.Linear(width, width)
        self.position_bias = nn.Parameter(torch.zeros(window))
        nn.init.normal_(self.uvqk.weight, std=0.02)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x_TD: Tensor, segments: Segments) -> Tensor:
        """`[T, D]` → `[T, D]`; each row of each segment attends to itself only, causally."""
        width = x_TD.shape[-1]
        uvqk = F.silu(self.uvqk(F.layer_norm(x_TD, (width,))))
        u_TD, vqk_TD = uvqk.split((width, 3 * width), dim=1)
        mixed = []
        for (rows, length), block in zip(segments, vqk_TD.split([r * n for r, n in segments]), strict=True):
            heads = block.view(rows, length, 3, self.heads, width // self.heads)
            v_BHNF, q_BHNF, k_BHNF = heads.permute(2, 0, 3, 1, 4).unbind(0)
            scores_BHNN = torch.matmul(q_BHNF, k_BHNF.transpose(-1, -2)) + self._bias(length)
            weights_BHNN = (F.silu(scores_BHNN) / self.window).tril()
            mixed.append(torch.matmul(weights_BHNN, v_BHNF).transpose(1, 2).reshape(rows * length, width))
        attended_TD = torch.cat(mixed) if mixed else x_TD
        gated_TD = u_TD * F.layer_norm(attended_TD, (width,))
        return x_TD + self.output(F.dropout(gated_TD, self.dropout, self.training))

    def _bias(self, length: int) -> Tensor:
        position = torch.arange(length, device=self.position_bias.device)
        return self.position_bias[(position[:, None] - position[None, :]).clamp(min=0)]


class Hstu(nn.Module):
    """A stack of HSTU layers: item representations in, user states out (IntRR Eq. 9).

    Args:
        config: layers, width, heads, dropout.
        window: N, the longest history.
    """

    def __init__(self, config: HstuConfig, window: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            HstuLayer(config.width, config.heads, window, config.dropout) for _ in range(config.layers)
        )

    def forward(self, x_TD: Tensor, segments: Segments) -> Tensor:
        """Token representations `[T, D]` → states `[T, D]`, one causal pass."""
        for layer in self.layers:
            x_TD = layer(x_TD, segments)
        return x_TD
