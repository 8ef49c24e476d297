"""Semantic IDs as a model reads them: those a batch brings, or looked up in the catalogue's, which stay on the host.

Codes are stored as narrow as they fit. What is looked up by a code needs int64: torch takes an index of uint8 for a mask.

Shape suffixes: I items, U items looked up, S scored slots, L levels.
"""

from __future__ import annotations

from torch import Tensor

from intrr_rec.data.loading.batch import Batch


def item_codes(codes_IL: Tensor, items_U: Tensor) -> Tensor:
    """The Semantic IDs of some items, int64 `[U, L]` on their device, from those of the catalogue, which may lie on another."""
    return codes_IL[items_U.to(codes_IL.device)].to(items_U.device).long()


def batch_codes(codes_IL: Tensor, batch: Batch) -> Tensor:
    """The Semantic IDs of a batch's items, int64 `[U, L]`: those it brings, or else from the catalogue's."""
    return item_codes(codes_IL, batch.items_U) if batch.codes_UL is None else batch.codes_UL.long()


def target_codes(codes_IL: Tensor, batch: Batch) -> Tensor:
    """As `batch_codes`, of its targets, `[S, L]`."""
    return item_codes(codes_IL, batch.target_S) if batch.target_codes_SL is None else batch.target_codes_SL.long()
