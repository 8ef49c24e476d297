"""HSTU's attention over packed blocks, with its gradients written out: SiLU(q·kᵀ + bias)/N on what a slot may see, times v.

It starts from the u,v,q,k projection before its SiLU, so that the gradients of all four land in one buffer. Left to
autograd they are stacked, transposed, split and joined again, and six tensors of the size of the scores or of q, k and v are
kept that are cheaper to make anew.

On CUDA the products over pairs of slots are one Triton kernel (`hstu_attention_triton.py`). Everywhere else, and where Triton
is missing, they are batched matrix products over whole blocks, or, where blocks are long, over tiles (`hstu_attention_tiles.py`).

Shape suffixes: C blocks, N slots of a block, T = C·N slots, S of them asked for, D width, E = 4·D, H heads, F width of a
head, G = C·H.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from intrr_rec.data.loading.batch import Layout
from intrr_rec.models.backbones import hstu_attention_tiles as by_tile
from intrr_rec.models.backbones.hstu_attention_tiles import Tile, make_tiles

# Above this many slots of a block, whole blocks cost more than tiles: measured, `python -m benchmarks.speed attention`.
WHOLE_BLOCKS = 128

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pairs:
    """Which slots see which, alike for every layer of a pass.

    Attributes:
        layout: whose history a slot belongs to, and its times where there is a bias by time.
        window: N that attention is divided by.
        time_edges: int64, the fewest whole seconds of each bucket but the first; None without a bias by time.
        bucket_CNN: int32, the row of the bias by time of each pair; None without such a bias, and by tiles.
        weight_CNN: what multiplies SiLU(scores): 1/N where a slot may look, else 0; None where a kernel finds it itself.
        tiles: of long blocks; None where whole blocks are multiplied.
    """

    layout: Layout
    window: int
    time_edges: Tensor | None = None
    bucket_CNN: Tensor | None = None
    weight_CNN: Tensor | None = None
    tiles: list[Tile] | None = None

    @property
    def owner_CN(self) -> Tensor:
        """Whose history a slot belongs to."""
        return self.layout.owner_CN

    @classmethod
    def of(cls, layout: Layout, window: int, time_edges: Tensor | None, dtype: torch.dtype) -> Pairs:
        """The pairs of a layout; with `time_edges`, it must carry the times of its slots."""
        fused = kernels(layout.owner_CN.device) is not None
        if not fused and layout.owner_CN.shape[1] > WHOLE_BLOCKS:
            return cls(layout, window, time_edges, tiles=make_tiles(layout, time_edges))
        bucket_CNN = None if time_edges is None else time_bucket(layout, time_edges)
        weight_CNN = None if fused else layout.visible_CNN().to(dtype) / window
        return cls(layout, window, time_edges, bucket_CNN, weight_CNN)


def time_bucket(layout: Layout, edges: Tensor) -> Tensor:
    """⌊ln(max(|Δt|, 1)) / 0.301⌋ of each query and key slot, at most the number of `edges`: int32 `[C, N, N]`.

    Δt is the time from the key's event to the moment the query's prediction is asked for. Counting integer `edges` gives
    this bucket exactly, while a rounded logarithm may differ between two places of a batch, or two devices.
    """
    assert layout.event_time_CN is not None and layout.request_time_CN is not None, "the layout carries no times"
    seconds_CNN = (layout.request_time_CN[:, :, None] - layout.event_time_CN[:, None, :]).abs()
    return torch.bucketize(seconds_CNN, edges, out_int32=True, right=True)


def silu_attention(
    projected_TE: Tensor, pairs: Pairs, heads: int, position_bias_N: Tensor, time_bias_P: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One layer's attention.

    Args:
        projected_TE: u, v, q and k of every slot before their SiLU, side by side.
        pairs: of the slots.
        heads: H.
        position_bias_N: added to the scores by the distance of the two slots.
        time_bias_P: added to them by `pairs.bucket_CNN`; None without.

    Returns:
        u after its SiLU and what each slot attended to, both `[T, D]`; keys and values `[C, H, N, F]`, without gradients.
    """
    return _SiluAttention.apply(projected_TE, pairs, heads, position_bias_N, time_bias_P)


