"""HSTU's attention over packed blocks as Triton kernels: no tensor of the size of the scores ever lies in memory.

A program holds a tile of one block's slots and one head, and walks over the tiles it may see. Histories are jagged: they lie
packed in a block, each slot knows its owner, and a tile pair is masked by owner and order. The backward pass makes the scores
anew, once for the gradients of queries and biases and once for those of keys and values.

The reference is the batched matrix products of `silu_attention.py`; on a CPU the kernels run under TRITON_INTERPRET=1.

Shape suffixes: C blocks, N slots of a block, H heads, F width of a head, P rows of the bias by time, Q and K tiles of slots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

if TYPE_CHECKING:
    from intrr_rec.models.backbones.hstu_attention import Pairs

TILE = 32


@triton.jit
def _scores(
    q, k, q_slot, k_slot, owner, bucket, position_bias, time_bias, slots, scale,
    HAS_TIME: tl.constexpr,
):  # fmt: skip
    """Scores of a tile of queries and one of keys, the weight of each pair, and its row of the bias by time."""
    within = (q_slot < slots)[:, None] & (k_slot < slots)[None, :]
    q_owner = tl.load(owner + q_slot, mask=q_slot < slots, other=-2)
    k_owner = tl.load(owner + k_slot, mask=k_slot < slots, other=-3)
    seen = (q_owner[:, None] == k_owner[None, :]) & (k_slot[None, :] <= q_slot[:, None])
    apart = tl.where(seen, q_slot[:, None] - k_slot[None, :], 0)
    score = tl.dot(q, tl.trans(k), input_precision="ieee") + tl.load(position_bias + apart)
    row = apart
    if HAS_TIME:
        row = tl.load(bucket + q_slot[:, None] * slots + k_slot[None, :], mask=within, other=0)
        score += tl.load(time_bias + row)
    return score, tl.where(seen, scale, 0.0), row


@triton.jit
def _tile(base, slot, slots, stride, column, HEAD: tl.constexpr):
    """Rows of one head, zero beyond the block or the head."""
    mask = (slot < slots)[:, None] & (column < HEAD)[None, :]
    return tl.load(base + slot[:, None] * stride + column[None, :], mask=mask, other=0.0)


@triton.jit
def _forward(
    q, k, v, out, owner, bucket, position_bias, time_bias,
    stride_block, stride_slot, out_block, out_slot, slots, heads, scale,
    HEAD: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, HAS_TIME: tl.constexpr,
):  # fmt: skip
    block, head, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = tl.arange(0, WIDE)
    q_slot = tile * TILE + tl.arange(0, TILE)
    base = block.to(tl.int64) * stride_block + head * HEAD
    owner += block * slots
    bucket += block.to(tl.int64) * slots * slots
    q_QF = _tile(q + base, q_slot, slots, stride_slot, column, HEAD)
    attended = tl.zeros((TILE, WIDE), dtype=tl.float32)
    for other in range(0, tile + 1):
        k_slot = other * TILE + tl.arange(0, TILE)
        k_KF = _tile(k + base, k_slot, slots, stride_slot, column, HEAD)
        v_KF = _tile(v + base, k_slot, slots, stride_slot, column, HEAD)
        score, weight, _ = _scores(
            q_QF, k_KF, q_slot, k_slot, owner, bucket, position_bias, time_bias, slots, scale, HAS_TIME
        )
        attended += tl.dot((score * tl.sigmoid(score) * weight).to(v_KF.dtype), v_KF, input_precision="ieee")
    place = out + block.to(tl.int64) * out_block + head * HEAD + q_slot[:, None] * out_slot + column[None, :]
    tl.store(place, attended.to(out.dtype.element_ty), mask=(q_slot < slots)[:, None] & (column < HEAD)[None, :])


@triton.jit
def _slope(score, weight, grad_weight):
    """The gradient of the scores from that of their weights: SiLU' times what a pair counts."""
    sigmoid = tl.sigmoid(score)
    return grad_weight * weight * sigmoid * (1.0 + score * (1.0 - sigmoid))


