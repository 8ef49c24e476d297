"""Recall@K and NDCG@K of leave-one-out ranking: one held-out item a user, so NDCG@K is 1/log2(rank + 1) within K.

Shape suffixes: B users, W places of the ranked list, M metrics.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

RECALL_AT = (1, 5, 10, 20)
NDCG_AT = (5, 10, 20)
NAMES = tuple(f"recall@{k}" for k in RECALL_AT) + tuple(f"ndcg@{k}" for k in NDCG_AT)


def target_rank(items_BW: Tensor, target_B: Tensor) -> Tensor:
    """Place of the target in each user's list, counted from 1; 0 where the list does not hold it; int64 `[B]`."""
    hit_BW = items_BW == target_B[:, None]
    return torch.where(hit_BW.any(1), hit_BW.int().argmax(1) + 1, 0)


def metrics_by_user(rank_B: Tensor) -> Tensor:
    """Every metric of every user, `[B, M]` in the order of `NAMES`, float64; a rank of 0 (missed) counts nothing."""
    rank_B1 = rank_B[:, None].double()

    def within(cutoffs: Sequence[int]) -> Tensor:
        return ((rank_B1 >= 1) & (rank_B1 <= rank_B1.new_tensor(cutoffs))).double()

    return torch.cat([within(RECALL_AT), within(NDCG_AT) / torch.log2(rank_B1 + 1).clamp(min=1)], dim=1)


def as_means(sums: Sequence[float] | Tensor, users: int) -> dict[str, float]:
    """Sums over users → metrics by name."""
    return {name: float(value) / users if users else math.nan for name, value in zip(NAMES, sums, strict=True)}
