"""Items that share their residual codes: moved to other codes of the last level, then told apart by one more code, the digit.

`digit` moves none. `next_nearest` and `sinkhorn` look at one prefix of L - 1 codes at a time, whose items are few: the first
moves what collides to the nearest code nobody has, the second shares out the codes of the last level among all items of the
prefix at the least total distance (entropic transport, then rounding). What a level cannot hold keeps its code and gets a
digit, and what the digits cannot hold is refused: no code is ever clamped.

Shape legend: I items, L residual levels, K codes of the last level, R items that are looked at, A those of all parts,
G prefixes, P items of a block, D vector width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from intrr_rec.errors import ConfigError
from intrr_rec.io.formats.mapped import roomy
from intrr_rec.semantic_ids.quantizers.quantizer import Quantizer, VectorSource
from intrr_rec.semantic_ids.sinkhorn import sinkhorn_prices, squared_distances
from intrr_rec.semantic_ids.trie import sorted_order

ORDER_RULE = "an item that shares its codes with none gets digit 0; items sharing codes get 1, 2, … in dense item order"
MOVE_RULES = {
    "digit": "no item moves",
    "next_nearest": (
        "of the items that share codes the first in dense item order stays; the others of its prefix, in dense item order, "
        "move to the nearest code of the last level that no item of the prefix has, or stay where there is none"
    ),
    "sinkhorn": (
        "in a prefix of n items with a collision, every code of the last level takes at most ceil(n / K): the item that "
        "loses most by its second choice first, ties in dense item order, each takes the open code of least distance "
        "plus Sinkhorn price"
    ),
}
ROWS = 262_144  # items whose distances to all codes are held at once
BLOCK = 16_384  # of them, those whose distances are computed at once
TEMPERATURE, ITERATIONS = 0.05, 100

CostsOf = Callable[[Sequence[Tensor]], Iterator[Tensor]]
"""Rising dense ids `[R]` of parts of the items → squared distances `[R, K]` of each part to the codes of the last level."""


def order_rule(strategy: str) -> str:
    """All that decides which of several items with the same codes gets which code: kept, and hashed, in the artefact."""
    return f"{MOVE_RULES[strategy]}; {ORDER_RULE}"


def resolve_collisions(
    codes_IL: Tensor, strategy: Literal["digit", "next_nearest", "sinkhorn"], n_codes: int, costs_of: CostsOf
) -> Tensor:
    """Codes `[I, L]` whose last level is changed for items that collide, by `MOVE_RULES[strategy]`.

    Args:
        n_codes: K of the last level.
        costs_of: asked once for all items of prefixes with a collision, in parts of bounded size.
    """
    if strategy == "digit":
        return codes_IL
    move = _next_nearest if strategy == "next_nearest" else _share_out
    codes_IL = codes_IL.clone()
    parts = list(_colliding_prefixes(codes_IL))
    for (items_R, prefix_R), cost_RK in zip(parts, costs_of([items_R for items_R, _ in parts]), strict=True):
        codes_IL[items_R, -1] = move(codes_IL[items_R, -1], prefix_R, cost_RK.cpu(), n_codes)
    return codes_IL


def costs_from(quantizer: Quantizer, source: VectorSource, codes_IL: Tensor) -> CostsOf:
    """`CostsOf` by one pass over a source that holds all items, whose colliding vectors are sorted by parts on the way."""

    def costs_of(parts: Sequence[Tensor]) -> Iterator[Tensor]:
        items_A = torch.cat([torch.empty(0, dtype=torch.int64), *parts])
        place_I = torch.full((len(codes_IL),), -1)
        place_I[items_A] = torch.arange(len(items_A))
        x_AD = torch.from_numpy(roomy(np.float32, (len(items_A), source.width)))
        for ids_P, x_PD in source.blocks() if len(items_A) else ():
            place_P = place_I[ids_P]
            x_AD[place_P[place_P >= 0]] = x_PD[place_P >= 0].cpu().float()
        codebook_KD = quantizer.codebooks[-1]
        first = 0
        for items_R in parts:
            cost_RK = torch.empty(len(items_R), len(codebook_KD))
            for start in range(0, len(items_R), BLOCK):
                items_P = items_R[start : start + BLOCK]
                x_PD = x_AD[first + start : first + start + len(items_P)].to(codebook_KD)
                input_PD = quantizer.level_input(x_PD, codes_IL[items_P, :-1])
                cost_RK[start : start + len(items_P)] = squared_distances(input_PD, codebook_KD.to(input_PD)).to(
                    cost_RK
                )
            first += len(items_R)
            yield cost_RK

    return costs_of


def code_groups(codes_IL: Tensor) -> tuple[Tensor, Tensor]:
    """Items grouped by their codes: int64 `group_I` (groups numbered in lexicographic order of the codes) and `rank_I`.

    `rank_I` is an item's place, from 0, among the items of its group in dense item order.
    """
    n_items = len(codes_IL)
    if not codes_IL.shape[1]:
        return torch.zeros(n_items, dtype=torch.int64), torch.arange(n_items)
    order_I = (
        sorted_order(codes_IL, [int(largest) + 1 for largest in codes_IL.amax(0)]) if n_items else codes_IL[:, 0].long()
    )
    sorted_IL = codes_IL[order_I]
    is_first_I = torch.ones(n_items, dtype=torch.bool, device=codes_IL.device)
    is_first_I[1:] = (sorted_IL[1:] != sorted_IL[:-1]).any(1)
    sorted_group_I = is_first_I.cumsum(0) - 1
    starts_I = is_first_I.nonzero().squeeze(1)[sorted_group_I]
    group_I, rank_I = torch.empty_like(order_I), torch.empty_like(order_I)
    group_I[order_I] = sorted_group_I
    rank_I[order_I] = torch.arange(n_items, device=codes_IL.device) - starts_I
    return group_I, rank_I


def dedup_digits(codes_IL: Tensor, dedup_codes: int) -> Tensor:
    """The digit of every item by `ORDER_RULE`, int64 `[I]` below `dedup_codes`.

    Raises:
        ConfigError: codes shared by more items than there are digits for.
    """
    group_I, rank_I = code_groups(codes_IL)
    size_I = torch.bincount(group_I)[group_I]
    digits_I = torch.where(size_I == 1, 0, rank_I + 1)
    if len(digits_I) and int(digits_I.max()) >= dedup_codes:
        worst = int(size_I.argmax())
        raise ConfigError(
            f"index.dedup_codes: {int(size_I[worst])} items share the codes {tuple(codes_IL[worst].tolist())}, but "
            f"{dedup_codes} digits tell apart {dedup_codes - 1} at most; raise index.dedup_codes (or index.codes)"
        )
    return digits_I


def _colliding_prefixes(codes_IL: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rising items `[R]` of every prefix that holds a collision, and their prefix's number, in parts of whole prefixes.

    A part has at most `ROWS` items, or those of one prefix.
    """
    prefix_I, _ = code_groups(codes_IL[:, :-1])
    _, rank_I = code_groups(codes_IL)
    collides_G = torch.zeros(int(prefix_I.max()) + 1, dtype=torch.bool)
    collides_G[prefix_I[rank_I > 0]] = True
    size_G = torch.bincount(prefix_I) * collides_G
    part_G = (size_G.cumsum(0) - 1).clamp(min=0) // ROWS  # a prefix that straddles a bound goes with its end
    items_A = collides_G[prefix_I].nonzero().squeeze(1)
    part_A = part_G[prefix_I[items_A]]
    for place_R in part_A.argsort(stable=True).split(torch.bincount(part_A).tolist()):
        if len(place_R):
            items_R = items_A[place_R]
            yield items_R, prefix_I[items_R].unique(return_inverse=True)[1]


