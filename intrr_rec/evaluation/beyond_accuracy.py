"""What a ranking does to the catalogue, whatever it hits: coverage, novelty and concentration of the ten best items.

All three follow from integer counts, so they are the same however users are spread over ranks.

Shape suffixes: B users, W places, I items.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intrr_rec.semantic_ids.quality.metrics import gini

CUTOFF = 10


def exposure(items_BW: Tensor, n_items: int) -> Tensor:
    """How often each item is among the first `CUTOFF` places, int64 `[I]`; empty places (-1) count nothing."""
    shown = items_BW[:, :CUTOFF]
    return torch.bincount(shown[shown >= 0], minlength=n_items)


def beyond_accuracy(exposure_I: Tensor, popularity_I: Tensor) -> dict[str, float]:
    """Figures of the ten best items of all users.

    Args:
        exposure_I: how often each item was recommended, over all ranks.
        popularity_I: its events in the training part.

    Returns:
        `coverage@10`: share of the catalogue that is recommended to anyone.
        `novelty@10`: mean self-information -log2 p(i) of the recommended items, in bits, with
        p(i) = (popularity + 1) / (events + I): add-one smoothing, so that a cold item's is finite
        (Castells, Hurley & Vargas 2015, Novelty and Diversity in Recommender Systems).
        `gini@10`: Gini coefficient of exposure over the whole catalogue; 0 is an equal share for every item.
    """
    p_I = (popularity_I.double() + 1) / (popularity_I.sum() + len(popularity_I))
    return {
        f"coverage@{CUTOFF}": float((exposure_I > 0).double().mean()),
        f"novelty@{CUTOFF}": float((exposure_I * -p_I.log2()).sum() / exposure_I.sum()),
        f"gini@{CUTOFF}": gini(exposure_I),
    }
