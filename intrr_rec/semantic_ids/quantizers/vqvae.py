"""A true VQ-VAE (van den Oord et al. 2017) with L codes an item: each level quantises its own slice of the latent.

Slices, because residual levels over one latent would make it RQ-VAE by another name. What it costs: levels stand side by
side, so a longer prefix is not a finer meaning of the shorter one as it is in the residual methods.
"""

from __future__ import annotations

from intrr_rec.semantic_ids.quantizers.rqvae import RqVae


class VqVae(RqVae):
    """`RqVae` with its latent cut into L slices, one a codebook."""

    NAME = "VQ-VAE"
    PRODUCT = True