def _next_nearest(codes_R: Tensor, prefix_R: Tensor, cost_RK: Tensor, n_codes: int) -> Tensor:
    codes_R = codes_R.clone()
    taken_GK = torch.zeros(int(prefix_R.max()) + 1, n_codes, dtype=torch.bool)
    taken_GK[prefix_R, codes_R] = True
    _, rank_R = code_groups(torch.stack([prefix_R, codes_R], 1))
    movers = (rank_R > 0).nonzero().squeeze(1)
    # One mover of every prefix at a time: prefixes do not touch one another, and within one the order is kept.
    _, turn = code_groups(prefix_R[movers].unsqueeze(1))
    for place_N in turn.argsort(stable=True).split(torch.bincount(turn).tolist()):
        rows = movers[place_N]
        rows = rows[~taken_GK[prefix_R[rows]].all(1)]
        choice = cost_RK[rows].masked_fill(taken_GK[prefix_R[rows]], torch.inf).argmin(1)
        codes_R[rows] = choice
        taken_GK[prefix_R[rows], choice] = True
    return codes_R


def _share_out(codes_R: Tensor, prefix_R: Tensor, cost_RK: Tensor, n_codes: int) -> Tensor:
    codes_R = codes_R.clone()
    order_R = prefix_R.argsort(stable=True)
    for rows_n in order_R.split(torch.bincount(prefix_R).tolist()):
        capacity = -(-len(rows_n) // n_codes)
        cost_nK = cost_RK[rows_n]
        priced_nK = cost_nK + sinkhorn_prices(cost_nK, TEMPERATURE, ITERATIONS, float(capacity))
        best_n2 = priced_nK.topk(2, largest=False).values
        room_K = torch.full((n_codes,), capacity)
        for row in (best_n2[:, 0] - best_n2[:, 1]).argsort(stable=True).tolist():
            code = priced_nK[row].masked_fill(room_K == 0, torch.inf).argmin()
            room_K[code] -= 1
            codes_R[rows_n[row]] = code
    return codes_R