def attend_from(
    at_S: Tensor,
    q_SHF: Tensor,
    k_CHNF: Tensor,
    v_CHNF: Tensor,
    pairs: Pairs,
    position_bias_N: Tensor,
    time_bias_P: Tensor | None,
) -> Tensor:
    """What some slots (counted over all blocks) attend to, `[S, H, F]`; all else as in `silu_attention`."""
    if pairs.tiles is not None:
        return _attend_from_each(at_S, q_SHF, k_CHNF, v_CHNF, pairs, position_bias_N, time_bias_P)
    slots = pairs.owner_CN.shape[1]
    block_S, apart_SN = at_S // slots, at_S[:, None] % slots - torch.arange(slots, device=at_S.device)
    bias_SN = position_bias_N[apart_SN.clamp(min=0)]
    if time_bias_P is not None:
        assert pairs.bucket_CNN is not None
        bias_SN = bias_SN + time_bias_P[pairs.bucket_CNN.flatten(0, 1)[at_S].long()]
    scores_SHN = torch.matmul(k_CHNF.contiguous()[block_S], q_SHF[..., None]).squeeze(-1) + bias_SN[:, None]
    weight_SHN = F.silu(scores_SHN) * (Layout(pairs.owner_CN).visible_from(at_S) / pairs.window)[:, None]
    return torch.matmul(weight_SHN[:, :, None], v_CHNF.contiguous()[block_S]).squeeze(2)


def _attend_from_each(
    at_S: Tensor,
    q_SHF: Tensor,
    k_CHNF: Tensor,
    v_CHNF: Tensor,
    pairs: Pairs,
    position_bias_N: Tensor,
    time_bias_P: Tensor | None,
) -> Tensor:
    """`attend_from` slot by slot, each over its own history alone: keys of a long block are not copied per slot."""
    slots = pairs.owner_CN.shape[1]
    attended = []
    for at, q_HF in zip(at_S.tolist(), q_SHF, strict=True):
        block, place = divmod(at, slots)
        owner_K = pairs.owner_CN[block, : place + 1]
        start = int((owner_K == owner_K[-1]).int().argmax())
        bias_K = position_bias_N[: place + 1 - start].flip(0)
        if time_bias_P is not None:
            times, asked = pairs.layout.event_time_CN, pairs.layout.request_time_CN
            assert times is not None and asked is not None and pairs.time_edges is not None
            seconds_K = (asked[block, place] - times[block, start : place + 1]).abs()
            bias_K = bias_K + time_bias_P[torch.bucketize(seconds_K, pairs.time_edges, right=True)]
        keys, values = k_CHNF[block, :, start : place + 1], v_CHNF[block, :, start : place + 1]
        weight_H1K = F.silu(torch.bmm(q_HF[:, None], keys.transpose(1, 2)) + bias_K)
        attended.append(torch.bmm(weight_H1K / pairs.window, values).squeeze(1))
    return torch.stack(attended) if attended else torch.zeros_like(q_SHF)


@cache
def kernels(device: torch.device) -> ModuleType | None:
    """The fused kernels for a device, or None."""
    if device.type != "cuda":
        return None
    try:
        from intrr_rec.models.backbones import hstu_attention_triton as triton_attention
    except ImportError as error:
        log.warning("no Triton (%s): HSTU's attention runs as batched matrix products, which is slower", error)
        return None
    return triton_attention


class _SiluAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        projected_TE: Tensor,
        pairs: Pairs,
        heads: int,
        position_bias_N: Tensor,
        time_bias_P: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        activated_TE = F.silu(projected_TE)
        u, v, q, k = _parts(activated_TE, pairs, heads)
        scores_GNN: Tensor | None = None
        if (fused := kernels(projected_TE.device)) is not None:
            attended_CNHF = fused.attend(q, k, v, pairs, position_bias_N, time_bias_P)
        elif pairs.tiles is not None:
            attended_CNHF = by_tile.attend(q, k, v, pairs.tiles, pairs.window, position_bias_N, time_bias_P)
        else:
            attended_CNHF, scores_GNN = _attend(q, k, v, pairs, position_bias_N, time_bias_P)
        ctx.save_for_backward(projected_TE, activated_TE, scores_GNN, position_bias_N, time_bias_P)
        ctx.pairs, ctx.heads = pairs, heads
        k_CHNF, v_CHNF = k.transpose(1, 2), v.transpose(1, 2)
        ctx.mark_non_differentiable(k_CHNF, v_CHNF)
        return u.flatten(2).flatten(0, 1), attended_CNHF.flatten(2).flatten(0, 1), k_CHNF, v_CHNF

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_u_TD: Tensor, grad_TD: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
        projected_TE, activated_TE, scores_GNN, position_bias_N, time_bias_P = ctx.saved_tensors
        pairs: Pairs = ctx.pairs
        _, v, q, k = _parts(activated_TE, pairs, ctx.heads)
        grad_TE = torch.empty_like(projected_TE)
        grad_u, grad_v, grad_q, grad_k = _parts(grad_TE, pairs, ctx.heads)
        grad_u.copy_(grad_u_TD.view(q.shape))
        grad = grad_TD.reshape(q.shape)
        given = (q, k, v, pairs, position_bias_N, time_bias_P)
        into = (grad_q, grad_k, grad_v)
        if (fused := kernels(projected_TE.device)) is not None:
            grad_position_N, grad_time_P = fused.attend_backward(grad, *given, *into)
        elif pairs.tiles is not None:
            given_tiles = (q, k, v, pairs.tiles, pairs.window, position_bias_N, time_bias_P)
            grad_position_N, grad_time_P = by_tile.attend_backward(grad, *given_tiles, *into)
        else:
            grad_position_N, grad_time_P = _attend_backward(grad, scores_GNN, *given, *into)
        torch.ops.aten.silu_backward.grad_input(grad_TE, projected_TE, grad_input=grad_TE)
        return grad_TE, None, None, grad_position_N, grad_time_P


