"""HSTU's attention for long windows: work in proportion to the pairs that exist, and no tensor of all scores.

The batched products of `hstu_attention.py` compute every pair of slots of a block, which is cheap while a block is short. A
long block holds histories of many lengths, and half of its pairs lie in the future. Here a tile is some queries, and its keys
reach from the start of the earliest history among them to the last query: a long history is cut into tiles, short neighbours
share one. The backward pass computes the scores of a tile again instead of keeping them.

Shape suffixes: C blocks, N slots of a block, T = C·N slots, H heads, F width of a head, P rows of the bias by time, Q queries
and K keys of one tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.data.loading.batch import Layout

SHORTEST, LONGEST = 32, 128  # queries of a tile
TILES_PER_HISTORY = 4  # of a history of medium length: a quarter more pairs than exist


@dataclass(frozen=True)
class Tile:
    """Queries `first … end - 1` and keys `key … end - 1`, as slots counted over all blocks.

    Attributes:
        visible_QK: where a query may look; None where the only limit is that of time.
        bucket_QK: uint8, the row of the bias by time of each pair; None without such a bias.
    """

    key: int
    first: int
    end: int
    visible_QK: Tensor
    bucket_QK: Tensor | None

    def by_distance(self, bias_N: Tensor) -> Tensor:
        """The bias of each pair by the slots between query and key, `[Q, K]`; 0 for a key of the future.

        Rows of neighbours differ by one place, so they are windows of one vector: much cheaper than a look-up for each pair.
        """
        queries, keys = self.visible_QK.shape
        falling_K = F.pad(bias_N[:keys].flip(0), (0, queries - 1))  # of the last query, its own slot at place K - 1
        return falling_K.unfold(0, keys, 1).flip(0)

    def sum_by_distance(self, pairs_QK: Tensor) -> Tensor:
        """Sums over the pairs of each distance, `[K]`; pairs with a key of the future are left out."""
        queries, keys = pairs_QK.shape
        slanted = F.pad(pairs_QK.flip(0), (0, queries)).flatten()[:-queries].view(queries, keys + queries - 1)
        return slanted.sum(0)[:keys].flip(0)


def make_tiles(layout: Layout, time_edges: Tensor | None) -> list[Tile]:
    """The tiles of a layout; `time_edges` as in `hstu.time_bucket`."""
    owner_T = layout.owner_CN.flatten()
    tiles = []
    for key, first, end in spans(owner_T, layout.owner_CN.shape[1]):
        query_Q, key_K = owner_T[first:end], owner_T[key:end]
        visible_QK = (query_Q[:, None] == key_K).tril(first - key)
        bucket_QK = None
        if time_edges is not None:
            assert layout.event_time_CN is not None and layout.request_time_CN is not None, (
                "the layout carries no times"
            )
            asked_Q, event_K = layout.request_time_CN.flatten()[first:end], layout.event_time_CN.flatten()[key:end]
            seconds_QK = (asked_Q[:, None] - event_K).abs()
            bucket_QK = torch.bucketize(seconds_QK, time_edges, out_int32=True, right=True).to(torch.uint8)
        tiles.append(Tile(key, first, end, visible_QK, bucket_QK))
    return tiles


def spans(owner_T: Tensor, slots: int) -> list[tuple[int, int, int]]:
    """`key, first, end` of each tile: histories are runs of one owner, none across two blocks."""
    changes_T = owner_T[1:] != owner_T[:-1]
    changes_T[slots - 1 :: slots] = True
    starts = [0, *(changes_T.nonzero().flatten() + 1).tolist(), len(owner_T)]
    is_history = (owner_T[torch.tensor(starts[:-1])] >= 0).tolist()
    spans: list[tuple[int, int, int]] = []
    shared: tuple[int, int] | None = None  # short histories side by side
    for start, end, real in zip(starts[:-1], starts[1:], is_history, strict=True):
        if real and shared is not None and shared[1] == start and end - shared[0] <= SHORTEST:
            shared = (shared[0], end)
            continue
        if shared is not None:
            spans.append((shared[0], *shared))
            shared = None
        if not real:
            continue
        if end - start <= SHORTEST:
            shared = (start, end)
            continue
        step = min(max(-(-(end - start) // TILES_PER_HISTORY), SHORTEST), LONGEST)
        spans += [(start, first, min(first + step, end)) for first in range(start, end, step)]
    if shared is not None:
        spans.append((shared[0], *shared))
    return spans


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiles: list[Tile],
    window: int,
    position_bias_N: Tensor,
    time_bias_P: Tensor | None,
) -> Tensor:
    """What each slot attends to, `[C, N, H, F]`, the shape of q, k and v; zero at padding."""
    q_HTF, k_HTF, v_HTF = _by_head(q), _by_head(k), _by_head(v)
    attended_HTF = torch.zeros_like(q_HTF)
    for tile in tiles:
        queries, keys = slice(tile.first, tile.end), slice(tile.key, tile.end)
        scores_HQK = _scores(tile, q_HTF[:, queries], k_HTF[:, keys], position_bias_N, time_bias_P)
        weight_HQK = F.silu(scores_HQK, inplace=True).mul_(_weight_QK(tile, window, q.dtype))
        torch.bmm(weight_HQK, v_HTF[:, keys], out=attended_HTF[:, queries])
    return attended_HTF.transpose(0, 1).reshape(q.shape)


def attend_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    tiles: list[Tile],
    window: int,
    position_bias_N: Tensor,
    time_bias_P: Tensor | None,
    grad_q: Tensor,
    grad_k: Tensor,
    grad_v: Tensor,
) -> tuple[Tensor, Tensor | None]:
    """Fill the gradients of q, k and v; return those of the biases."""
    q_HTF, k_HTF, v_HTF, grad_HTF = _by_head(q), _by_head(k), _by_head(v), _by_head(grad)
    into_q, into_k, into_v = torch.zeros_like(q_HTF), torch.zeros_like(k_HTF), torch.zeros_like(v_HTF)
    grad_position_N = torch.zeros_like(position_bias_N)
    grad_time_P = None if time_bias_P is None else torch.zeros_like(time_bias_P)
    for tile in tiles:
        queries, keys = slice(tile.first, tile.end), slice(tile.key, tile.end)
        scores_HQK = _scores(tile, q_HTF[:, queries], k_HTF[:, keys], position_bias_N, time_bias_P)
        weight_QK = _weight_QK(tile, window, q.dtype)
        into_v[:, keys] += torch.bmm((F.silu(scores_HQK) * weight_QK).transpose(1, 2), grad_HTF[:, queries])
        slope_HQK = torch.bmm(grad_HTF[:, queries], v_HTF[:, keys].transpose(1, 2)).mul_(weight_QK)
        torch.ops.aten.silu_backward.grad_input(slope_HQK, scores_HQK, grad_input=slope_HQK)
        into_q[:, queries] += torch.bmm(slope_HQK, k_HTF[:, keys])
        into_k[:, keys] += torch.bmm(slope_HQK.transpose(1, 2), q_HTF[:, queries])
        per_pair = slope_HQK.sum(0, dtype=position_bias_N.dtype)
        grad_position_N[: tile.end - tile.key] += tile.sum_by_distance(per_pair)
        if grad_time_P is not None:
            assert tile.bucket_QK is not None
            grad_time_P.index_add_(0, tile.bucket_QK.flatten().int(), per_pair.flatten().to(grad_time_P.dtype))
    for into, found_HTF in ((grad_q, into_q), (grad_k, into_k), (grad_v, into_v)):
        into.copy_(found_HTF.transpose(0, 1).view(into.shape))
    return grad_position_N, grad_time_P


def _scores(tile: Tile, q_HQF: Tensor, k_HKF: Tensor, position_bias_N: Tensor, time_bias_P: Tensor | None) -> Tensor:
    bias_QK = tile.by_distance(position_bias_N)
    if time_bias_P is not None:
        assert tile.bucket_QK is not None
        bias_QK = bias_QK + time_bias_P[tile.bucket_QK.int()]
    return torch.bmm(q_HQF, k_HKF.transpose(1, 2)).add_(bias_QK)


def _weight_QK(tile: Tile, window: int, dtype: torch.dtype) -> Tensor:
    return tile.visible_QK.to(dtype) / window


def _by_head(x: Tensor) -> Tensor:
    """`[C, N, H, F]` → `[H, T, F]`, a copy."""
    return x.flatten(0, 1).transpose(0, 1).contiguous()
