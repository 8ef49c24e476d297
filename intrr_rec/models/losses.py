"""Negative log-likelihoods of Semantic IDs: what L_rec (IntRR Eq. 10) and L_aln (Eq. 8) are made of.

Shape suffixes: B rows, L levels, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def level_nll(logits: Sequence[Tensor], codes_BL: Tensor) -> Tensor:
    """-log P(c_l | c_<l, x) of each row and level, `[B, L]`; its row sums are -log P(c | x) (IntRR Eq. 1).

    Args:
        logits: L tensors `[B, K_l]`, normalised or not.
        codes_BL: the Semantic ID of each row.
    """
    return torch.stack(
        [F.cross_entropy(level.float(), codes_BL[:, i], reduction="none") for i, level in enumerate(logits)], dim=1
    )


def sid_nll(log_p: Sequence[Tensor], codes_BL: Tensor) -> Tensor:
    """`level_nll` of log-probabilities that are normalised already, which spares a softmax and what it keeps, `[B, L]`."""
    return -torch.cat([level_BK.gather(1, codes_BL[:, i, None]) for i, level_BK in enumerate(log_p)], dim=1)