def _parts(x_TE: Tensor, pairs: Pairs, heads: int) -> tuple[Tensor, ...]:
    """u, v, q and k as views `[C, N, H, F]`."""
    return x_TE.view(*pairs.owner_CN.shape, 4, heads, x_TE.shape[1] // (4 * heads)).unbind(2)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, pairs: Pairs, position_bias_N: Tensor, time_bias_P: Tensor | None
) -> tuple[Tensor, Tensor]:
    """What each slot attends to, `[C, N, H, F]`, and the scores `[C·H, N, N]`."""
    blocks, slots, heads, _ = q.shape
    scores_GNN = torch.bmm(_by_head(q), _by_head(k).transpose(1, 2))
    scores_CHNN = scores_GNN.view(blocks, heads, slots, slots)
    scores_CHNN += position_bias_N[_distance_NN(slots, q.device)]
    if time_bias_P is not None:
        assert pairs.bucket_CNN is not None
        time_CNN = time_bias_P.index_select(0, pairs.bucket_CNN.flatten()).view(pairs.bucket_CNN.shape)
        scores_CHNN += time_CNN[:, None]
    attended_GNF = torch.bmm(_weights(scores_CHNN, pairs).flatten(0, 1), _by_head(v))
    return attended_GNF.view(blocks, heads, slots, -1).transpose(1, 2), scores_GNN


def _attend_backward(
    grad: Tensor,
    scores_GNN: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pairs: Pairs,
    position_bias_N: Tensor,
    time_bias_P: Tensor | None,
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Fill the gradients of q, k and v; return those of the biases."""
    assert pairs.weight_CNN is not None
    blocks, slots, heads, _ = q.shape
    shape = (blocks, heads, slots, -1)
    grad_GNF, scores_CHNN = _by_head(grad), scores_GNN.view(shape)
    weight_GNN = _weights(scores_CHNN, pairs).flatten(0, 1)
    grad_v.copy_(torch.bmm(weight_GNN.transpose(1, 2), grad_GNF).view(shape).transpose(1, 2))
    grad_CHNN = torch.bmm(grad_GNF, _by_head(v).transpose(1, 2)).view(shape)
    grad_CHNN *= pairs.weight_CNN[:, None]
    torch.ops.aten.silu_backward.grad_input(grad_CHNN, scores_CHNN, grad_input=grad_CHNN)
    grad_GNN = grad_CHNN.flatten(0, 1)
    grad_q.copy_(torch.bmm(grad_GNN, _by_head(k)).view(shape).transpose(1, 2))
    grad_k.copy_(torch.bmm(grad_GNN.transpose(1, 2), _by_head(q)).view(shape).transpose(1, 2))
    distance = _distance_NN(slots, q.device).flatten()
    per_pair = grad_CHNN.sum((0, 1), dtype=position_bias_N.dtype).flatten()
    grad_position_N = torch.zeros_like(position_bias_N).index_add_(0, distance, per_pair)
    if time_bias_P is None:
        return grad_position_N, None
    assert pairs.bucket_CNN is not None
    per_pair = grad_CHNN.sum(1, dtype=time_bias_P.dtype).flatten()
    return grad_position_N, torch.zeros_like(time_bias_P).index_add_(0, pairs.bucket_CNN.flatten(), per_pair)


def _weights(scores_CHNN: Tensor, pairs: Pairs) -> Tensor:
    assert pairs.weight_CNN is not None
    return F.silu(scores_CHNN).mul_(pairs.weight_CNN[:, None])


def _by_head(x: Tensor) -> Tensor:
    """`[C, N, H, F]` → `[C·H, N, F]`, a copy."""
    return x.transpose(1, 2).flatten(0, 1)


def _distance_NN(slots: int, device: torch.device) -> Tensor:
    position_N = torch.arange(slots, device=device)
    return (position_N[:, None] - position_N[None, :]).clamp(min=0)
