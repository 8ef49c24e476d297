"""The model that a recipe names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intrr_rec.config import ModelConfig
from intrr_rec.models.base import Recommender
from intrr_rec.models.flattened import Flattened
from intrr_rec.models.intrr import IntRR
from intrr_rec.models.sasrec import SASRec
from intrr_rec.models.tiger import Tiger


def make_model(
    config: ModelConfig,
    codes_IL: Tensor,
    codes_per_level: Sequence[int],
    content_width: int | None,
    device: torch.device,
    keys_I: Tensor | None = None,
) -> Recommender:
    """The model a recipe names, for a catalogue with these Semantic IDs; `device` is that of its tables.

    Args:
        keys_I: the items' keys (`models/embeddings/zch.py`), where `config.zch.rows`.
    """
    if config.kind == "sasrec":
        return SASRec(config.sasrec, config.dense, len(codes_IL), config.window, config.uid_std, device)
    if config.kind == "flattened":
        return Flattened(config, codes_IL, codes_per_level, device)
    if config.kind == "tiger":
        return Tiger(config.tiger, config.codebook_std, codes_IL, codes_per_level, device)
    return IntRR(config, codes_IL, codes_per_level, content_width, device, keys_I)
