"""K-means over streamed vectors and any number of ranks: k-means++ seeding, Lloyd's iterations by GEMM, repair of empty
clusters, full-batch or mini-batch.

The same source, settings and seed give the same bits whatever the blocks, threads and ranks. Distances come from one matrix
product a block, whose last bits depend on its shape; so every code whose distance lies within the product's error bound of
the least is measured again, in float64 and in a fixed order, and the codes are exactly the nearest. Sums over points are
exact (see `exact`), so they have no order either.

Shape legend: I points, D width, K codes, S seeding sample, P points of a block, M points moved to empty clusters, C pairs
of a point and a code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from intrr_rec.errors import ConfigError
from intrr_rec.semantic_ids.quantizers.exact import (
    ALONE,
    Grid,
    Peers,
    hash_edge,
    hash_ids,
    mixed,
    padded_gather,
    row_sums,
)
from intrr_rec.semantic_ids.quantizers.quantizer import VectorSource
from intrr_rec.semantic_ids.source import RowsSource

# Small enough for a block's temporaries to stay in cache, large enough for the matrix product to run at speed.
BLOCK = 2_048
# Seeding reads its sample K times, so it is given no more points than pin down K centroids.
SAMPLE_PER_CODE = 64
# Of the points drawn for mini-batches in one pass over the source, over all ranks.
DRAW_BYTES = 1 << 29
# Weight of all earlier mini-batches beside the newest one.
MEMORY = 0.5


@dataclass(frozen=True)
class KMeansResult:
    """A finished fit.

    Attributes:
        inertia: sum of squared distances of all points to their centroids, when they were last assigned.
        peak: the largest size of any number in the points.
    """

    centroids_KD: Tensor
    inertia: float
    iterations: int
    peak: float


def fit_kmeans(
    source: VectorSource,
    n_codes: int,
    *,
    iterations: int,
    tolerance: float,
    seed: int,
    batch: int | None = None,
    peers: Peers = ALONE,
    on_iteration: Callable[[float], None] | None = None,
) -> KMeansResult:
    """Cluster points into `n_codes` cells. Every rank calls this with its share and gets the same result.

    Args:
        source: float32 points.
        n_codes: K.
        iterations: Lloyd iterations, at most.
        tolerance: stop once an iteration over all points lowers the inertia by less than this share of it.
        seed: of every draw; points are drawn by a hash of their ids.
        batch: points an iteration (no fewer than the seeding sample), drawn anew for each, before one last iteration over
            all points; None: all points every time.
        peers: the ranks that hold the other shares.
        on_iteration: called with the inertia of the points of each iteration.

    Raises:
        ConfigError: fewer than `n_codes` distinct points.
    """
    n_items = source.n_items
    n_sample = min(SAMPLE_PER_CODE * n_codes, n_items)
    batches = iterations if batch is not None and batch < n_items else 0
    rows = max(batch or 0, n_sample) if batches else n_sample
    a_pass = max(1, min(batches, DRAW_BYTES // (4 * source.width * rows), n_items // rows))
    parts, largest = _draw(source, a_pass, rows, key=seed << 32)
    peak = float(peers.gather_rows(torch.tensor([[largest]], dtype=torch.float64)).max())
    fit = _Fit(n_codes, peak, n_items, peers)
    centroids_KD = _seed(parts[0], n_codes, n_sample, seed << 32, peers)

    memory = _Statistics.zeros(centroids_KD)
    for step in range(batches):
        if step and step % a_pass == 0:
            parts, _ = _draw(source, a_pass, rows, key=(seed << 32) + step)
        statistics = fit.statistics(parts[step % a_pass], centroids_KD)
        if on_iteration is not None:
            on_iteration(statistics.inertia(centroids_KD))
        memory = memory.followed_by(statistics)
        centroids_KD = memory.means(centroids_KD)

    energy: Tensor | None = None
    inertia, repaired, done = math.inf, True, 0
    for done in range(1, (1 if batches else iterations) + 1):  # noqa: B007
        statistics = fit.statistics(source, centroids_KD, energy)
        energy = statistics.energy
        previous, inertia = inertia, statistics.inertia(centroids_KD)
        if on_iteration is not None:
            on_iteration(inertia)
        if not repaired and previous - inertia <= tolerance * previous:
            break
        repaired = fit.fill_empty(source, statistics, centroids_KD)
        centroids_KD = statistics.means(centroids_KD)
    return KMeansResult(centroids_KD, inertia, batches + done, peak)


def assign(x_ID: Tensor, centroids_KD: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest centroid of every point: int64 `codes_I` and squared Euclidean `distances_I`.

    A point as near to two centroids takes the one of the lower code. Memory is bounded by blocks beside the results.
    """
    nearest = Nearest(centroids_KD)
    codes_I = torch.empty(len(x_ID), dtype=torch.int64, device=x_ID.device)
    distances_I = torch.empty(len(x_ID), dtype=x_ID.dtype, device=x_ID.device)
    for start in range(0, len(x_ID), BLOCK):
        x_PD = x_ID[start : start + BLOCK]
        codes_P = nearest(x_PD)
        codes_I[start : start + BLOCK] = codes_P
        # Taken from the difference, not from the product: that cancels badly for points close to their centroid.
        distances_I[start : start + BLOCK] = row_sums(centroids_KD.index_select(0, codes_P).sub_(x_PD).square_())
    return codes_I, distances_I


