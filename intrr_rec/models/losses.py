"""Negative log-likelihoods: of Semantic ID paths (L_rec, IntRR Eq. 10; L_aln, Eq. 8) and of items among candidates.

Shape suffixes: B rows, L levels, K codes, S scored slots, M negatives.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.data.candidates import Candidates


def sampled_softmax_nll(positive_S: Tensor, negative_SM: Tensor, candidates: Candidates) -> Tensor:
    """-log P(target) of each scored slot among its target and the negatives, `[S]`.

    Args:
        positive_S: score of each slot's target.
        negative_SM: score of every negative at every slot.
        candidates: says which negatives are a slot's target; they do not count.
    """
    is_target_SM = candidates.negative_M == candidates.target_S[:, None]
    everything_S = torch.cat([positive_S[:, None], negative_SM.masked_fill(is_target_SM, -torch.inf)], dim=1)
    return everything_S.logsumexp(dim=1) - positive_S


def level_nll(logits: Sequence[Tensor], codes_BL: Tensor) -> Tensor:
    """-log P(c_l | c_<l, x) of each row and level, `[B, L]`; its row sums are -log P(c | x) (IntRR Eq. 1).

    Args:
        logits: L tensors `[B, K_l]`, normalised or not.
        codes_BL: the path of each row.
    """
    return torch.stack(
        [F.cross_entropy(level, codes_BL[:, i], reduction="none") for i, level in enumerate(logits)], dim=1
    )
