"""Neighbours of items: what transitions of the training part and item vectors say, without training.

The similarity of item j to item i is content · cos(v_i, v_j) + transitions · P_ij + two_steps · Q_ij (`model.neighbours`).
P is the transition matrix of `data/transitions.py`; Q = P P without its diagonal, each row's maximum 1. A table holds the M
most similar items of each item with the three terms apart. What falls short of the M-th similarity counts as 0: the content
term is written relative to it, so that an item that is in one list of a history and not in the other is compared fairly.

Shape suffixes: I items, M neighbours kept, F = 3 terms, R rows of a block, V width of vectors, B users, H last items,
N = H·M neighbours of a history, W candidates.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.config import NeighboursConfig
from intrr_rec.data.loading.batch import Batch

TERMS = ("content", "transitions", "two_steps")
AXES = 128  # of whitened vectors, at most
SMALLEST = 1e-6  # share of the largest variance below which an axis is noise
BLOCK = 1 << 24  # elements of a dense block of rows


@dataclass(frozen=True)
class Transitions:
    """P in compressed rows.

    Attributes:
        start_I1: where each row's entries start.
        target_N, value_N: of the entries.
    """

    start_I1: Tensor
    target_N: Tensor
    value_N: Tensor

    def rows(self, first: int, end: int) -> Tensor:
        """Rows `first … end - 1` as a sparse matrix `[R, I]`."""
        start, stop = int(self.start_I1[first]), int(self.start_I1[end])
        per_row_R = self.start_I1[first : end + 1].diff()
        row_N = torch.arange(end - first, device=per_row_R.device).repeat_interleave(per_row_R)
        place_2N = torch.stack([row_N, self.target_N[start:stop]])
        shape = (end - first, len(self.start_I1) - 1)
        return torch.sparse_coo_tensor(
            place_2N, self.value_N[start:stop], shape, check_invariants=False, is_coalesced=True
        )

    def to(self, device: torch.device) -> Transitions:
        """The same matrix on a device."""
        return Transitions(self.start_I1.to(device), self.target_N.to(device), self.value_N.to(device))


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

    def best(self, weight_F: Tensor, places: int, allowed_BI: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The neighbours with the highest weighted sums, `item_BW` (-1 where there are no more) and `score_BW`.

        Args:
            weight_F: of the terms.
            places: W.
            allowed_BI: what a user may get; None is everything.
        """
        open_BN = self.item_BN < self.n_items
        if allowed_BI is not None:
            open_BN = open_BN & allowed_BI.gather(1, self.item_BN.clamp(max=self.n_items - 1))
        score_BN = (self.term_BNF @ weight_F).masked_fill(~open_BN, -torch.inf)
        score_BW, place_BW = score_BN.topk(min(places, score_BN.shape[1]), dim=1)
        return self.item_BN.gather(1, place_BW).masked_fill(score_BW == -torch.inf, -1), score_BW


def unit_vectors(vectors_IV: Tensor, *, whiten: bool) -> Tensor:
    """Item vectors of length 1; with `whiten`, on their principal axes, each over the square root of its deviation."""
    if whiten:
        centred_IV = vectors_IV - vectors_IV.mean(0)
        variance_V, axes_VV = torch.linalg.eigh((centred_IV.T @ centred_IV).double() / len(centred_IV))
        kept = (variance_V > variance_V[-1] * SMALLEST).nonzero().squeeze(1)[-AXES:]
        scaled_VA = axes_VV[:, kept] * variance_V[kept] ** -0.25
        vectors_IV = centred_IV @ scaled_VA.float()
    return F.normalize(vectors_IV, dim=-1)


def nearest(
    transitions: Transitions, unit_IV: Tensor | None, config: NeighboursConfig, first: int, end: int
) -> tuple[Tensor, Tensor]:
    """Rows `first … end - 1` of a table: `item_RM` and `term_RMF`.

    Every item of a row is compared with the whole catalogue, so a table costs I² · V products and, beside what it holds, a
    block of rows.

    Args:
        transitions: P.
        unit_IV: item vectors of length 1; None leaves content out.
        config: weights, and how many to keep.
    """
    n_items = len(transitions.start_I1) - 1
    device = transitions.value_N.device
    kept = min(config.kept, n_items)
    whole = transitions.rows(0, n_items)
    weight_F = torch.tensor([config.content, config.transitions, config.two_steps], device=device)
    items, terms = [], []
    step = max(1, BLOCK // n_items)
    for start in range(first, end, step):
        stop = min(end, start + step)
        own_R = torch.arange(start, stop, device=device)
        one_RI = transitions.rows(start, stop)
        two_RI = torch.zeros(stop - start, n_items, device=device)
        if config.two_steps:
            with warnings.catch_warnings():  # of a beta state
                warnings.simplefilter("ignore", UserWarning)
                two_RI = torch.sparse.mm(one_RI, whole).to_dense()
        two_RI[own_R - start, own_R] = 0
        two_RI /= two_RI.amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        content_RI = torch.zeros_like(two_RI) if unit_IV is None else unit_IV[start:stop] @ unit_IV.T
        term_RIF = torch.stack([content_RI, one_RI.to_dense(), two_RI], dim=-1)
        score_RI = term_RIF @ weight_F
        score_RW, item_RW = score_RI.topk(min(kept + 1, n_items), dim=1)
        score_RM, item_RM = score_RW[:, :kept], item_RW[:, :kept]
        floor_R1 = score_RW[:, -1:]  # of a catalogue with more items than are kept, that of the first item left out
        term_RMF = term_RIF.gather(1, item_RM[..., None].expand(-1, -1, len(TERMS)))
        if unit_IV is not None and config.content:
            term_RMF[..., 0] -= floor_R1 / config.content
        is_near_RM = (score_RM > floor_R1) | (kept == n_items)
        items.append(item_RM.masked_fill(~is_near_RM, -1).int())
        terms.append(term_RMF.masked_fill(~is_near_RM[..., None], 0).half())
    return F.pad(torch.cat(items), (0, config.kept - kept), value=-1), F.pad(
        torch.cat(terms), (0, 0, 0, config.kept - kept)
    )
