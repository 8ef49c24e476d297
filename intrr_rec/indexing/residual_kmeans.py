"""Residual k-means (RK-Means): each level clusters what the levels before it left unexplained.

Shape legend: I items, D width, L levels, K codes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import normalize

from intrr_rec.indexing.kmeans import assign, fit_kmeans


class ResidualKMeans:
    """Vectors → L codes each.

    With `normalize` on, the input of every level, the vector itself included, is L2-normalised and the residual is taken
    from the normalised vector, so that every level clusters directions. Off, it is plain residual quantisation.

    Attributes:
        codebooks: L centroid tables `[K, D]`, in the space their level clusters.
        relative_error: after each level, Σ‖x − x̂‖² / Σ‖x‖² over the fitted vectors. With `normalize`, x is the normalised
            vector and x̂ puts every level's centroid back at the length its residual had, which the codes alone do not
            carry: compare it between levels rather than with a plain fit.
    """

    def __init__(
        self, levels: int, n_codes: int, *, normalize: bool, iterations: int, tolerance: float, seed: int
    ) -> None:
        self.levels = levels
        self.n_codes = n_codes
        self.normalize = normalize
        self.iterations = iterations
        self.tolerance = tolerance
        self.seed = seed
        self.codebooks: list[Tensor] = []
        self.relative_error: list[float] = []

    def fit(self, vectors_ID: Tensor, on_iteration: Callable[[int, float], None] | None = None) -> ResidualKMeans:
        """Fit all levels, one after another. `on_iteration` hears (level, inertia).

        Raises:
            ConfigError: a level holds fewer distinct points than codes.
        """
        generator = torch.Generator().manual_seed(self.seed)
        self.codebooks, self.relative_error = [], []
        residual_ID, scale_I = self._first(vectors_ID)
        energy = float(residual_ID.square().sum(dtype=torch.float64))
        for level in range(self.levels):
            heard = None if on_iteration is None else _at_level(on_iteration, level)
            result = fit_kmeans(
                residual_ID,
                self.n_codes,
                iterations=self.iterations,
                tolerance=self.tolerance,
                generator=generator,
                on_iteration=heard,
            )
            self.codebooks.append(result.centroids_KD)
            left = float((scale_I.square() * result.distances_I).sum(dtype=torch.float64))
            self.relative_error.append(left / energy if energy else 0.0)
            residual_ID, scale_I = self._next(residual_ID - result.centroids_KD[result.codes_I], scale_I)
        return self

    def assign(self, vectors_ID: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of any vectors under the fitted codebooks.

        Returns:
            int64 `codes_IL` and `distances_I`, the squared distance between x and x̂ as `relative_error` means them.
        """
        codes = []
        residual_ID, scale_I = self._first(vectors_ID)
        distances_I = residual_ID.square().sum(1)
        for codebook_KD in self.codebooks:
            codes_I, level_distances_I = assign(residual_ID, codebook_KD)
            codes.append(codes_I)
            distances_I = scale_I.square() * level_distances_I
            residual_ID, scale_I = self._next(residual_ID - codebook_KD[codes_I], scale_I)
        return torch.stack(codes, 1), distances_I

    def _first(self, vectors_ID: Tensor) -> tuple[Tensor, Tensor]:
        """The first level's input, and the length one unit of it stands for: 1."""
        unit_I = vectors_ID.new_ones(len(vectors_ID))
        return (normalize(vectors_ID, dim=1) if self.normalize else vectors_ID), unit_I

    def _next(self, x_ID: Tensor, scale_I: Tensor) -> tuple[Tensor, Tensor]:
        """A later level's input, and the length one unit of it stands for in the first level's input."""
        if not self.normalize:
            return x_ID, scale_I
        return normalize(x_ID, dim=1), scale_I * x_ID.norm(dim=1)


def _at_level(on_iteration: Callable[[int, float], None], level: int) -> Callable[[float], None]:
    return lambda inertia: on_iteration(level, inertia)
