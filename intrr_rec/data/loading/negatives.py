"""What a target competes with in a sampled softmax: uniformly drawn negatives, shared by the targets of a step.

Shape suffixes: M drawn negatives, S scored slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from intrr_rec.data.loading.windows import IntArray


@dataclass
class Candidates:
    """Places in a batch's `items_U`: of each scored slot's target, and of the negatives; and how many histories there are."""

    target_S: Tensor
    negative_M: Tensor
    histories: int

    def to(self, device: torch.device) -> Candidates:
        """The same on a device."""
        target_S, negative_M = (each.to(device, non_blocking=True) for each in (self.target_S, self.negative_M))
        return Candidates(target_S, negative_M, self.histories)


class CandidateSampler:
    """Draws the negatives of a step.

    Args:
        n_items: of the catalogue.
        negatives: M, drawn with replacement.
        seed: of the draws.
    """

    def __init__(self, n_items: int, negatives: int, seed: int) -> None:
        self.n_items = n_items
        self.negatives = negatives
        self.seed = seed

    def draw(self, step: int) -> IntArray:
        """Dense item ids `[M]`: the same on every rank, so that figures do not depend on their number; other ones another step."""
        return np.random.default_rng([self.seed, step, 0]).integers(0, self.n_items, self.negatives)
