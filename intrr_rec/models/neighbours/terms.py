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
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.config import NeighboursConfig
from intrr_rec.data.loading.batch import Batch

TERMS = ("content", "transitions", "two_steps")
MOST_POPULAR = 1 << 14  # items, the most popular first, that are looked at together


class Permitted(Protocol):
    """What the users of a batch may get (`decoding/filters.py`: `Allowed`)."""

    def at(self, item: Tensor) -> Tensor:
        """Whether the users may get these items: `[R]`, the same for all, or each user's own, `[B, R]`; -1 is none."""

    def of(self, user_B: Tensor) -> Permitted:
        """The filters of some of the users, given by their rows."""


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
    table: NeighbourTable, batch: Batch, places: int, allowed: Permitted | None = None
) -> tuple[Tensor, Tensor]:
    """The neighbours of each history with the highest scores, then the most popular items.

    Args:
        table: of the catalogue.
        batch: histories.
        places: W.
        allowed: what the users may get; None is everything.

    Returns:
        `item_BW` (-1 where fewer items are allowed than there are places) and `score_BW`.
    """
    n_items = len(table.item_IM)
    places = min(places, n_items)
    found_BW, score_BW = table.around(batch).best(table.weights(), places, None if allowed is None else allowed.at)
    missing = places - found_BW.shape[1]
    found_BW = F.pad(found_BW, (0, missing), value=-1)
    score_BW = F.pad(score_BW, (0, missing), value=-torch.inf)
    short = (found_BW < 0).any(1).nonzero().squeeze(1)
    if len(short):
        theirs = None if allowed is None else allowed.of(short)
        found_BW[short], score_BW[short] = _filled(table.popular_I, found_BW[short], score_BW[short], theirs)
    return found_BW, score_BW


def _filled(popular_I: Tensor, found_BW: Tensor, score_BW: Tensor, allowed: Permitted | None) -> tuple[Tensor, Tensor]:
    """The places left empty, which come last, filled with the most popular items not found yet: as far down as the users ask.

    Their scores lie below 0 and below the neighbours', in the order of popularity.
    """
    places, n_items = found_BW.shape[1], len(popular_I)
    known_BW = found_BW.sort(dim=1).values
    lowest_B1 = score_BW.masked_fill(found_BW < 0, 0).amin(dim=1, keepdim=True).clamp(max=0)
    filled_B1 = (found_BW >= 0).sum(1, keepdim=True)
    spare = (0, 1)  # a place that takes what has none
    found_BW, score_BW = F.pad(found_BW, spare, value=-1), F.pad(score_BW, spare, value=-torch.inf)
    first, count = 0, 2 * places
    while first < n_items and bool((filled_B1 < places).any()):
        item_R = popular_I[first : first + count].long()
        item_BR = item_R.expand(len(found_BW), -1).contiguous()
        at_BR = torch.searchsorted(known_BW, item_BR).clamp_(max=places - 1)
        is_open_BR = known_BW.gather(1, at_BR) != item_BR
        if allowed is not None:
            is_open_BR &= allowed.at(item_R)
        place_BR = (filled_B1 + is_open_BR.cumsum(1) - 1).masked_fill(~is_open_BR, places).clamp_(max=places)
        rank_R = torch.arange(first + 1, first + 1 + len(item_R), device=item_R.device) / n_items
        found_BW.scatter_(1, place_BR, item_BR)
        score_BW.scatter_(1, place_BR, lowest_B1 - rank_R)
        filled_B1 = filled_B1 + is_open_BR.sum(1, keepdim=True)
        first, count = first + len(item_R), min(2 * count, MOST_POPULAR)
    return found_BW[:, :places], score_BW[:, :places]
