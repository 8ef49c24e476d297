"""What a history says of an item it holds: that it is there, how often, and how long ago.

One number for all repeats cannot say "again, soon" or "never again". These features can: with fitted weights
(`evaluation/fit_ranking.py`) they are a small function of count and age, and it is the data that says which.

Shape suffixes: B users, N slots of a block, W candidates, R = 8 features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from intrr_rec.data.loading.batch import Batch

AGES = (1, 2, 3, 5, 10, 20)  # events since, at which the next class of ages begins
REPEATS = ("repeat_count", *(f"repeat_after_{age}" for age in (0, *AGES)))


@dataclass(frozen=True)
class SeenItems:
    """The items of each history that the model reads, sorted.

    Attributes:
        item_BN: dense ids, rising; equal ones in the order of their events. Slots of other histories have the id `BEYOND`.
        age_BN: events since, 0 for the newest.
    """

    item_BN: Tensor
    age_BN: Tensor

    BEYOND = torch.iinfo(torch.int64).max

    @classmethod
    def of(cls, batch: Batch) -> SeenItems:
        """Those before each scored slot."""
        item_BN, is_seen_BN = batch.seen_items()
        item_BN, order_BN = item_BN.masked_fill(~is_seen_BN, cls.BEYOND).sort(dim=1, stable=True)
        slots = item_BN.shape[1]
        return cls(item_BN, batch.scored_S[:, None] % slots - order_BN)

    def at(self, item_BW: Tensor) -> Tensor:
        """Features of given items, `[B, W, R]`, all 0 for an item that the history does not hold.

        Log of how often it holds the item, and in which class of ages the newest time lies, one column a class.
        """
        item_BW = item_BW.contiguous()
        first_BW = torch.searchsorted(self.item_BN, item_BW)
        end_BW = torch.searchsorted(self.item_BN, item_BW, right=True)
        count_BW = end_BW - first_BW
        age_BW = self.age_BN.gather(1, (end_BW - 1).clamp(min=0))
        class_BW = torch.bucketize(age_BW, torch.tensor(AGES, device=age_BW.device), right=True)
        is_in_BWA = class_BW[..., None] == torch.arange(len(AGES) + 1, device=age_BW.device)
        is_in_BWA &= (count_BW > 0)[..., None]
        return torch.cat([count_BW.clamp(min=1).float().log()[..., None], is_in_BWA.float()], dim=-1)

    def newest(self, places: int, allowed: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The distinct items of each history, the newest first: `[B, W]` dense ids, -1 where there are no more.

        Args:
            places: W, at most.
            allowed: which of these items `[B, N]` the users may get; None is everything.
        """
        is_last_BN = self.item_BN != self.BEYOND
        is_last_BN[:, :-1] &= self.item_BN[:, 1:] != self.item_BN[:, :-1]
        if allowed is not None:
            is_last_BN &= allowed(self.item_BN.masked_fill(self.item_BN == self.BEYOND, 0))
        age_BN = self.age_BN.masked_fill(~is_last_BN, self.BEYOND)
        age_BW, place_BW = age_BN.topk(min(places, age_BN.shape[1]), dim=1, largest=False)
        return self.item_BN.gather(1, place_BW).masked_fill(age_BW == self.BEYOND, -1)