class Nearest:
    """The nearest of `centroids_KD`, exactly, for blocks of points."""

    def __init__(self, centroids_KD: Tensor) -> None:
        self.centroids_KD = centroids_KD
        norms_K = row_sums(centroids_KD.double().square())
        self._norms_K = norms_K.to(centroids_KD.dtype)
        self._factors_DK = centroids_KD.T * -2
        self._longest = float(norms_K.max().sqrt())
        # A code's weight is its number plus a power of two above all numbers: a sum of weights tells how many were added.
        self._one = 1 << len(centroids_KD).bit_length()
        self._weights_K = torch.arange(len(centroids_KD), device=centroids_KD.device).to(centroids_KD.dtype) + self._one
        self._product_PK = centroids_KD.new_empty(BLOCK, len(centroids_KD))

    def __call__(self, x_PD: Tensor) -> Tensor:
        """int64 `codes_P` of at most `BLOCK` points; the lowest code where several centroids are as near."""
        # ‖c‖² − 2x·c: the squared distance but for ‖x‖², which is the same for all codes. (addmm copies the norms first,
        # at four times the price of adding them.)
        d_PK = torch.mm(x_PD, self._factors_DK, out=self._product_PK[: len(x_PD)]).add_(self._norms_K)
        # Twice the bound of the product's rounding error, |error| ≤ (D + 2) u (‖c‖² + 2 ‖x‖ ‖c‖), in any order of adding.
        reach = (x_PD.shape[1] + 4) * torch.finfo(x_PD.dtype).eps * self._longest
        norms_P = torch.linalg.vector_norm(x_PD, dim=1, keepdim=True)
        limit_P1 = d_PK.amin(1, keepdim=True).add_(reach * self._longest).add_(norms_P, alpha=2 * reach)
        near_PK = d_PK.le_(limit_P1)
        tally_P = near_PK.mv(self._weights_K)
        codes_P = tally_P.long().sub_(self._one)
        if tally_P.max() >= 2 * self._one:
            unsure_U = (tally_P >= 2 * self._one).nonzero().squeeze(1)
            codes_P[unsure_U] = self._measured(x_PD.index_select(0, unsure_U), near_PK.index_select(0, unsure_U))
        return codes_P

    def _measured(self, x_UD: Tensor, near_UK: Tensor) -> Tensor:
        """The nearest among the codes marked in `near_UK` (at least one a row), measured in float64."""
        points_C, codes_C = near_UK.nonzero().unbind(1)
        measured_UK = torch.full_like(near_UK, torch.inf, dtype=torch.float64)
        for p, c in zip(points_C.split(BLOCK), codes_C.split(BLOCK), strict=True):
            left_CD = x_UD.index_select(0, p).double().sub_(self.centroids_KD.index_select(0, c))
            measured_UK[p, c] = row_sums(left_CD.square_())
        return measured_UK.argmin(1)


