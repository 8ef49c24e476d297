"""The registry of indexers: `index.method` → Quantizer.

Shape legend: D width.
"""

from __future__ import annotations

from intrr_rec.config import IndexConfig
from intrr_rec.errors import ConfigError
from intrr_rec.indexing.quantizer import Quantizer
from intrr_rec.indexing.residual_kmeans import ResidualKMeans


def make_quantizer(config: IndexConfig, width: int) -> Quantizer:
    """The indexer the settings ask for, not yet fitted.

    Args:
        width: D of the vectors it will be given.
    """
    if config.method == "rk_means":
        return ResidualKMeans(
            config.sizes,
            normalize=config.normalize,
            iterations=config.iterations,
            tolerance=config.tolerance,
            seed=config.seed,
        )
    raise ConfigError(f"index.method: {config.method} of vectors of width {width} is not available; use rk_means")
