"""The model that a recipe names: a built-in kind, or one that a plug-in brings (`config/components.py`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from intrr_rec.config import ModelConfig, component
from intrr_rec.models.base import Catalogue, Recommender


def model_class(config: ModelConfig) -> type[Recommender]:
    """The class of the kind of model that a recipe names.

    Raises:
        ConfigError: `config.kind` names no kind of model.
    """
    return component("models", config.kind)


def make_model(
    config: ModelConfig,
    codes_IL: Tensor,
    codes_per_level: Sequence[int],
    content_width: int | None,
    device: torch.device,
    keys_I: Tensor | None = None,
    feature_rows: int = 0,
) -> Recommender:
    """The model a recipe names, for a catalogue with these Semantic IDs; `device` is that of its tables.

    Args:
        keys_I: the items' keys (`models/embeddings/zch.py`), where `config.zch.rows`.
        feature_rows: of the table of features; 0: the model reads none.
    """
    catalogue = Catalogue(codes_IL, codes_per_level, content_width, keys_I, device, feature_rows)
    return model_class(config).build(config, catalogue)
