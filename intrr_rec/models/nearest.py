"""How a table of neighbours is cut from the similarities of items (`models/neighbours.py`).

Shape suffixes: I items, M neighbours kept, F = 3 terms, R rows of a block, V width of vectors, N entries of a sparse matrix.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.config import NeighboursConfig
from intrr_rec.models.neighbours import TERMS

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
