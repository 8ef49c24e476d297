"""The quantizer that `index.method` names: a built-in one, or one that a plug-in brings (`config/components.py`).

Shape legend: I items, D width, C width of the collaborative vectors.
"""

from __future__ import annotations

from torch import Tensor

from intrr_rec.config import IndexConfig, component
from intrr_rec.semantic_ids.quantizers.exact import ALONE, Peers
from intrr_rec.semantic_ids.quantizers.quantizer import Quantizer


def make_quantizer(
    config: IndexConfig, width: int, collaborative_IC: Tensor | None = None, peers: Peers = ALONE
) -> Quantizer:
    """The indexer the settings ask for, not yet fitted.

    Args:
        width: D of the vectors it will be given.
        collaborative_IC: `collaborative_vectors`, needed to fit with `collaborative.weight`, not to assign.
        peers: the ranks that fit together; see `fits_together`.
    """
    return component("quantizers", config.method).build(config, width, collaborative_IC, peers)


def fits_together(config: IndexConfig) -> bool:
    """Whether ranks fit this indexer together, each from its share; the others are fitted by one rank from all vectors."""
    return component("quantizers", config.method).fits_together
