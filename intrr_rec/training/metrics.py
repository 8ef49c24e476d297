"""Recall@K and NDCG@K of leave-one-out ranking: one held-out item a user, so NDCG@K is 1/log2(rank + 1) within K.

Shape suffixes: B users, W places of the ranked list.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

RECALL_AT = (1, 5, 10, 20)
NDCG_AT = (5, 10, 20)
NAMES = tuple(f"recall@{k}" for k in RECALL_AT) + tuple(f"ndcg@{k}" for k in NDCG_AT)


def metric_sums(items_BW: Tensor, target_B: Tensor) -> Tensor:
    """Sums over users, in the order of `NAMES`, float64; a target not in the list counts nothing."""
    hit_BW = items_BW == target_B[:, None]
    discount_W = 1.0 / torch.log2(torch.arange(items_BW.shape[1], device=items_BW.device, dtype=torch.float64) + 2)
    recall = [hit_BW[:, :k].sum().double() for k in RECALL_AT]
    ndcg = [(hit_BW[:, :k] * discount_W[:k]).sum() for k in NDCG_AT]
    return torch.stack(recall + ndcg)


def as_means(sums: Sequence[float] | Tensor, users: int) -> dict[str, float]:
    """Sums over users → metrics by name."""
    return {name: float(value) / users if users else math.nan for name, value in zip(NAMES, sums, strict=True)}