@triton.jit
def _add_by_distance(into, slope, apart, slots, TILE: tl.constexpr):
    """Add up the pairs of each distance within a tile, then add two sums a row in place of a number a pair.

    Each row of the tile is turned so that equal distances are in a column: the pairs of column r lie `apart` + r slots apart, or, where
    the row was turned past its start, TILE fewer. Pairs that do not exist are zero.
    """
    row, column = tl.arange(0, TILE)[:, None], tl.arange(0, TILE)[None, :]
    turned = tl.gather(slope, (row - column + TILE) % TILE, 1)
    further = tl.sum(tl.where(row >= column, turned, 0.0), 0)
    nearer = tl.sum(tl.where(row < column, turned, 0.0), 0)
    distance = apart + tl.arange(0, TILE)
    tl.atomic_add(into + distance, further, mask=distance < slots)
    tl.atomic_add(into + distance - TILE, nearer, mask=distance >= TILE)


@triton.jit
def _backward_queries(
    q, k, v, grad, grad_q, grad_position, grad_time, owner, bucket, position_bias, time_bias,
    stride_block, stride_slot, grad_block, grad_slot, into_block, into_slot, slots, heads, scale,
    HEAD: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, HAS_TIME: tl.constexpr,
):  # fmt: skip
    block, head, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = tl.arange(0, WIDE)
    q_slot = tile * TILE + tl.arange(0, TILE)
    base = block.to(tl.int64) * stride_block + head * HEAD
    owner += block * slots
    bucket += block.to(tl.int64) * slots * slots
    q_QF = _tile(q + base, q_slot, slots, stride_slot, column, HEAD)
    grad_QF = _tile(grad + block.to(tl.int64) * grad_block + head * HEAD, q_slot, slots, grad_slot, column, HEAD)
    into = tl.zeros((TILE, WIDE), dtype=tl.float32)
    for other in range(0, tile + 1):
        k_slot = other * TILE + tl.arange(0, TILE)
        k_KF = _tile(k + base, k_slot, slots, stride_slot, column, HEAD)
        v_KF = _tile(v + base, k_slot, slots, stride_slot, column, HEAD)
        score, weight, row = _scores(
            q_QF, k_KF, q_slot, k_slot, owner, bucket, position_bias, time_bias, slots, scale, HAS_TIME
        )
        slope = _slope(score, weight, tl.dot(grad_QF, tl.trans(v_KF), input_precision="ieee"))
        into += tl.dot(slope.to(k_KF.dtype), k_KF, input_precision="ieee")
        _add_by_distance(grad_position, slope, (tile - other) * TILE, slots, TILE)
        if HAS_TIME:
            tl.atomic_add(grad_time + row, slope, mask=weight > 0)
    place = grad_q + block.to(tl.int64) * into_block + head * HEAD + q_slot[:, None] * into_slot + column[None, :]
    tl.store(place, into.to(grad_q.dtype.element_ty), mask=(q_slot < slots)[:, None] & (column < HEAD)[None, :])


