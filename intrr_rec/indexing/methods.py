"""The registry of indexers: `index.method` → Quantizer.

Shape legend: D width.
"""

from __future__ import annotations

from intrr_rec.config import IndexConfig
from intrr_rec.errors import ConfigError
from intrr_rec.indexing.exact import ALONE, Peers
from intrr_rec.indexing.quantizer import Quantizer
from intrr_rec.indexing.residual_kmeans import ResidualKMeans


def make_quantizer(config: IndexConfig, width: int, peers: Peers = ALONE) -> Quantizer:
    """The indexer the settings ask for, not yet fitted.

    Args:
        width: D of the vectors it will be given.
        peers: the ranks that fit together; see `fits_together`.
    """
    if config.method == "rk_means":
        return ResidualKMeans(
            config.sizes,
            normalize=config.normalize,
            iterations=config.iterations,
            tolerance=config.tolerance,
            seed=config.seed,
            batch=config.batch,
            peers=peers,
        )
    raise ConfigError(f"index.method: {config.method} of vectors of width {width} is not available; use rk_means")


def fits_together(config: IndexConfig) -> bool:
    """Whether ranks fit this indexer together, each from its share; the others are fitted by one rank from all vectors."""
    return config.method == "rk_means" and config.assignment == "nearest"
