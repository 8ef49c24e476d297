"""Neighbours of items: what transitions of the training part and item vectors say, without training.

The similarity of item j to item i is content · cos(v_i, v_j) + transitions · P_ij + two_steps · Q_ij (`model.neighbours`).
P is the transition matrix of `data/transitions.py`; Q = P P without its diagonal, each row's maximum 1. A table holds the M
most similar items of each item with the three terms apart. What falls short of the M-th similarity counts as 0: the content
term is written relative to it, so that an item that is in one list of a history and not in the other is compared fairly.

Shape suffixes: I items, M neighbours kept, F = 3 terms, B users, H last items, N = H·M neighbours of a history, W candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.config import NeighboursConfig
from intrr_rec.data.loading.batch import Batch

TERMS = ("content", "transitions", "two_steps")


@dataclass(frozen=True)
class NeighbourTable:
    """The most similar items of each item.

    Attributes:
        config: of the look-up.
        item_IM: dense ids, the most similar first, int32; -1 where there are fewer.
        term_IMF: content, transitions, two_steps of each, float16; 0 where there is none.
        popular_I: dense ids, the most popular first, int32: what stands where a history has no more neighbours.
    """

    config: NeighboursConfig
    item_IM: Tensor
    term_IMF: Tensor
    popular_I: Tensor

    @classmethod
    def empty(cls, config: NeighboursConfig, n_items: int) -> NeighbourTable:
        """A table without neighbours."""
        item_IM = torch.full((n_items, config.kept), -1, dtype=torch.int32)
        term_IMF = torch.zeros(n_items, config.kept, len(TERMS), dtype=torch.float16)
        return cls(config, item_IM, term_IMF, torch.arange(n_items, dtype=torch.int32))

    def weights(self) -> Tensor:
        """Those of the settings, `[F]`."""
        config = self.config
        return torch.tensor([config.content, config.transitions, config.two_steps], device=self.item_IM.device)

    def nearest(self, item: int, places: int) -> tuple[list[float], list[int]]:
        """The most similar items of one item, itself left out, with their similarity, the most similar first."""
        score_M = self.term_IMF[item].float() @ self.weights().float()
        score_M = score_M.masked_fill((self.item_IM[item] < 0) | (self.item_IM[item] == item), -torch.inf)
        best_W, place_W = score_M.topk(min(places, len(score_M)))
        place_W = place_W[best_W > -torch.inf]
        return score_M[place_W].tolist(), self.item_IM[item][place_W].tolist()

    def around(self, batch: Batch) -> Around:
        """The neighbours of the last items before each scored slot."""
        last_BH, is_there_BH = batch.last_items(self.config.last_items)
        n_items = len(self.item_IM)
        weight_H = self.config.decay ** torch.arange(last_BH.shape[1], device=last_BH.device)
        item_BN = self.item_IM[last_BH].long()
        item_BN = item_BN.masked_fill((item_BN < 0) | ~is_there_BH[..., None], n_items).flatten(1)
        term_BNF = (self.term_IMF[last_BH].float() * weight_H[:, None, None]).flatten(1, 2)
        item_BN, order_BN = item_BN.sort(dim=1, stable=True)
        term_BNF = term_BNF.gather(1, order_BN[..., None].expand(-1, -1, len(TERMS)))
        term_BNF = term_BNF.masked_fill((item_BN == n_items)[..., None], 0)
        is_first_BN = torch.ones_like(item_BN, dtype=torch.bool)
        is_first_BN[:, 1:] = item_BN[:, 1:] != item_BN[:, :-1]
        place_BN = is_first_BN.cumsum(1) - 1
        merged_BNF = torch.zeros_like(term_BNF).scatter_add_(1, place_BN[..., None].expand_as(term_BNF), term_BNF)
        merged_BN = torch.full_like(item_BN, n_items).scatter_(1, place_BN, item_BN)
        return Around(merged_BN, merged_BNF, n_items)


@dataclass(frozen=True)
class Around:
    """Distinct neighbours of each user's last items.

    Attributes:
        item_BN: dense ids, rising; places left empty come last and have the id `n_items`.
        term_BNF: terms of each, summed over the last items.
        n_items: I.
    """

    item_BN: Tensor
    term_BNF: Tensor
    n_items: int

    def at(self, item_BW: Tensor) -> Tensor:
        """Terms of given items, `[B, W, F]`; 0 for an item that is no neighbour, or is -1."""
        place_BW = torch.searchsorted(self.item_BN, item_BW.contiguous()).clamp_(max=self.item_BN.shape[1] - 1)
        is_neighbour_BW = self.item_BN.gather(1, place_BW) == item_BW
        term_BWF = self.term_BNF.gather(1, place_BW[..., None].expand(-1, -1, len(TERMS)))
        return term_BWF * is_neighbour_BW[..., None]

    def best(
        self, weight_F: Tensor, places: int, allowed: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The neighbours with the highest weighted sums, `item_BW` (-1 where there are no more) and `score_BW`.

        Args:
            weight_F: of the terms.
            places: W.
            allowed: which of these items `[B, N]` the users may get; None is everything.
        """
        open_BN = self.item_BN < self.n_items
        if allowed is not None:
            open_BN = open_BN & allowed(self.item_BN.clamp(max=self.n_items - 1))
        score_BN = (self.term_BNF @ weight_F).masked_fill(~open_BN, -torch.inf)
        score_BW, place_BW = score_BN.topk(min(places, score_BN.shape[1]), dim=1)
        return self.item_BN.gather(1, place_BW).masked_fill(score_BW == -torch.inf, -1), score_BW


