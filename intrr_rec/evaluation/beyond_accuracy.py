"""What a ranking does to the catalogue, whatever it hits: coverage, novelty and concentration of the ten best items.

All three follow from integer counts, so they are the same however users are spread over ranks.

Shape suffixes: B users, W places, I items, X items that are recommended to anyone.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intrr_rec.io.formats.mapped import roomy
from intrr_rec.semantic_ids.quality.metrics import gini

CUTOFF = 10
CHUNK = 1 << 18  # items whose counts are summed over the ranks together


def exposure(
    items_BW: Tensor, n_items: int, add: Callable[[Tensor], Tensor] = lambda count_R: count_R
) -> tuple[Tensor, Tensor]:
    """Which items are among the first `CUTOFF` places, and how often, `item_X` and `count_X`, int64; empty places (-1) count nothing.

    Args:
        items_BW: of this rank's users.
        n_items: I.
        add: sums a tensor over the ranks; it is called equally often on each.
    """
    shown = items_BW[:, :CUTOFF]
    own_X = shown[shown >= 0].sort().values
    # Made beforehand: small arrays that stay, between large ones that go, would leave holes that nothing fits.
    most = min(n_items, int(add(torch.tensor([len(own_X)]))))
    item_X, count_X = torch.from_numpy(roomy(np.int64, (2, most)))
    found = 0
    for first in range(0, n_items, CHUNK):
        end = min(first + CHUNK, n_items)
        low, high = torch.searchsorted(own_X, torch.tensor([first, end])).tolist()
        count_R = add(torch.bincount(own_X[low:high] - first, minlength=end - first))
        place_X = count_R.nonzero().squeeze(1)
        item_X[found : found + len(place_X)] = place_X + first
        count_X[found : found + len(place_X)] = count_R[place_X]
        found += len(place_X)
    return item_X[:found], count_X[:found]


def beyond_accuracy(item_X: Tensor, count_X: Tensor, popularity_I: NDArray[np.int64]) -> dict[str, float]:
    """Figures of the ten best items of all users.

    Args:
        item_X, count_X: `exposure`, over all ranks.
        popularity_I: events of each item in the training part.

    Returns:
        `coverage@10`: share of the catalogue that is recommended to anyone.
        `novelty@10`: mean self-information -log2 p(i) of the recommended items, in bits, with
        p(i) = (popularity + 1) / (events + I): add-one smoothing, so that a cold item's is finite
        (Castells, Hurley & Vargas 2015, Novelty and Diversity in Recommender Systems).
        `gini@10`: Gini coefficient of exposure over the whole catalogue; 0 is an equal share for every item.
    """
    n_items = len(popularity_I)
    p_X = (torch.from_numpy(popularity_I[item_X.numpy()]).double() + 1) / (int(popularity_I.sum()) + n_items)
    return {
        f"coverage@{CUTOFF}": len(item_X) / n_items,
        f"novelty@{CUTOFF}": float((count_X * -p_X.log2()).sum() / count_X.sum()),
        f"gini@{CUTOFF}": gini(count_X, n_items),
    }
