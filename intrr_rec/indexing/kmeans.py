"""K-means in blocks: k-means++ seeding, Lloyd's iterations by GEMM, repair of empty clusters.

Distances come from ‖c‖² − 2x·c (one matrix product a block, so memory does not grow with the number of points), sums are
accumulated in float64, and every random draw comes from the generator given: the same points, seed, machine and number
of threads give the same bits.

Shape legend: I points, D width, K codes, S seeding sample, P points of a block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from intrr_rec.errors import ConfigError

# Small enough for a block's temporaries to stay in cache, large enough for the matrix product to run at speed.
BLOCK = 2_048
# Seeding reads its sample K times, so it is given no more points than pin down K centroids.
SAMPLE_PER_CODE = 256


@dataclass(frozen=True)
class KMeansResult:
    """A finished fit. `inertia` is the sum of squared distances of all points to their centroids."""

    centroids_KD: Tensor
    codes_I: Tensor
    distances_I: Tensor
    inertia: float
    iterations: int


def fit_kmeans(
    x_ID: Tensor,
    n_codes: int,
    *,
    iterations: int,
    tolerance: float,
    generator: torch.Generator,
    on_iteration: Callable[[float], None] | None = None,
) -> KMeansResult:
    """Cluster points into `n_codes` cells.

    Args:
        x_ID: float points.
        n_codes: K.
        iterations: Lloyd iterations, at most.
        tolerance: stop once an iteration lowers the inertia by less than this share of it.
        generator: source of all randomness, a CPU generator.
        on_iteration: called with the inertia after each iteration's assignment.

    Raises:
        ConfigError: fewer than `n_codes` distinct points.
    """
    centroids_KD = _seed(x_ID, n_codes, generator)
    codes_I, distances_I = assign(x_ID, centroids_KD)
    inertia = _total(distances_I)
    done = 0
    for done in range(1, iterations + 1):  # noqa: B007
        repaired = _fill_empty(codes_I, distances_I, n_codes)
        centroids_KD = _means(x_ID, codes_I, n_codes, centroids_KD)
        codes_I, distances_I = assign(x_ID, centroids_KD)
        previous, inertia = inertia, _total(distances_I)
        if on_iteration is not None:
            on_iteration(inertia)
        if not repaired and previous - inertia <= tolerance * previous:
            break
    return KMeansResult(centroids_KD, codes_I, distances_I, inertia, done)


def assign(x_ID: Tensor, centroids_KD: Tensor, *, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """Nearest centroid of every point: int64 `codes_I` and squared Euclidean `distances_I`.

    `block` bounds memory: `block × (K + D)` numbers beside the results.
    """
    codes_I = torch.empty(len(x_ID), dtype=torch.int64, device=x_ID.device)
    distances_I = torch.empty(len(x_ID), dtype=x_ID.dtype, device=x_ID.device)
    norms_K = centroids_KD.square().sum(1)
    for start in range(0, len(x_ID), block):
        rows = slice(start, start + block)
        x_PD = x_ID[rows]
        codes_P = torch.addmm(norms_K, x_PD, centroids_KD.T, alpha=-2).argmin(1)
        codes_I[rows] = codes_P
        # Taken from the difference, not from the product: that cancels badly for points close to their centroid.
        distances_I[rows] = centroids_KD.index_select(0, codes_P).sub_(x_PD).square_().sum(1)
    return codes_I, distances_I


def _seed(x_ID: Tensor, n_codes: int, generator: torch.Generator) -> Tensor:
    n_sample = SAMPLE_PER_CODE * n_codes
    if len(x_ID) > n_sample:
        chosen_S = torch.randperm(len(x_ID), generator=generator)[:n_sample].to(x_ID.device)
        seeds_KD = _plus_plus(x_ID[chosen_S], n_codes, generator)
        if len(seeds_KD) == n_codes:
            return seeds_KD
    seeds_KD = _plus_plus(x_ID, n_codes, generator)
    if len(seeds_KD) < n_codes:
        raise ConfigError(
            f"index.codes: {n_codes} codes were asked for, but the {len(x_ID)} vectors of this level hold only "
            f"{len(seeds_KD)} distinct points; lower index.codes (or index.levels)"
        )
    return seeds_KD


def _plus_plus(x_SD: Tensor, n_codes: int, generator: torch.Generator) -> Tensor:
    """k-means++ (Arthur & Vassilvitskii 2007): each seed is drawn in proportion to D², its squared distance to the rest.

    Returns fewer than `n_codes` seeds where the points hold fewer distinct ones.
    """
    seeds: list[Tensor] = []
    nearest_S = torch.ones(len(x_SD), dtype=torch.float64, device=x_SD.device)
    draws_K = torch.rand(n_codes, dtype=torch.float64, generator=generator).to(x_SD.device)
    for k in range(n_codes):
        mass_S = nearest_S.cumsum(0)
        if not mass_S[-1] > 0:
            break
        # right=True: a point of no mass (a duplicate of a seed) is never drawn, not even by a draw of exactly 0.
        point = torch.searchsorted(mass_S, draws_K[k] * mass_S[-1], right=True).clamp(max=len(x_SD) - 1)
        seed_D = x_SD[point]
        seeds.append(seed_D)
        distance_S = torch.cat([(x_PD - seed_D).square_().sum(1) for x_PD in x_SD.split(BLOCK)]).double()
        nearest_S = distance_S if k == 0 else torch.minimum(nearest_S, distance_S)
    return torch.stack(seeds)


def _fill_empty(codes_I: Tensor, distances_I: Tensor, n_codes: int) -> bool:
    """Give each empty cluster one of the points farthest from their centroids, in place; True where any was empty."""
    empty_K = (torch.bincount(codes_I, minlength=n_codes) == 0).nonzero().squeeze(1)
    if not len(empty_K):
        return False
    codes_I[distances_I.topk(len(empty_K)).indices] = empty_K
    return True


def _means(x_ID: Tensor, codes_I: Tensor, n_codes: int, fallback_KD: Tensor) -> Tensor:
    sums_KD = torch.zeros(n_codes, x_ID.shape[1], dtype=torch.float64, device=x_ID.device)
    for start in range(0, len(x_ID), BLOCK):
        sums_KD.index_add_(0, codes_I[start : start + BLOCK], x_ID[start : start + BLOCK].double())
    counts_K1 = torch.bincount(codes_I, minlength=n_codes).unsqueeze(1)
    means_KD = (sums_KD / counts_K1.clamp(min=1)).to(x_ID.dtype)
    return torch.where(counts_K1 > 0, means_KD, fallback_KD)


def _total(distances_I: Tensor) -> float:
    return float(distances_I.sum(dtype=torch.float64))
