"""The features a bundle reads of histories: which, how their values become numbers, and what each number adds to a slot.

features.json           the columns of events and users that the model reads, as the dataset's (`data/features/store.py`)
features.safetensors    `rows`: a row a number of each column, as a look-up gives them, float32 `[R, D]`; mapped where it is large

Features of items are part of the items' embeddings and guidance, so a bundle has no rows for them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from intrr_rec.data.features.space import Space
from intrr_rec.data.features.store import FEATURES, FeatureRecord
from intrr_rec.data.loading.features import BatchFeatures
from intrr_rec.errors import ArtefactError
from intrr_rec.io.artefact import Opened
from intrr_rec.io.formats.records import as_record
from intrr_rec.models.finite import finite

FEATURE_ROWS, ROWS = "features.safetensors", "rows"
CHUNK = 1 << 16  # rows that are written together
NONE = Space(())


class SlotFeatures:
    """Rows of the features of slots.

    Args:
        space: their columns.
        rows_RD: of each number of each column.
    """

    def __init__(self, space: Space, rows_RD: Tensor) -> None:
        self.space, self.rows_RD = space, rows_RD

    def add(self, history_TD: Tensor, features: BatchFeatures | None) -> Tensor:
        """Item embeddings of slots with what their features add."""
        if features is None or features.slot is None:
            return history_TD
        rows_RD = self.rows_RD[features.row_R.to(self.rows_RD.device)].to(history_TD.device)
        return history_TD + features.slot.pool(rows_RD)


def read_space(path: Path, opened: Opened) -> Space:
    """The columns of a bundle; none where its model reads none of histories.

    Raises:
        ArtefactError: they cannot be read.
    """
    if FEATURES not in opened.manifest.files:
        return NONE
    record = as_record(opened.json(FEATURES), FeatureRecord, f"{path}/{FEATURES}", "export the bundle again")
    return Space(record.columns)


def read_rows(path: Path, opened: Opened, space: Space, width: int, device: torch.device) -> SlotFeatures:
    """The rows of a bundle's columns.

    Raises:
        ArtefactError: they do not fit the columns, or are not finite.
    """
    rows_RD = opened.mapped(FEATURE_ROWS)[ROWS]
    if rows_RD.shape != (space.rows, width) or rows_RD.dtype != torch.float32:
        raise ArtefactError(f"{path}: {FEATURE_ROWS} is not of {space.rows} rows of {width}; export the bundle again")
    if not finite(rows_RD):
        raise ArtefactError(f"{path}: {FEATURE_ROWS} holds values that are not finite; train again, then export")
    return SlotFeatures(space, rows_RD.to(device))
