"""Residual vector quantisation without an autoencoder: what the paper's code calls VQ-VAE.

The codewords of all levels learn at once, by gradient or moving average, from the vectors themselves. With no encoder to
hold to its code, the commitment term has no effect.

Shape legend: B items of a batch, D width, L levels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intrr_rec.config import IndexConfig
from intrr_rec.semantic_ids.quantizers.autoencoder import (
    Codebooks,
    Quantized,
    codebook_loss,
    default_device,
    epoch_reporter,
    learn,
)
from intrr_rec.semantic_ids.quantizers.exact import Peers
from intrr_rec.semantic_ids.quantizers.quantizer import OnProgress, VectorSource, relative_error, sample_rows
from intrr_rec.semantic_ids.quantizers.residual import ResidualQuantizer


class ResidualVQ(ResidualQuantizer):
    """Residual codebooks learned by gradient descent or moving averages; levels as in `ResidualQuantizer`."""

    @classmethod
    def build(cls, config: IndexConfig, width: int, collaborative_IC: Tensor | None, peers: Peers) -> ResidualVQ:
        """The quantizer of these settings, not fitted yet."""
        return cls(config, width)

    def __init__(self, config: IndexConfig, width: int) -> None:
        super().__init__(config.sizes, normalize=config.normalize)
        self.config = config
        self.width = width

    def fit(self, source: VectorSource, on_progress: OnProgress | None = None) -> None:
        """Learn the codebooks.

        Raises:
            ConfigError: the vectors they begin from hold fewer distinct points than codes.
        """
        config = self.config
        generator = torch.Generator().manual_seed(config.seed)
        codebooks = Codebooks(self.sizes, self.width, normalize=self.normalize).to(default_device())
        codebooks.initialise(sample_rows(source).to(codebooks.scale_L.device), generator)

        def loss(ids_B: Tensor, x_BD: Tensor, quantized: Quantized) -> tuple[Tensor, Tensor]:
            last_BD = quantized.inputs[-1] - quantized.chosen[-1]
            return codebook_loss(quantized, config.training), last_BD.square().sum(1).mean()

        learn(
            source,
            codebooks,
            config.training,
            encode=lambda x_BD: x_BD,
            loss=loss,
            parameters=list(codebooks.tables),
            generator=generator,
            report=epoch_reporter("Residual VQ", config.training.epochs, on_progress),
        )
        self.codebooks = [table_KD.detach().cpu() for table_KD in codebooks.tables]
        self.relative_error = relative_error(self, source)
