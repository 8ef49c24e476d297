"""The de-duplication digit: one more code that tells items with the same residual path apart.

Shape legend: I items, L residual levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intrr_rec.decoding.trie import lexsort_rows
from intrr_rec.errors import ConfigError

ORDER_RULE = "a path of one item gets digit 0; items sharing a path get 1, 2, … in dense item order"


def path_groups(codes_IL: Tensor) -> tuple[Tensor, Tensor]:
    """Items grouped by path: int64 `group_I` (groups numbered in lexicographic order of path) and `rank_I`.

    `rank_I` is an item's place, from 0, among the items of its group in dense item order.
    """
    n_items = len(codes_IL)
    order_I = lexsort_rows(codes_IL)
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
        ConfigError: a path shared by more items than there are digits for.
    """
    group_I, rank_I = path_groups(codes_IL)
    size_I = torch.bincount(group_I)[group_I]
    digits_I = torch.where(size_I == 1, 0, rank_I + 1)
    if len(digits_I) and int(digits_I.max()) >= dedup_codes:
        worst = int(size_I.argmax())
        raise ConfigError(
            f"index.dedup_codes: {int(size_I[worst])} items share the path {tuple(codes_IL[worst].tolist())}, but "
            f"{dedup_codes} digits tell apart {dedup_codes - 1} at most; raise index.dedup_codes (or index.codes)"
        )
    return digits_I
