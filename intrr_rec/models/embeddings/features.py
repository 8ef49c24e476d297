"""The table of all features: one embedding collection, sharded by the plan of the UID table, asked once a step.

Multi-valued features are lists of rows of the same table, so they need no collection of their own and no second exchange
between ranks. Rows start at zero: a value that training never saw adds nothing.

Shape suffixes: R rows asked for, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from intrr_rec.data.loading.features import BatchFeatures
from intrr_rec.models.embeddings.tables import look_up, make_collection

FEATURE_TABLE = "features"


class FeatureTable(nn.Module):
    """Rows of features.

    Args:
        rows: of all columns.
        width: D.
        device: of the rows; meta for a table that is to be sharded.
    """

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.collection = make_collection(FEATURE_TABLE, rows, width, 0.0, device)

    def forward(self, features: BatchFeatures) -> tuple[Tensor | None, Tensor | None]:
        """What the features of each slot `[T, D]` and of each item `[U, D]` add up to; None where there are none."""
        rows_RD = look_up(self.collection, FEATURE_TABLE, features.row_R)
        return tuple(None if bags is None else bags.pool(rows_RD) for bags in (features.slot, features.item))  # type: ignore[return-value]
