"""Codewords that are vectors of the catalogue, drawn at random: what k-means has to beat.

Shape legend: S sampled items, D width, K codes, l levels so far.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from intrr_rec.config import IndexConfig, Section
from intrr_rec.errors import ConfigError
from intrr_rec.semantic_ids.quantizers.exact import Peers
from intrr_rec.semantic_ids.quantizers.quantizer import OnProgress, VectorSource, relative_error, sample_rows
from intrr_rec.semantic_ids.quantizers.residual import ResidualQuantizer


class SampledCodesConfig(Section):
    """Settings of the section `index.sampled_codes`."""

    draws: int = Field(1, ge=1, description="draws per level, of which the one with the least squared error is kept")


class SampledCodes(ResidualQuantizer):
    """Residual codebooks of drawn vectors; levels as in `ResidualQuantizer`."""

    Config: ClassVar[type[Section]] = SampledCodesConfig

    def __init__(self, config: IndexConfig, draws: int) -> None:
        super().__init__(config.sizes, normalize=config.normalize)
        self.seed = config.seed
        self.draws = draws

    @classmethod
    def build(cls, config: IndexConfig, width: int, collaborative_IC: Tensor | None, peers: Peers) -> SampledCodes:
        """The quantizer of these settings, not fitted yet."""
        own = config.of("method")
        assert isinstance(own, SampledCodesConfig)
        return cls(config, own.draws)

    def fit(self, source: VectorSource, on_progress: OnProgress | None = None) -> None:
        """Draw the codewords of one level after another from what the levels before it left.

        Raises:
            ConfigError: a level is left with fewer distinct points than codes.
        """
        x_SD, self.codebooks = sample_rows(source), []
        codes_Sl = torch.empty(len(x_SD), 0, dtype=torch.int64)
        generator = torch.Generator().manual_seed(self.seed)
        for level, n_codes in enumerate(self.sizes):
            points_SD = self.level_input(x_SD, codes_Sl).unique(dim=0)
            if len(points_SD) < n_codes:
                raise ConfigError(
                    f"index.codes: level {level + 1} has {n_codes} codes for {len(points_SD)} distinct points"
                )
            drawn = [
                points_SD[torch.randperm(len(points_SD), generator=generator)[:n_codes]] for _ in range(self.draws)
            ]
            input_SD = self.level_input(x_SD, codes_Sl)
            distances = [torch.cdist(input_SD, codebook_KD) for codebook_KD in drawn]
            best = min(range(self.draws), key=lambda draw: float(distances[draw].amin(1).square().sum()))
            self.codebooks.append(drawn[best])
            codes_Sl = torch.cat([codes_Sl, distances[best].argmin(1, keepdim=True)], 1)
            if on_progress is not None:
                on_progress("Sampled codes", level + 1, len(self.sizes), float(distances[best].amin(1).mean()))
        self.relative_error = relative_error(self, source)
