"""The backbone that the code released with IntRR calls HSTU, for comparison with the built-in `hstu`, which is Zhai et al.'s.

LayerNorm → one u,v,q,k projection, SiLU on u alone → softplus(q·kᵀ/√F + bias), masked causally, divided by its sum over the
keys → u ⊙ attention, no norm before the gate → linear → dropout, residual. The bias is T5's, a scalar for each head and
bucket of distances; each layer has its own. No bias by time.

Shape suffixes: C blocks, N slots of a block, T = C·N slots, S of them asked for, D width, H heads, F width of a head; when
decoding token by token, B users, W beams, P longest prompt, G tokens a beam has generated.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from intrr_rec.config import BackboneConfig
from intrr_rec.data.loading.batch import Layout
from intrr_rec.models.backbones.backbone import Backbone
from intrr_rec.models.backbones.kv_cache import Cache, KeysValues, LayerCache, scores_with_bias
from intrr_rec.models.backbones.t5 import BUCKETS, distance_bucket, slot_buckets
from intrr_rec.models.dropout import dropout

# Softplus reaches zero for very negative scores; a row of nothing else must not divide by it.
SMALLEST_SUM = 1e-8


class ReleasedHstuConfig(BackboneConfig):
    """Settings of the section `model.hstu_released`."""

    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _divisible(self) -> ReleasedHstuConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}")
        return self


class ReleasedHstuLayer(nn.Module):
    """One block over packed tokens."""

    def __init__(self, config: ReleasedHstuConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(config.width)
        self.uvqk = nn.Linear(config.width, 4 * config.width)
        self.output = nn.Linear(config.width, config.width)
        self.distance_bias = nn.Parameter(torch.randn(BUCKETS, config.heads))

    def forward(
        self, x_TD: Tensor, visible_CNN: Tensor, bucket_NN: Tensor, at_S: Tensor | None
    ) -> tuple[Tensor, KeysValues]:
        """`[T, D]` → `[T, D]` (with `at_S`, `[S, D]`: at these slots alone), and keys and values `[C, H, N, F]`.

        `visible_CNN` says where a slot may look, `bucket_NN` is the `distance_bucket` of slots.
        """
        if at_S is not None:
            return self._at(x_TD, visible_CNN, bucket_NN, at_S)
        blocks, slots, _ = visible_CNN.shape
        u_TD, vqk_TD = self._project(x_TD)
        heads = vqk_TD.view(blocks, slots, 3, self.heads, -1)
        v_CHNF, q_CHNF, k_CHNF = heads.permute(2, 0, 3, 1, 4).unbind(0)
        bias_HNN = self.distance_bias[bucket_NN].permute(2, 0, 1)
        scores_CHNN = torch.matmul(q_CHNF, k_CHNF.transpose(-1, -2)) * q_CHNF.shape[-1] ** -0.5 + bias_HNN
        weight_CHNN = F.softplus(scores_CHNN) * visible_CNN[:, None]
        weight_CHNN = weight_CHNN / (weight_CHNN.sum(-1, keepdim=True) + SMALLEST_SUM)
        attended_TD = torch.matmul(weight_CHNN, v_CHNF).transpose(1, 2).reshape(x_TD.shape)
        return self._gate(x_TD, u_TD, attended_TD), (k_CHNF, v_CHNF)

    def _at(self, x_TD: Tensor, visible_CNN: Tensor, bucket_NN: Tensor, at_S: Tensor) -> tuple[Tensor, KeysValues]:
        """Of slots that are not asked for, only keys and values are made."""
        blocks, slots, _ = visible_CNN.shape
        block_S, place_S = at_S // slots, at_S % slots
        normed_TD = self.norm(x_TD)
        u_DD, v_DD, q_DD, k_DD = self.uvqk.weight.chunk(4)
        u_D, v_D, q_D, k_D = self.uvqk.bias.chunk(4)
        k_CHNF, v_CHNF = (
            F.linear(normed_TD, *part).view(blocks, slots, self.heads, -1).transpose(1, 2).contiguous()
            for part in ((k_DD, k_D), (v_DD, v_D))
        )
        u_SD, q_SD = (F.linear(normed_TD[at_S], *part) for part in ((u_DD, u_D), (q_DD, q_D)))
        q_SHF1 = q_SD.unflatten(-1, (self.heads, -1))[..., None]
        bias_SHN = self.distance_bias[bucket_NN[place_S]].transpose(1, 2)
        scores_SHN = torch.matmul(k_CHNF[block_S], q_SHF1).squeeze(-1) * q_SHF1.shape[2] ** -0.5 + bias_SHN
        weight_SHN = F.softplus(scores_SHN) * visible_CNN[block_S, place_S][:, None]
        weight_SHN = weight_SHN / (weight_SHN.sum(-1, keepdim=True) + SMALLEST_SUM)
        attended_SH1F = torch.matmul(weight_SHN[:, :, None], v_CHNF[block_S])
        return self._gate(x_TD[at_S], F.silu(u_SD), attended_SH1F.flatten(1)), (k_CHNF, v_CHNF)

    def step(self, x_BWD: Tensor, cache: LayerCache, distance_BP: Tensor, own_distance_G: Tensor) -> Tensor:
        """One more token a beam, `[B, W, D]` → `[B, W, D]`; its key and value join the cache.

        `distance_BP` is how far back the prompt's slots lie, not positive beyond its end.
        """
        u_BWD, vqk_BWD = self._project(x_BWD)
        v_BWHF, q_BWHF, k_BWHF = vqk_BWD.unflatten(-1, (3, self.heads, -1)).unbind(2)
        cache.own.append((k_BWHF, v_BWHF))
        q_BWHF = q_BWHF * q_BWHF.shape[-1] ** -0.5
        bias_BHP = self.distance_bias[distance_bucket(distance_BP)].transpose(1, 2)
        scores_BHWP = scores_with_bias(q_BWHF.transpose(1, 2), cache.prompt_k_BHPF, bias_BHP[:, :, None])
        weight_BHWP = F.softplus(scores_BHWP) * (distance_BP > 0)[:, None, None]
        attended_BWHF = torch.matmul(weight_BHWP, cache.prompt_v_BHPF).transpose(1, 2)
        total_BWH = weight_BHWP.sum(-1).transpose(1, 2)
        own_bias_GH = self.distance_bias[distance_bucket(own_distance_G)]
        for (key_BWHF, value_BWHF), bias_H in zip(cache.own, own_bias_GH, strict=True):
            weight_BWH = F.softplus((q_BWHF * key_BWHF).sum(-1) + bias_H)
            attended_BWHF = attended_BWHF + weight_BWH[..., None] * value_BWHF
            total_BWH = total_BWH + weight_BWH
        attended_BWHF = attended_BWHF / (total_BWH + SMALLEST_SUM)[..., None]
        return self._gate(x_BWD, u_BWD, attended_BWHF.flatten(2))

    def _project(self, x_D: Tensor) -> tuple[Tensor, Tensor]:
        width = x_D.shape[-1]
        u_D, vqk_D = self.uvqk(self.norm(x_D)).split((width, 3 * width), dim=-1)
        return F.silu(u_D), vqk_D

    def _gate(self, x_D: Tensor, u_D: Tensor, attended_D: Tensor) -> Tensor:
        return x_D + dropout(self.output(u_D * attended_D), self.dropout, self.training)


class HstuReleased(Backbone):
    """A stack of these layers: item embeddings in, user states out (IntRR Eq. 9).

    Args:
        config: layers, width, heads, dropout.
        window: not read: distances beyond the last bucket share one bias.
    """

    Config = ReleasedHstuConfig

    def __init__(self, config: ReleasedHstuConfig, window: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ReleasedHstuLayer(config) for _ in range(config.layers))

    def prefill(self, x_TD: Tensor, layout: Layout, at_S: Tensor | None = None) -> tuple[Tensor, list[KeysValues]]:
        """`forward`, and each layer's keys and values `[C, H, N, F]`."""
        visible_CNN = layout.visible_CNN()
        bucket_NN = slot_buckets(visible_CNN.shape[1], x_TD.device)
        packed = []
        for layer in self.layers:
            x_TD, keys_values = layer(x_TD, visible_CNN, bucket_NN, at_S if layer is self.layers[-1] else None)
            packed.append(keys_values)
        return x_TD, packed

    def step(self, x_BWD: Tensor, cache: Cache) -> Tensor:
        """States `[B, W, D]` of one more token a beam, which joins the cache."""
        distance_BP, own_distance_G = cache.prompt_distance_BP(), cache.own_distance_G()
        for layer, layer_cache in zip(self.layers, cache.layers, strict=True):
            x_BWD = cast(ReleasedHstuLayer, layer).step(x_BWD, layer_cache, distance_BP, own_distance_G)
        return x_BWD
