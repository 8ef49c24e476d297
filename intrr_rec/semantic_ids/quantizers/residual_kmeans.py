"""Residual k-means (RK-Means): each level clusters what the levels before it left unexplained.

Shape legend: I items, R rows of this rank, P rows of a block, D width, L levels, K codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intrr_rec.config import IndexConfig
from intrr_rec.semantic_ids.quantizers.exact import ALONE, Grid, Peers, lengths
from intrr_rec.semantic_ids.quantizers.kmeans import BLOCK, Nearest, fit_kmeans
from intrr_rec.semantic_ids.quantizers.quantizer import OnProgress, VectorSource
from intrr_rec.semantic_ids.quantizers.residual import ResidualQuantizer
from intrr_rec.semantic_ids.source import RowsSource

# A level's input of all items is kept in memory up to this size, and computed again in every pass beyond it.
KEPT_BYTES = 1 << 30


class ResidualKMeans(ResidualQuantizer):
    """A k-means a level, fitted one after another; levels as in `ResidualQuantizer`.

    The same source, settings and seed give the same codebooks and codes on any number of ranks and threads.
    """

    fits_together = True

    @classmethod
    def build(cls, config: IndexConfig, width: int, collaborative_IC: Tensor | None, peers: Peers) -> ResidualKMeans:
        """The quantizer of these settings, not fitted yet."""
        return cls(
            config.sizes,
            normalize=config.normalize,
            iterations=config.iterations,
            tolerance=config.tolerance,
            seed=config.seed,
            batch=config.batch,
            peers=peers,
        )

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        normalize: bool,
        iterations: int,
        tolerance: float,
        seed: int,
        batch: int | None = None,
        peers: Peers = ALONE,
    ) -> None:
        super().__init__(sizes, normalize=normalize)
        self.iterations = iterations
        self.tolerance = tolerance
        self.seed = seed
        self.batch = batch
        self.peers = peers

    def fit(self, source: VectorSource, on_progress: OnProgress | None = None) -> None:
        """Fit all levels. Every rank calls this with its share of the vectors.

        Raises:
            ConfigError: a level holds fewer distinct points than codes.
        """
        self.codebooks, self.relative_error = [], []
        codes: list[Tensor] = []
        inputs = _kept(_Mapped(source, lambda x_PD, rows: self._first(x_PD)[0]))
        peak = 0.0
        for level, n_codes in enumerate(self.sizes):
            result = fit_kmeans(
                inputs,
                n_codes,
                iterations=self.iterations,
                tolerance=self.tolerance,
                seed=(self.seed << 8) + level,
                batch=self.batch,
                peers=self.peers,
                on_iteration=self._reporter(level, on_progress),
            )
            peak = result.peak if level == 0 else peak
            self.codebooks.append(result.centroids_KD)
            codes.append(_codes(inputs, result.centroids_KD))
            if level + 1 < len(self.sizes):
                inputs = _kept(_Mapped(inputs, self._left_by(result.centroids_KD, codes[-1])))
        self.relative_error = self._relative_error(source, torch.stack(codes, 1), peak)

    def _left_by(self, centroids_KD: Tensor, codes_R: Tensor) -> Callable[[Tensor, slice], Tensor]:
        """From a level's input to the next one's."""

        def next_input(x_PD: Tensor, rows: slice) -> Tensor:
            left_PD = x_PD - centroids_KD.index_select(0, codes_R[rows])
            return self._next(left_PD, left_PD.new_ones(len(left_PD)))[0]

        return next_input

    def _relative_error(self, source: VectorSource, codes_RL: Tensor, peak: float) -> list[float]:
        longest = peak * source.width**0.5
        for codebook_KD in self.codebooks:
            centroid = float(lengths(codebook_KD).max())
            longest = longest * (1 + centroid) if self.normalize else longest + centroid
        grid = Grid(longest**2, source.n_items)
        total_E = torch.zeros(1 + len(self.sizes), dtype=torch.float64)
        row = 0
        for _, x_ID in source.blocks():
            for x_PD in x_ID.split(BLOCK):
                distances_PE = self.distances(x_PD, codes_RL[row : row + len(x_PD)].long())
                total_E += grid.round(distances_PE).sum(0)
                row += len(x_PD)
        total_E = self.peers.sum(total_E)
        return (total_E[1:] / total_E[0].clamp(min=torch.finfo(torch.float64).tiny)).tolist()

    def _reporter(self, level: int, on_progress: OnProgress | None) -> Callable[[float], None] | None:
        if on_progress is None:
            return None
        done = 0

        def heard(inertia: float) -> None:
            nonlocal done
            done += 1
            most = self.iterations + (self.batch is not None)
            on_progress(f"RK-Means level {level + 1}/{len(self.sizes)}", done, most, inertia)

        return heard


@dataclass(frozen=True)
class _Mapped:
    """A source whose vectors go through `function`, which is told the rows they are among this rank's."""

    below: VectorSource
    function: Callable[[Tensor, slice], Tensor]

    @property
    def n_items(self) -> int:
        return self.below.n_items

    @property
    def width(self) -> int:
        return self.below.width

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        row = 0
        for ids_P, x_PD in self.below.blocks():
            yield ids_P, self.function(x_PD, slice(row, row + len(x_PD)))
            row += len(x_PD)


def _kept(source: VectorSource) -> VectorSource:
    """The source, in memory where it may be."""
    if 4 * source.width * source.n_items > KEPT_BYTES:
        return source
    ids = [torch.empty(0, dtype=torch.int64)]
    x = [torch.empty(0, source.width)]
    for ids_P, x_PD in source.blocks():
        ids.append(ids_P)
        x.append(x_PD)
    return RowsSource(torch.cat(ids), torch.cat(x), source.n_items)


def _codes(source: VectorSource, centroids_KD: Tensor) -> Tensor:
    """int32 `codes_R` of this rank's rows."""
    nearest = Nearest(centroids_KD)
    found = [nearest(x_PD).int() for _, x_ID in source.blocks() for x_PD in x_ID.split(BLOCK)]
    return torch.cat([torch.empty(0, dtype=torch.int32), *found])
