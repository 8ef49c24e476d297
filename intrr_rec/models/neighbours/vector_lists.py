"""Item vectors in lists by their nearest centroid, so that an item of a large catalogue is compared with some lists alone.

The lists of an inverted file (IVF: Sivic and Zisserman 2003): √I of them, by k-means on a sample. The items of a list share
the lists they are compared with, those of the centroids closest to its own.

Shape suffixes: I items, V width, C lists, S sample, R rows of a block, J items a block is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

PROBES = 16  # lists that an item is compared with
SAMPLE = 64  # vectors a list that centroids are fitted on
ROUNDS = 10
CHUNK = 8192


@dataclass(frozen=True)
class VectorLists:
    """The lists of a catalogue.

    Attributes:
        item_I: items, list by list, rising within each.
        start_C1: where each list starts in them.
        centroid_CV: of length 1.
    """

    item_I: Tensor
    start_C1: Tensor
    centroid_CV: Tensor

    @classmethod
    def of(cls, unit_IV: Tensor) -> VectorLists:
        """Lists of vectors of length 1, the same whenever they are made from the same vectors."""
        n_items, lists = len(unit_IV), math.isqrt(len(unit_IV))
        generator = torch.Generator().manual_seed(0)
        chosen_S = torch.randperm(n_items, generator=generator)[: SAMPLE * lists].to(unit_IV.device)
        sample_SV = unit_IV[chosen_S]
        centroid_CV = sample_SV[:lists].clone()
        for _ in range(ROUNDS):
            list_S = _closest(sample_SV, centroid_CV)
            total_CV = torch.zeros_like(centroid_CV).index_add_(0, list_S, sample_SV)
            is_used_C1 = torch.bincount(list_S, minlength=lists)[:, None] > 0
            centroid_CV = torch.where(is_used_C1, torch.nn.functional.normalize(total_CV, dim=-1), centroid_CV)
        list_I, item_I = _closest(unit_IV, centroid_CV).sort(stable=True)
        edges_C1 = torch.arange(lists + 1, device=list_I.device)
        return cls(item_I, torch.searchsorted(list_I, edges_C1), centroid_CV)

    def blocks(self, first: int, end: int, elements: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows and the items that they are compared with, `own_R` and `other_J`; every item of `first … end - 1` comes once.

        Args:
            first, end: which items.
            elements: about the most of R · J.
        """
        bounds = self.start_C1.tolist()
        probes = min(PROBES, len(self.centroid_CV))
        for number, centroid_V in enumerate(self.centroid_CV):
            own_R = self.item_I[bounds[number] : bounds[number + 1]]
            own_R = own_R[(own_R >= first) & (own_R < end)]
            if not len(own_R):
                continue
            near = (self.centroid_CV @ centroid_V).topk(probes).indices.tolist()
            other_J = torch.cat([self.item_I[bounds[each] : bounds[each + 1]] for each in near]).sort().values
            for part_R in own_R.split(max(1, elements // len(other_J))):
                yield part_R, other_J


def _closest(vectors_SV: Tensor, centroid_CV: Tensor) -> Tensor:
    return torch.cat([(part_SV @ centroid_CV.T).argmax(1) for part_SV in vectors_SV.split(CHUNK)])
