"""Which items users consume together, as vectors for Semantic IDs to hear of (LETTER, Wang et al. 2024; EAGER, 2024).

Vectors come from the training part of the sequences alone: the positive pointwise mutual information of items within
`WINDOW` events of one another, factorised by a truncated singular value decomposition (Levy & Goldberg 2014).

Shape legend: E events, P pairs, I items, B items of a batch, C width of the vectors, Z width of the latent, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from intrr_rec.data.dataset import Dataset
from intrr_rec.errors import DataError

WINDOW = 10  # events; keeps the number of pairs linear in the number of events


def training_pairs(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Items `[P]` and `[P]` that stand within `WINDOW` events of one another in the training part of one user.

    Each pair is named once, in order of time; nothing that is held out is in any, nor an event that is no target.
    """
    counts_U = np.diff(dataset.offsets) - dataset.held_out("train")
    user_E = np.repeat(np.arange(dataset.n_users), np.diff(dataset.offsets))
    is_training_E = np.arange(len(user_E)) < np.repeat(dataset.offsets[:-1] + counts_U, np.diff(dataset.offsets))
    if dataset.is_target_E is not None:
        is_training_E &= dataset.is_target_E > 0
    items, users = dataset.items_E[is_training_E], user_E[is_training_E]
    before, after = [], []
    for apart in range(1, WINDOW + 1):
        same = users[:-apart] == users[apart:]
        before.append(items[:-apart][same])
        after.append(items[apart:][same])
    return np.concatenate(before), np.concatenate(after)


def collaborative_vectors(dataset: Dataset, width: int, seed: int) -> Tensor:
    """float32 `[I, C]`, rows of length 1; zeros for items that stand beside no other in the training part.

    Raises:
        DataError: no user has two items in the training part.
    """
    before, after = training_pairs(dataset)
    apart = before != after
    before, after = before[apart], after[apart]
    if not len(before):
        raise DataError(f"{dataset.path}: no training part holds two items, so nothing is consumed together")
    n_items = dataset.n_items
    keys, counts = np.unique(np.concatenate([before * n_items + after, after * n_items + before]), return_counts=True)
    row, column = np.divmod(keys, n_items)
    totals_I = np.bincount(row, counts, n_items)
    information = np.log(counts * totals_I.sum() / (totals_I[row] * totals_I[column]))
    kept = information > 0
    matrix_II = torch.sparse_coo_tensor(
        torch.from_numpy(np.stack([row[kept], column[kept]])),
        torch.from_numpy(information[kept]).float(),
        (n_items, n_items),
        check_invariants=False,
    ).coalesce()
    rank = min(width, n_items)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left_IC, singular_C, _ = torch.svd_lowrank(matrix_II, q=rank, niter=4)
    vectors_IC = normalize(left_IC * singular_C.sqrt(), dim=1)
    known_I = torch.zeros(n_items, dtype=torch.bool)
    known_I[torch.from_numpy(row[kept])] = True
    vectors_IC[~known_I] = 0
    return torch.cat([vectors_IC, vectors_IC.new_zeros(n_items, width - rank)], 1)


class Alignment(nn.Module):
    """Contrast within a batch: an item's quantised latent, through a linear map, against all collaborative vectors."""

    def __init__(self, latent: int, width: int, temperature: float) -> None:
        super().__init__()
        self.map = nn.Linear(latent, width)
        self.temperature = temperature

    def forward(self, latent_BZ: Tensor, known_BC: Tensor) -> Tensor:
        """Mean of -ln softmax_j(cos(ẑ_i, h_j) / τ) at j = i, over items with a collaborative vector."""
        is_known_B = known_BC.any(1)
        if not is_known_B.any():
            return latent_BZ.new_zeros(())
        mapped_BC = normalize(self.map(latent_BZ[is_known_B]), dim=1)
        logits_BB = mapped_BC @ known_BC[is_known_B].T / self.temperature
        return cross_entropy(logits_BB, torch.arange(len(logits_BB), device=logits_BB.device))


def diversity_loss(inputs: Sequence[Tensor], tables: Sequence[Tensor]) -> Tensor:
    """1 - H / ln K, mean over levels; H: entropy of the batch's mean soft assignment to the level's codes.

    The assignment is softmax(-distance / mean distance to the nearest code), so it does not depend on the scale.
    """
    losses = []
    for input_BZ, table_KZ in zip(inputs, tables, strict=True):
        distance_BK = torch.cdist(input_BZ, table_KZ).square()
        nearest_B1 = distance_BK.detach().amin(1, keepdim=True)
        share_K = torch.softmax(-distance_BK / nearest_B1.mean().clamp(min=1e-6), 1).mean(0)
        losses.append(1 - torch.special.entr(share_K).sum() / math.log(len(table_KZ)))
    return torch.stack(losses).mean()