def rank_neighbours(
    table: NeighbourTable, batch: Batch, places: int, allowed_BI: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The neighbours of each history with the highest scores, then the most popular items.

    Args:
        table: of the catalogue.
        batch: histories.
        places: W.
        allowed_BI: what a user may get; None is everything.

    Returns:
        `item_BW` (-1 where fewer items are allowed than there are places) and `score_BW`.
    """
    n_items = len(table.item_IM)
    places = min(places, n_items)
    open_of = None if allowed_BI is None else partial(allowed_BI.gather, 1)
    found_BW, score_BW = table.around(batch).best(table.weights(), places, open_of)
    missing = places - found_BW.shape[1]
    found_BW = F.pad(found_BW, (0, missing), value=-1)
    score_BW = F.pad(score_BW, (0, missing), value=-torch.inf)
    short = (found_BW < 0).any(1).nonzero().squeeze(1)
    if not len(short):
        return found_BW, score_BW
    open_BI = torch.ones(len(short), n_items + 1, dtype=torch.bool, device=found_BW.device)
    if allowed_BI is not None:
        open_BI[:, :-1] = allowed_BI[short]
    open_BI.scatter_(1, found_BW[short].masked_fill(found_BW[short] < 0, n_items), False)
    popular_I = table.popular_I.long()
    # Below 0 and below the neighbours, in the order of popularity.
    lowest_B1 = score_BW[short].masked_fill(found_BW[short] < 0, 0).amin(dim=1, keepdim=True).clamp(max=0)
    order_I = torch.arange(1, n_items + 1, device=found_BW.device) / n_items
    fill_BI = (lowest_B1 - order_I).masked_fill(~open_BI[:, popular_I], -torch.inf)
    fill_score_BW, place_BW = fill_BI.topk(places, dim=1)
    all_score_BW = torch.cat([score_BW[short], fill_score_BW], dim=1)
    all_item_BW = torch.cat([found_BW[short], popular_I[place_BW]], dim=1)
    score_BW[short], place_BW = all_score_BW.topk(places, dim=1)
    found_BW[short] = all_item_BW.gather(1, place_BW).masked_fill(score_BW[short] == -torch.inf, -1)
    return found_BW, score_BW
