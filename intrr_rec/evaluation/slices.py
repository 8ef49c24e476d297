"""Metrics of groups of users: by popularity of the item they are to get, by length of their history.

A popularity of 0 is a cold target: an item with no event in any user's training part.

Shape suffixes: B users, G bands, M metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intrr_rec.evaluation.metrics import NAMES, as_means, metrics_by_user

POPULARITY_FROM = (0, 1, 5, 10, 20, 50)
HISTORY_FROM = (1, 5, 10, 20, 50)
SLICED_BY = {"popularity": "training events of the target", "history": "events before the target"}


def slice_sums(value_B: NDArray[np.int64], rank_B: Tensor, bands: Sequence[int]) -> Tensor:
    """Number of users, then the sum of every metric over them, for each band: `[G, 1 + M]`, float64; sums over ranks add.

    Args:
        value_B: what users are sliced by.
        rank_B: place of the target, from 1; 0 where it was missed.
        bands: the lowest value of each band, rising; the last band is open.
    """
    band_B = torch.from_numpy(np.searchsorted(bands, value_B, side="right") - 1)
    figures_BM = metrics_by_user(rank_B)
    counted = torch.cat([figures_BM.new_ones(len(rank_B), 1), figures_BM], dim=1)
    return counted.new_zeros(len(bands), 1 + len(NAMES)).index_add_(0, band_B, counted)


def as_slices(sums: Tensor, bands: Sequence[int]) -> list[dict[str, Any]]:
    """Sums → one record a band: `from`, `to` (both included, None: open), `users`, `share` of all users, `metrics`.

    `metrics` is None for a band without users.
    """
    total = int(sums[:, 0].sum())
    records = []
    for lowest, after, (count, *figures) in zip(bands, [*bands[1:], None], sums.tolist(), strict=True):
        users = int(count)
        records.append(
            {
                "from": lowest,
                "to": None if after is None else after - 1,
                "users": users,
                "share": users / total,
                "metrics": as_means(figures, users) if users else None,
            }
        )
    return records


def band_name(lowest: int, highest: int | None) -> str:
    """How a person writes a band: 0, 1–4, 50+."""
    if highest is None:
        return f"{lowest}+"
    return f"{lowest}" if lowest == highest else f"{lowest}–{highest}"
