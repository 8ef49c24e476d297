"""How a table of neighbours is cut from the similarities of items (`models/neighbours/terms.py`).

Up to `EXACT` items each item is compared with all others. Beyond, it is compared with what P and Q say of it and with the items
of some lists of vectors near its own (`models/neighbours/vector_lists.py`): a table of I items costs I · √I products.

Shape suffixes: I items, M neighbours kept, F = 3 terms, R rows of a block, V width of vectors, N entries of a sparse matrix,
J items a block is compared with, W candidates of a row, C items that P leads to.
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
PAIRS = 1 << 16  # whose vectors are multiplied together


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
    compare = _with_all if n_items <= EXACT else _with_some
    for own_R, other_J in _blocks(n_items, unit_IV, first, end, device):
        one_RI = transitions.take(own_R)
        two_RI = _two_steps(one_RI, transitions, own_R) if config.two_steps else one_RI * 0
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


def _two_steps(one_RI: Tensor, transitions: Transitions, own_R: Tensor) -> Tensor:
    """Rows of Q, sparse: a product with the rows of P that these rows lead to, not with all of it."""
    (row_N, item_N), n_items = one_RI.indices(), one_RI.shape[1]
    via_C, place_N = item_N.unique(return_inverse=True)
    one_RC = _sparse(row_N, place_N, one_RI.values(), (len(own_R), len(via_C)))
    with warnings.catch_warnings():  # of a beta state
        warnings.simplefilter("ignore", UserWarning)
        product_RI = torch.sparse.mm(one_RC, transitions.take(via_C)).coalesce()
    (row_N, item_N), value_N = product_RI.indices(), product_RI.values()
    is_other_N = item_N != own_R[row_N]
    row_N, item_N, value_N = row_N[is_other_N], item_N[is_other_N], value_N[is_other_N]
    highest_R = torch.zeros(len(own_R), device=value_N.device).scatter_reduce_(0, row_N, value_N, "amax")
    value_N = value_N / highest_R[row_N].clamp(min=torch.finfo(torch.float32).tiny)
    return _sparse(row_N, item_N, value_N, (len(own_R), n_items))


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
    row_N, item_N, term_N2 = _of_logs(one_RI, two_RI)
    place_RW = _best_of_rows(row_N, term_N2 @ weight_F[1:], len(own_R), FROM_LOGS * config.kept)
    item_RW = F.pad(item_N, (0, 1), value=n_items)[place_RW]
    term_RWF = F.pad(term_N2, (1, 0, 0, 1))[place_RW]
    is_there_RW = place_RW >= 0
    if unit_IV is not None:
        for part_R in torch.arange(len(own_R), device=own_R.device).split(max(1, PAIRS // item_RW.shape[1])):
            vectors_RWV = unit_IV[item_RW[part_R].clamp(max=n_items - 1)]
            term_RWF[part_R, :, 0] = (vectors_RWV @ unit_IV[own_R[part_R]].unsqueeze(2)).squeeze(2)
    if other_J is not None and unit_IV is not None:
        near_RW, at_RW = (unit_IV[own_R] @ unit_IV[other_J].T).topk(min(config.kept + 1, len(other_J)), dim=1)
        # One whose P and Q are too low to be chosen above is compared by its content alone.
        is_new_RW = ~_is_among(other_J[at_RW], item_RW)
        item_RW = torch.cat([item_RW, other_J[at_RW]], dim=1)
        term_RWF = torch.cat([term_RWF, F.pad(near_RW[..., None], (0, len(TERMS) - 1))], dim=1)
        is_there_RW = torch.cat([is_there_RW, is_new_RW], dim=1)
    spare = min(config.kept + 1, n_items) - item_RW.shape[1]
    if spare > 0:
        item_RW, is_there_RW = F.pad(item_RW, (0, spare)), F.pad(is_there_RW, (0, spare))
        term_RWF = F.pad(term_RWF, (0, 0, 0, spare))
    score_RW = (term_RWF @ weight_F).masked_fill(~is_there_RW, -torch.inf)
    score_RW, best_RW = score_RW.topk(min(config.kept + 1, n_items), dim=1)
    item_RW = item_RW.gather(1, best_RW).masked_fill(score_RW == -torch.inf, 0)
    return score_RW, item_RW, term_RWF.gather(1, best_RW[..., None].expand(-1, -1, len(TERMS)))


def _of_logs(one_RI: Tensor, two_RI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`row_N` in order, `item_N` and `term_N2` (P, Q) of the pairs for which P or Q says something."""
    n_items = one_RI.shape[1]
    one_N, two_N = (part.indices()[0] * n_items + part.indices()[1] for part in (one_RI, two_RI))
    at_N = torch.searchsorted(two_N, one_N)
    is_known_N = F.pad(two_N, (0, 1), value=-1)[at_N] == one_N
    two_value_N = two_RI.values()
    if not bool(is_known_N.all()):  # pairs of P alone take their places among those of Q
        two_N, order_N = torch.cat([two_N, one_N[~is_known_N]]).sort()
        two_value_N = torch.cat([two_value_N, two_value_N.new_zeros(int((~is_known_N).sum()))])[order_N]
        at_N = torch.searchsorted(two_N, one_N)
    term_N2 = torch.stack([torch.zeros_like(two_value_N), two_value_N], dim=1)
    term_N2[at_N, 0] = one_RI.values()
    return two_N // n_items, two_N % n_items, term_N2


def _is_among(item_RW: Tensor, known_RK: Tensor) -> Tensor:
    """Whether each item of a row is in the same row of `known_RK`."""
    known_RK = known_RK.sort(dim=1).values
    at_RW = torch.searchsorted(known_RK, item_RW).clamp_(max=known_RK.shape[1] - 1)
    return known_RK.gather(1, at_RW) == item_RW


def _best_of_rows(row_N: Tensor, score_N: Tensor, rows: int, places: int) -> Tensor:
    """Where the highest scores of each row lie, `place_RW`, falling; -1 where a row has fewer. The rows are in order.

    Rows are laid out beside each other in widths of powers of two, so that they are at most twice as many elements, and what is
    found in a row does not depend on the rows beside it.
    """
    start_R1 = torch.searchsorted(row_N, torch.arange(rows + 1, device=row_N.device))
    length_R = start_R1.diff()
    longest = int(length_R.max())
    place_RW = row_N.new_full((rows, max(1, min(places, longest))), -1)
    width = 1
    while width // 2 < longest:
        own_R = ((length_R > width // 2) & (length_R <= width)).nonzero().squeeze(1)
        if len(own_R):
            from_start_W = torch.arange(width, device=row_N.device)
            at_RW = start_R1[own_R, None] + from_start_W
            is_there_RW = from_start_W < length_R[own_R, None]
            score_RW = score_N[at_RW.clamp(max=len(score_N) - 1)].masked_fill(~is_there_RW, -torch.inf)
            best_RW = score_RW.topk(min(places, width, place_RW.shape[1]), dim=1).indices
            found_RW = at_RW.gather(1, best_RW).masked_fill(~is_there_RW.gather(1, best_RW), -1)
            place_RW[own_R, : found_RW.shape[1]] = found_RW
        width *= 2
    return place_RW


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
