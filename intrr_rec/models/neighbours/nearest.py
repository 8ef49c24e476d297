"""How a table of neighbours is cut from the similarities of items (`models/neighbours/terms.py`).

Up to `EXACT` items each item is compared with all others. Beyond, it is compared with what P and Q say of it and with the items
of some lists of vectors near its own (`models/neighbours/vector_lists.py`): a table of I items costs I · √I products.

Shape suffixes: I items, M neighbours kept, F = 3 terms, R rows of a block, V width of vectors, N entries of a sparse matrix,
J items a block is compared with, W candidates of a row.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.config import NeighboursConfig
from intrr_rec.models.neighbours.terms import TERMS
from intrr_rec.models.neighbours.vector_lists import VectorLists

AXES = 128  # of whitened vectors, at most
SMALLEST = 1e-6  # share of the largest variance below which an axis is noise
BLOCK = 1 << 24  # elements of a dense block of rows
EXACT = 1 << 15  # items
FROM_LOGS = 4  # candidates from P and Q, per neighbour kept
ROWS = 1024  # of a block without vectors


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
        return self.take(torch.arange(first, end, device=self.start_I1.device))

    def take(self, item_R: Tensor) -> Tensor:
        """The rows of given items as a sparse matrix `[R, I]`."""
        start_R = self.start_I1[item_R]
        per_row_R = self.start_I1[item_R + 1] - start_R
        row_N = torch.arange(len(item_R), device=item_R.device).repeat_interleave(per_row_R)
        from_start_N = torch.arange(len(row_N), device=item_R.device) - (per_row_R.cumsum(0) - per_row_R)[row_N]
        place_N = start_R[row_N] + from_start_N
        return _sparse(
            row_N, self.target_N[place_N].long(), self.value_N[place_N], (len(item_R), len(self.start_I1) - 1)
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

    Args:
        transitions: P.
        unit_IV: item vectors of length 1; None leaves content out.
        config: weights, and how many to keep.
    """
    n_items = len(transitions.start_I1) - 1
    device = transitions.value_N.device
    item_RM = torch.full((end - first, config.kept), -1, dtype=torch.int32, device=device)
    term_RMF = torch.zeros(end - first, config.kept, len(TERMS), dtype=torch.float16, device=device)
    whole_II = transitions.rows(0, n_items)
    compare = _with_all if n_items <= EXACT else _with_some
    for own_R, other_J in _blocks(n_items, unit_IV, first, end, device):
        one_RI = transitions.take(own_R)
        two_RI = _two_steps(one_RI, whole_II, own_R) if config.two_steps else one_RI * 0
        compared = compare(one_RI, two_RI, own_R, other_J, unit_IV, config)
        found_RM, found_RMF = _cut(*compared, n_items, config, unit_IV is not None)
        item_RM[own_R - first, : found_RM.shape[1]] = found_RM
        term_RMF[own_R - first, : found_RM.shape[1]] = found_RMF
    return item_RM, term_RMF


