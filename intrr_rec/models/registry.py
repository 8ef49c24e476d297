"""The backbone that the settings name.

All take packed tokens `[T, D]` and their layout, and return states `[T, D]`, or those of the slots asked for; `prefill` and
`step` read on token by token.
"""

from __future__ import annotations

from intrr_rec.config import ModelConfig
from intrr_rec.models.backbones.hstu import Hstu
from intrr_rec.models.backbones.hstu_released import ReleasedHstu
from intrr_rec.models.backbones.t5 import T5

Backbone = Hstu | ReleasedHstu | T5


def make_backbone(config: ModelConfig, window: int) -> Backbone:
    """A freshly initialised backbone for histories of at most `window` tokens."""
    if config.backbone == "t5":
        return T5(config.t5)
    return Hstu(config.hstu, window) if config.backbone == "hstu" else ReleasedHstu(config.hstu)
