"""The registry of indexers: `index.method` → Quantizer.

Shape legend: I items, D width, C width of the collaborative vectors.
"""

from __future__ import annotations

from torch import Tensor

from intrr_rec.config import IndexConfig
from intrr_rec.semantic_ids.quantizers.balanced import Balanced
from intrr_rec.semantic_ids.quantizers.exact import ALONE, Peers
from intrr_rec.semantic_ids.quantizers.quantizer import Quantizer
from intrr_rec.semantic_ids.quantizers.residual_kmeans import ResidualKMeans
from intrr_rec.semantic_ids.quantizers.residual_vq import ResidualVQ
from intrr_rec.semantic_ids.quantizers.rqvae import RqVae
from intrr_rec.semantic_ids.quantizers.vqvae import VqVae


def make_quantizer(
    config: IndexConfig, width: int, collaborative_IC: Tensor | None = None, peers: Peers = ALONE
) -> Quantizer:
    """The indexer the settings ask for, not yet fitted.

    Args:
        width: D of the vectors it will be given.
        collaborative_IC: `collaborative_vectors`, needed to fit with `collaborative.weight`, not to assign.
        peers: the ranks that fit together; see `fits_together`.
    """
    quantizer = _by_method(config, width, collaborative_IC, peers)
    return Balanced(quantizer, config.balance) if config.assignment == "balanced" else quantizer


def fits_together(config: IndexConfig) -> bool:
    """Whether ranks fit this indexer together, each from its share; the others are fitted by one rank from all vectors."""
    return config.method == "rk_means" and config.assignment == "nearest"


def _by_method(config: IndexConfig, width: int, collaborative_IC: Tensor | None, peers: Peers) -> Quantizer:
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
    if config.method == "residual_vq":
        return ResidualVQ(config, width)
    if config.method == "vq_vae":
        return VqVae(config, width)
    return RqVae(config, width, collaborative_IC)