def _blocks(
    n_items: int, unit_IV: Tensor | None, first: int, end: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Rows, and the items whose vectors they are compared with; None is all, or where there are no vectors, none."""
    if unit_IV is not None and n_items > EXACT:
        yield from VectorLists.of(unit_IV).blocks(first, end, BLOCK)
    else:
        rows = max(1, BLOCK // n_items) if n_items <= EXACT else ROWS
        for own_R in torch.arange(first, end, device=device).split(rows):
            yield own_R, None


def _two_steps(one_RI: Tensor, whole_II: Tensor, own_R: Tensor) -> Tensor:
    """Rows of Q, sparse."""
    with warnings.catch_warnings():  # of a beta state
        warnings.simplefilter("ignore", UserWarning)
        product_RI = torch.sparse.mm(one_RI, whole_II).coalesce()
    (row_N, item_N), value_N = product_RI.indices(), product_RI.values()
    is_other_N = item_N != own_R[row_N]
    row_N, item_N, value_N = row_N[is_other_N], item_N[is_other_N], value_N[is_other_N]
    highest_R = torch.zeros(len(own_R), device=value_N.device).scatter_reduce_(0, row_N, value_N, "amax")
    value_N = value_N / highest_R[row_N].clamp(min=torch.finfo(torch.float32).tiny)
    return _sparse(row_N, item_N, value_N, tuple(one_RI.shape))


def _with_all(
    one_RI: Tensor, two_RI: Tensor, own_R: Tensor, _: Tensor | None, unit_IV: Tensor | None, config: NeighboursConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """`score_RW` falling, `item_RW` and `term_RWF` of the best W = M + 1 of all items."""
    content_RI = torch.zeros(one_RI.shape, device=own_R.device) if unit_IV is None else unit_IV[own_R] @ unit_IV.T
    term_RIF = torch.stack([content_RI, one_RI.to_dense(), two_RI.to_dense()], dim=-1)
    score_RW, item_RW = (term_RIF @ _weights(config, own_R.device)).topk(min(config.kept + 1, one_RI.shape[1]), dim=1)
    return score_RW, item_RW, term_RIF.gather(1, item_RW[..., None].expand(-1, -1, len(TERMS)))


def _with_some(
    one_RI: Tensor,
    two_RI: Tensor,
    own_R: Tensor,
    other_J: Tensor | None,
    unit_IV: Tensor | None,
    config: NeighboursConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_with_all`, of the items with the highest P and Q and the closest of the lists; a place left empty scores -inf."""
    n_items, weight_F = one_RI.shape[1], _weights(config, own_R.device)
    logs_2RI = torch.stack([one_RI, two_RI]).coalesce()
    kind_N, row_N, item_N = logs_2RI.indices()
    key_N, place_N = (row_N * n_items + item_N).unique(return_inverse=True)
    term_N2 = torch.zeros(len(key_N), 2, device=own_R.device)
    term_N2[place_N, kind_N] = logs_2RI.values()
    chosen_N = _best_of_rows(key_N // n_items, term_N2 @ weight_F[1:], FROM_LOGS * config.kept)
    key_N, term_N2 = key_N[chosen_N], term_N2[chosen_N]
    if other_J is not None and unit_IV is not None:
        near_RW = other_J[(unit_IV[own_R] @ unit_IV[other_J].T).topk(min(config.kept + 1, len(other_J)), dim=1).indices]
        near_N = (torch.arange(len(own_R), device=own_R.device)[:, None] * n_items + near_RW).flatten()
        # One whose P and Q are too low to be chosen above is compared by its content alone.
        near_N = near_N[~torch.isin(near_N, key_N)]
        key_N = torch.cat([key_N, near_N])
        term_N2 = torch.cat([term_N2, term_N2.new_zeros(len(near_N), 2)])
    row_N, item_N = key_N // n_items, key_N % n_items
    content_N = torch.zeros(len(key_N), device=own_R.device)
    if unit_IV is not None:
        pairs = zip(own_R[row_N].split(BLOCK >> 8), item_N.split(BLOCK >> 8), strict=True)
        content_N = torch.cat([(unit_IV[own] * unit_IV[other]).sum(-1) for own, other in pairs])
    term_NF = torch.cat([content_N[:, None], term_N2], dim=1)
    score_N = term_NF @ weight_F
    best_N, places = _best_of_rows(row_N, score_N, config.kept + 1), min(config.kept + 1, n_items)
    row_N = row_N[best_N]
    place_N = _place_in_row(row_N)
    score_RW = torch.full((len(own_R), places), -torch.inf, device=own_R.device)
    item_RW = torch.zeros(len(own_R), places, dtype=torch.long, device=own_R.device)
    term_RWF = torch.zeros(len(own_R), places, len(TERMS), device=own_R.device)
    score_RW[row_N, place_N], item_RW[row_N, place_N] = score_N[best_N], item_N[best_N]
    term_RWF[row_N, place_N] = term_NF[best_N]
    return score_RW, item_RW, term_RWF


def _best_of_rows(row_N: Tensor, score_N: Tensor, places: int) -> Tensor:
    """Where the highest scores of each row lie, row by row, falling."""
    order_N = score_N.sort(descending=True, stable=True).indices
    order_N = order_N[row_N[order_N].sort(stable=True).indices]
    return order_N[_place_in_row(row_N[order_N]) < places]


def _place_in_row(row_N: Tensor) -> Tensor:
    """How many of the same row come before; the rows are in order."""
    return torch.arange(len(row_N), device=row_N.device) - torch.searchsorted(row_N, row_N)


def _cut(
    score_RW: Tensor, item_RW: Tensor, term_RWF: Tensor, n_items: int, config: NeighboursConfig, has_content: bool
) -> tuple[Tensor, Tensor]:
    """What a table holds of the best of each row, the content relative to the first that is left out."""
    kept = min(config.kept, n_items)
    score_RM, item_RM, term_RMF = score_RW[:, :kept], item_RW[:, :kept], term_RWF[:, :kept]
    # Of a catalogue with more items than are kept, that of the first item left out; none where fewer items were compared.
    floor_R1 = score_RW[:, -1:].masked_fill(score_RW[:, -1:] == -torch.inf, 0)
    if has_content and config.content:
        term_RMF[..., 0] -= floor_R1 / config.content
    is_near_RM = (score_RM > floor_R1) | (kept == n_items)
    return item_RM.masked_fill(~is_near_RM, -1).int(), term_RMF.masked_fill(~is_near_RM[..., None], 0).half()


def _weights(config: NeighboursConfig, device: torch.device) -> Tensor:
    return torch.tensor([config.content, config.transitions, config.two_steps], device=device)


def _sparse(row_N: Tensor, item_N: Tensor, value_N: Tensor, shape: tuple[int, ...]) -> Tensor:
    places_2N = torch.stack([row_N, item_N])
    return torch.sparse_coo_tensor(places_2N, value_N, shape, check_invariants=False, is_coalesced=True)
