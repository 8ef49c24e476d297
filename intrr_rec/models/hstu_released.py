"""The backbone that the code released with IntRR calls HSTU, for comparison with `hstu.py`, which is Zhai et al.'s.

LayerNorm → one u,v,q,k projection, SiLU on u alone → softplus(q·kᵀ/√F + bias), masked causally, divided by its sum over the
keys → u ⊙ attention, no norm before the gate → linear → dropout, residual. The bias is T5's, a scalar for each head and
bucket of distances; each layer has its own. No bias by time.

Shape suffixes: C blocks, N slots of a block, T = C·N slots, D width, H heads, F width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intrr_rec.config import HstuConfig
from intrr_rec.data.batch import Layout
from intrr_rec.models.dropout import dropout
from intrr_rec.models.t5 import BUCKETS, distance_bucket

# Softplus reaches zero for very negative scores; a row of nothing else must not divide by it.
SMALLEST_SUM = 1e-8


class ReleasedHstuLayer(nn.Module):
    """One block over packed tokens."""

    def __init__(self, config: HstuConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.width)
        self.uvqk = nn.Linear(config.width, 4 * config.width)
        self.output = nn.Linear(config.width, config.width)
        self.distance_bias = nn.Parameter(torch.randn(BUCKETS, config.heads))

    def forward(self, x_TD: Tensor, visible_CNN: Tensor, bucket_NN: Tensor) -> Tensor:
        """`[T, D]` → `[T, D]`; `visible_CNN` says where a slot may look, `bucket_NN` is the `distance_bucket` of slots."""
        blocks, slots, _ = visible_CNN.shape
        width = x_TD.shape[-1]
        u_TD, vqk_TD = self.uvqk(self.norm(x_TD)).split((width, 3 * width), dim=1)
        heads = vqk_TD.view(blocks, slots, 3, self.heads, width // self.heads)
        v_CHNF, q_CHNF, k_CHNF = heads.permute(2, 0, 3, 1, 4).unbind(0)
        bias_HNN = self.distance_bias[bucket_NN].permute(2, 0, 1)
        scores_CHNN = torch.matmul(q_CHNF, k_CHNF.transpose(-1, -2)) * q_CHNF.shape[-1] ** -0.5 + bias_HNN
        weight_CHNN = F.softplus(scores_CHNN) * visible_CNN[:, None]
        weight_CHNN = weight_CHNN / (weight_CHNN.sum(-1, keepdim=True) + SMALLEST_SUM)
        attended_TD = torch.matmul(weight_CHNN, v_CHNF).transpose(1, 2).reshape(-1, width)
        return x_TD + dropout(self.output(F.silu(u_TD) * attended_TD), self.dropout, self.training)


class ReleasedHstu(nn.Module):
    """A stack of these layers: item representations in, user states out (IntRR Eq. 9).

    Args:
        config: layers, width, heads, dropout.
    """

    def __init__(self, config: HstuConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ReleasedHstuLayer(config) for _ in range(config.layers))

    def forward(self, x_TD: Tensor, layout: Layout) -> Tensor:
        """Token representations `[T, D]` → states `[T, D]`, one causal pass within each history of `layout`."""
        visible_CNN = layout.visible_CNN()
        position_N = torch.arange(visible_CNN.shape[1], device=x_TD.device)
        bucket_NN = distance_bucket(position_N[:, None] - position_N[None, :])
        for layer in self.layers:
            x_TD = layer(x_TD, visible_CNN, bucket_NN)
        return x_TD
