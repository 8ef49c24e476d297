"""What a backbone is, and the one that the settings name.

Shape suffixes: T token slots, S of them asked for, D width, B users, W beams, C blocks, N slots of a block, H heads, F width
of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from intrr_rec.config import BackboneConfig, ModelConfig, component
from intrr_rec.data.loading.batch import Layout
from intrr_rec.models.backbones.kv_cache import Cache, KeysValues


class Backbone(nn.Module, ABC):
    """Packed tokens and their layout → causal states; reads on token by token from a cache.

    A subclass is made as `MyBackbone(config, window)`, `config` being of its class `Config`.

    Attributes:
        Config: its settings, a subclass of `BackboneConfig` whose every field has a default.
    """

    Config: ClassVar[type[BackboneConfig]]

    def forward(self, x_TD: Tensor, layout: Layout, at_S: Tensor | None = None) -> Tensor:
        """Tokens `[T, D]` → states `[T, D]`, one causal pass within each history of `layout`.

        Args:
            at_S: the slots whose states are asked for; with it, states are `[S, D]`.
        """
        return self.prefill(x_TD, layout, at_S)[0]

    @abstractmethod
    def prefill(self, x_TD: Tensor, layout: Layout, at_S: Tensor | None = None) -> tuple[Tensor, list[KeysValues]]:
        """`forward`, and each layer's keys and values `[C, H, N, F]`."""

    @abstractmethod
    def step(self, x_BWD: Tensor, cache: Cache) -> Tensor:
        """States `[B, W, D]` of one more token a beam, which joins the cache."""


def make_backbone(config: ModelConfig, window: int) -> Backbone:
    """A freshly initialised backbone for histories of at most `window` tokens.

    Raises:
        ConfigError: `config.backbone` names no backbone.
    """
    return component("backbones", config.backbone)(config.backbone_settings, window)
