"""log Σ exp of the scores that queries give to the keys they may look at, piece by piece, with its gradients written out.

No tensor has a place for each query and key: a piece's scores are made, summed and let go, and made again in the backward
pass. What is kept is one number a query.

Shape suffixes: C blocks, N queries and M keys of a block, D width; of one piece, G blocks, Q queries and K keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NOTHING = -1e30  # log of a sum over no keys; finite, so that its gradient is 0 and not NaN


@dataclass(frozen=True)
class Piece:
    """Some queries of some blocks, and the keys that any of them may look at."""

    blocks: slice
    queries: slice
    keys: slice


Visible = Callable[[Piece], Tensor]


def parts(length: int, at_most: int) -> list[slice]:
    """Slices of `at_most` places that cover `length`."""
    return [slice(first, min(first + at_most, length)) for first in range(0, length, at_most)]


def log_sums(query_CND: Tensor, key_CMD: Tensor, pieces: Sequence[Piece], visible: Visible) -> Tensor:
    """log Σ exp(q·k) over the keys of each query, fp32 `[C, N]`; `NOTHING` where it has none.

    Args:
        query_CND: as wide as the keys.
        key_CMD: of the blocks.
        pieces: no query in two of them; one in none has no keys.
        visible: which keys of a piece each of its queries may look at, bool `[G, Q, K]`, the blocks or queries of which may be 1.
    """
    device = query_CND.device.type
    if device != "meta" and torch.is_autocast_enabled(device):  # of a plan's tensors it cannot be asked
        dtype = torch.get_autocast_dtype(device)
        query_CND, key_CMD = query_CND.to(dtype), key_CMD.to(dtype)
    return _LogSums.apply(query_CND, key_CMD, pieces, visible)


class _LogSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query_CND: Tensor, key_CMD: Tensor, pieces: Sequence[Piece], visible: Visible) -> Tensor:
        sums_CN = query_CND.new_full(query_CND.shape[:2], NOTHING, dtype=torch.float32)
        for piece in pieces:
            sums_CN[piece.blocks, piece.queries] = _scores(query_CND, key_CMD, piece, visible).logsumexp(-1)
        ctx.save_for_backward(query_CND, key_CMD, sums_CN)
        ctx.pieces, ctx.visible = pieces, visible
        return sums_CN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_CN: Tensor) -> tuple[Tensor, Tensor, None, None]:
        query_CND, key_CMD, sums_CN = ctx.saved_tensors
        into_query, into_key = (torch.zeros_like(each, dtype=torch.float32) for each in (query_CND, key_CMD))
        for piece in ctx.pieces:
            queries, keys = (piece.blocks, piece.queries), (piece.blocks, piece.keys)
            slope_GQK = _scores(query_CND, key_CMD, piece, ctx.visible).sub_(sums_CN[queries][..., None]).exp_()
            slope_GQK = slope_GQK.mul_(grad_CN[queries][..., None]).to(query_CND.dtype)
            into_query[queries] += torch.matmul(slope_GQK, key_CMD[keys])
            into_key[keys] += torch.matmul(slope_GQK.transpose(1, 2), query_CND[queries])
        return into_query.to(query_CND.dtype), into_key.to(key_CMD.dtype), None, None


def _scores(query_CND: Tensor, key_CMD: Tensor, piece: Piece, visible: Visible) -> Tensor:
    key_GKD = key_CMD[piece.blocks, piece.keys]
    scores_GQK = torch.matmul(query_CND[piece.blocks, piece.queries], key_GKD.transpose(1, 2)).float()
    return scores_GQK.masked_fill_(~visible(piece), NOTHING)