@dataclass
class _Statistics:
    """Exact sums over the points of all ranks, float64: of each cluster's points, how many they are, of all ‖x‖²."""

    sums_KD: Tensor
    counts_K: Tensor
    energy: Tensor

    @classmethod
    def zeros(cls, centroids_KD: Tensor) -> _Statistics:
        """No points."""
        sums_KD = torch.zeros_like(centroids_KD, dtype=torch.float64)
        return cls(sums_KD, torch.zeros_like(sums_KD[:, 0]), torch.zeros_like(sums_KD[0, :1]))

    def followed_by(self, newest: _Statistics) -> _Statistics:
        """The newest with a fading memory of these."""
        return _Statistics(
            MEMORY * self.sums_KD + newest.sums_KD,
            MEMORY * self.counts_K + newest.counts_K,
            MEMORY * self.energy + newest.energy,
        )

    def means(self, fallback_KD: Tensor) -> Tensor:
        """Each cluster's mean; the fallback's row where it has no points."""
        counts_K1 = self.counts_K.unsqueeze(1)
        means_KD = self.sums_KD / torch.where(counts_K1 > 0, counts_K1, 1)
        return torch.where(counts_K1 > 0, means_KD.to(fallback_KD.dtype), fallback_KD)

    def inertia(self, centroids_KD: Tensor) -> float:
        """Σ‖x − c‖² = Σ‖x‖² − 2 Σ c·(Σx) + Σ n‖c‖², for the centroids that the points were assigned to."""
        c_KD = centroids_KD.double()
        terms_K = row_sums(c_KD * (self.counts_K.unsqueeze(1) * c_KD - 2 * self.sums_KD))
        return max(0.0, float(row_sums(terms_K.unsqueeze(0)) + self.energy))


@dataclass
class _Fit:
    """What every pass of one fit shares; `peak` bounds the size of every number in the vectors."""

    n_codes: int
    peak: float
    n_items: int
    peers: Peers

    def statistics(self, source: VectorSource, centroids_KD: Tensor, energy: Tensor | None = None) -> _Statistics:
        """One pass: assign, accumulate, sum over ranks; `energy` where an earlier pass over the source has found it."""
        nearest = Nearest(centroids_KD)
        width = source.width
        grid, square_grid = self._grid(width), Grid(width * self.peak**2, self.n_items)
        here = _Statistics.zeros(centroids_KD)
        for _, x_ID in source.blocks():
            for x_PD in x_ID.split(BLOCK):
                codes_P = nearest(x_PD)
                here.sums_KD.index_add_(0, codes_P, grid.round(x_PD))
                here.counts_K += torch.bincount(codes_P, minlength=self.n_codes)
                if energy is None:
                    here.energy += square_grid.round(row_sums(x_PD.square())).sum()
        flat = self.peers.sum(torch.cat([here.sums_KD.flatten(), here.counts_K, here.energy]))
        sums, counts_K, found = flat.split([self.n_codes * width, self.n_codes, 1])
        return _Statistics(sums.view(self.n_codes, width), counts_K, found if energy is None else energy)

    def fill_empty(self, source: VectorSource, statistics: _Statistics, centroids_KD: Tensor) -> bool:
        """Give each empty cluster one of the points farthest from their centroids; True where any was empty.

        Raises:
            ConfigError: no point lies off its centroid.
        """
        empty_K = (statistics.counts_K == 0).nonzero().squeeze(1)
        if not len(empty_K):
            return False
        x_MD, codes_M = self._farthest(source, centroids_KD, len(empty_K))
        if not len(x_MD):
            raise _too_few(self.n_codes, self.n_items, self.n_codes - len(empty_K))
        rounded_MD = self._grid(source.width).round(x_MD)
        statistics.sums_KD.index_add_(0, codes_M, -rounded_MD)
        statistics.counts_K -= torch.bincount(codes_M, minlength=self.n_codes)
        statistics.sums_KD[empty_K[: len(x_MD)]] = rounded_MD
        statistics.counts_K[empty_K[: len(x_MD)]] = 1
        return True

    def _farthest(self, source: VectorSource, centroids_KD: Tensor, most: int) -> tuple[Tensor, Tensor]:
        """Points (one of those at the same distance, so that copies of one point are not all taken) and their codes."""
        tiny = source.width * self._grid(source.width).step ** 2  # the grid puts a mean off its points by no more
        kept: list[Tensor] | None = None
        for ids_I, x_ID in source.blocks():
            codes_I, distances_I = assign(x_ID, centroids_KD)
            off_I = distances_I > tiny
            block = [distances_I[off_I], ids_I.to(x_ID.device)[off_I], codes_I[off_I], x_ID[off_I]]
            kept = _top(block if kept is None else [torch.cat(pair) for pair in zip(kept, block, strict=True)], most)
        if kept is None:  # a rank without vectors
            none_I = torch.empty(0, dtype=torch.int64, device=centroids_KD.device)
            kept = [centroids_KD.new_empty(0), none_I, none_I, centroids_KD.new_empty(0, source.width)]
        _, _, codes_M, x_MD = _top([padded_gather(column, self.peers) for column in kept], most)
        return x_MD, codes_M

    def _grid(self, width: int) -> Grid:
        return Grid(self.peak, self.n_items)