@triton.jit
def _backward_keys(
    q, k, v, grad, grad_k, grad_v, owner, bucket, position_bias, time_bias,
    stride_block, stride_slot, grad_block, grad_slot, into_block, into_slot, slots, heads, scale,
    HEAD: tl.constexpr, WIDE: tl.constexpr, TILE: tl.constexpr, HAS_TIME: tl.constexpr,
):  # fmt: skip
    block, head, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    column = tl.arange(0, WIDE)
    k_slot = tile * TILE + tl.arange(0, TILE)
    base = block.to(tl.int64) * stride_block + head * HEAD
    owner += block * slots
    bucket += block.to(tl.int64) * slots * slots
    k_KF = _tile(k + base, k_slot, slots, stride_slot, column, HEAD)
    v_KF = _tile(v + base, k_slot, slots, stride_slot, column, HEAD)
    into_k = tl.zeros((TILE, WIDE), dtype=tl.float32)
    into_v = tl.zeros((TILE, WIDE), dtype=tl.float32)
    for other in range(tile, tl.cdiv(slots, TILE)):
        q_slot = other * TILE + tl.arange(0, TILE)
        q_QF = _tile(q + base, q_slot, slots, stride_slot, column, HEAD)
        grad_QF = _tile(grad + block.to(tl.int64) * grad_block + head * HEAD, q_slot, slots, grad_slot, column, HEAD)
        score, weight, _ = _scores(
            q_QF, k_KF, q_slot, k_slot, owner, bucket, position_bias, time_bias, slots, scale, HAS_TIME
        )
        silu = (score * tl.sigmoid(score) * weight).to(grad_QF.dtype)
        into_v += tl.dot(tl.trans(silu), grad_QF, input_precision="ieee")
        slope = _slope(score, weight, tl.dot(grad_QF, tl.trans(v_KF), input_precision="ieee")).to(q_QF.dtype)
        into_k += tl.dot(tl.trans(slope), q_QF, input_precision="ieee")
    mask = (k_slot < slots)[:, None] & (column < HEAD)[None, :]
    place = block.to(tl.int64) * into_block + head * HEAD + k_slot[:, None] * into_slot + column[None, :]
    tl.store(grad_k + place, into_k.to(grad_k.dtype.element_ty), mask=mask)
    tl.store(grad_v + place, into_v.to(grad_v.dtype.element_ty), mask=mask)


def attend(
    q: Tensor, k: Tensor, v: Tensor, pairs: Pairs, position_bias_N: Tensor, time_bias_P: Tensor | None
) -> Tensor:
    """What each slot attends to, `[C, N, H, F]`; q, k and v are views of one projection, of that shape."""
    blocks, slots, heads, _ = q.shape
    out = q.new_empty(q.shape)
    tables, sizes, constants = _common(q, pairs, position_bias_N, time_bias_P)
    grid = (blocks, heads, triton.cdiv(slots, TILE))
    _forward[grid](q, k, v, out, *tables, *q.stride()[:2], *out.stride()[:2], *sizes, **constants)
    return out


def attend_backward(
    grad: Tensor,
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
    """Fill the gradients of q, k and v, views of one tensor; return those of the biases."""
    blocks, slots, heads, _ = q.shape
    grad = grad.contiguous()
    grad_position = torch.zeros_like(position_bias_N, dtype=torch.float32)
    grad_time = None if time_bias_P is None else torch.zeros_like(time_bias_P, dtype=torch.float32)
    tables, sizes, constants = _common(q, pairs, position_bias_N, time_bias_P)
    strides = (*q.stride()[:2], *grad.stride()[:2], *grad_q.stride()[:2])
    grid = (blocks, heads, triton.cdiv(slots, TILE))
    biases = (grad_position, grad_position if grad_time is None else grad_time)
    _backward_queries[grid](q, k, v, grad, grad_q, *biases, *tables, *strides, *sizes, **constants)
    _backward_keys[grid](q, k, v, grad, grad_k, grad_v, *tables, *strides, *sizes, **constants)
    cast = None if grad_time is None or time_bias_P is None else grad_time.to(time_bias_P.dtype)
    return grad_position.to(position_bias_N.dtype), cast


def _common(
    q: Tensor, pairs: Pairs, position_bias_N: Tensor, time_bias_P: Tensor | None
) -> tuple[tuple[Tensor, ...], tuple[int | float, ...], dict[str, int | bool]]:
    """Tables, sizes and constants that all kernels take."""
    _, slots, heads, width = q.shape
    bucket, time_bias = pairs.bucket_CNN, time_bias_P
    if bucket is None or time_bias is None:
        bucket, time_bias = pairs.owner_CN, position_bias_N  # never read
    tables = (pairs.owner_CN.contiguous(), bucket.contiguous(), position_bias_N, time_bias)
    wide = max(16, triton.next_power_of_2(width))
    constants = {"HEAD": width, "WIDE": wide, "TILE": TILE, "HAS_TIME": time_bias_P is not None}
    return tables, (slots, heads, 1.0 / pairs.window), constants
