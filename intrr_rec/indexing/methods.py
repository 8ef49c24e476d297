"""The registry of indexers: `index.method` → Quantizer.

Shape legend: I items, D width.
"""

from __future__ import annotations

import torch

from intrr_rec.config import IndexConfig
from intrr_rec.errors import ConfigError
from intrr_rec.indexing.quantizer import OnProgress, Quantizer, VectorSource
from intrr_rec.indexing.residual import ResidualQuantizer
from intrr_rec.indexing.residual_kmeans import ResidualKMeans


def make_quantizer(config: IndexConfig, width: int) -> Quantizer:
    """The indexer the settings ask for, not yet fitted.

    Args:
        width: D of the vectors it will be given.
    """
    if config.method == "rk_means":
        return RKMeans(config)
    raise ConfigError(f"index.method: {config.method} of vectors of width {width} is not available; use rk_means")


class RKMeans(ResidualQuantizer):
    """Residual k-means behind the interface of indexers."""

    def __init__(self, config: IndexConfig) -> None:
        super().__init__(config.sizes, normalize=config.normalize)
        self.config = config

    def fit(self, source: VectorSource, on_progress: OnProgress | None = None) -> None:
        """Fit level after level.

        Raises:
            ConfigError: a level holds fewer distinct points than codes.
        """
        config = self.config
        if len(set(self.sizes)) > 1:
            raise ConfigError("index.codes: rk_means needs one size for all levels; give one number")
        means = ResidualKMeans(
            config.levels,
            self.sizes[0],
            normalize=config.normalize,
            iterations=config.iterations,
            tolerance=config.tolerance,
            seed=config.seed,
        )
        done: dict[int, int] = {}

        def on_iteration(level: int, inertia: float) -> None:
            done[level] = done.get(level, 0) + 1
            if on_progress is not None:
                what = f"RK-Means level {level + 1}/{config.levels}"
                on_progress(what, done[level], config.iterations, inertia)

        means.fit(torch.cat([x_PD for _, x_PD in source.blocks()]), on_iteration)
        self.codebooks, self.relative_error = means.codebooks, means.relative_error