def _top(columns: list[Tensor], most: int) -> list[Tensor]:
    """Of (distance, id, …) rows, the `most` of greatest distance, one a distance: the one of the lowest id."""
    by_id = columns[1].argsort()
    order = by_id[columns[0][by_id].argsort(descending=True, stable=True)]
    distances = columns[0][order]
    is_first = torch.ones(len(order), dtype=torch.bool, device=order.device)
    is_first[1:] = distances[1:] != distances[:-1]
    return [column[order[is_first][:most]] for column in columns]


def _draw(source: VectorSource, parts: int, rows: int, key: int) -> tuple[list[RowsSource], float]:
    """`parts` disjoint draws of about `rows` points each by the hash of their ids, and the largest size of any number."""
    edges = torch.tensor([hash_edge((part + 1) * rows / source.n_items) for part in range(parts)])
    largest = 0.0
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for ids_I, x_ID in source.blocks():
        largest = max(largest, float(x_ID.abs().max()))
        ids_I = ids_I.to(x_ID.device)
        part_I = torch.bucketize(hash_ids(ids_I, key), edges.to(x_ID.device), right=True)
        kept = part_I < parts
        columns.append((part_I[kept], ids_I[kept], x_ID[kept]))
    if not columns:
        columns = [(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0, source.width))]
    part_R, ids_R, x_RD = (torch.cat(column) for column in zip(*columns, strict=True))
    drawn = [part_R == part for part in range(parts)]
    return [RowsSource(ids_R[mine], x_RD[mine], source.n_items) for mine in drawn], largest


def _seed(drawn: RowsSource, n_codes: int, n_sample: int, key: int, peers: Peers) -> Tensor:
    """k-means++ seeds from the sample within `drawn`, on every rank the same."""
    hash_R = hash_ids(drawn.ids_R, key)
    sampled_R = hash_R < hash_edge(n_sample / drawn.n_items)
    ids_S = padded_gather(drawn.ids_R[sampled_R], peers)
    x_SD = padded_gather(drawn.x_RD[sampled_R], peers)
    generator = torch.Generator().manual_seed(mixed(key) >> 1)
    seeds_KD = _plus_plus(x_SD[ids_S.argsort()], n_codes, generator)
    if len(seeds_KD) == n_codes:
        return seeds_KD
    if n_sample == drawn.n_items:
        raise _too_few(n_codes, n_sample, len(seeds_KD))
    # Copies of a centroid lose every tie to it: empty clusters, which take points the sample did not hold.
    return torch.cat([seeds_KD, seeds_KD[:1].expand(n_codes - len(seeds_KD), -1)])


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
        distance_S = torch.cat([row_sums((x_PD - seed_D).square_()) for x_PD in x_SD.split(BLOCK)]).double()
        nearest_S = distance_S if k == 0 else torch.minimum(nearest_S, distance_S)
    return torch.stack(seeds)


def _too_few(n_codes: int, n_items: int, distinct: int) -> ConfigError:
    if distinct == 1:
        return ConfigError(
            f"index.codes: the {n_items} vectors of this level are all equal, so they tell no item from another; embed each item by its own "
            "text, or, if only levels after the first are so, lower index.levels"
        )
    return ConfigError(
        f"index.codes: {n_codes} codes were asked for, but the {n_items} vectors of this level hold only "
        f"{distinct} distinct points; lower index.codes (or index.levels)"
    )
