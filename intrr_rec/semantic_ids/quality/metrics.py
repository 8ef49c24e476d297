"""How good Semantic IDs are: use of the codes, collisions before the de-duplication digit, reconstruction, and whether items
that are alike share a prefix.

Shape legend: I items, L residual levels, K codes of a level, D width, Q queries, N neighbours of a query, P items of a
block, H queries with a new neighbour in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from intrr_rec.semantic_ids.collisions import code_groups
from intrr_rec.semantic_ids.quality.categories import Categories
from intrr_rec.semantic_ids.quantizers.quantizer import Quantizer, TensorSource, VectorSource
from intrr_rec.semantic_ids.source import RowsSource

QUERIES = 1_024
MEASURED_ITEMS = 1 << 18  # of a larger catalogue a sample of so many vectors is measured
NEIGHBOURS = 10
QUANTILES = (0.5, 0.9, 0.99)
# The scores of a block, queries × rows, stay within 32 MiB.
SCORE_ROWS = 8_192


@dataclass(frozen=True)
class Reconstruction:
    """How well the Semantic IDs stand for the vectors, in the space the quantizer documents.

    Attributes:
        relative_error: after each level, Σ‖x − x̂‖² / Σ‖x‖².
        norm_I: ‖x‖² of every item.
        left_I: its ‖x − x̂‖² after the last level.
    """

    relative_error: list[float]
    norm_I: Tensor
    left_I: Tensor


def assess(
    quantizer: Quantizer, source: VectorSource, codes_IL: Tensor, categories: Categories | None, seed: int
) -> tuple[dict[str, Any], Reconstruction]:
    """All that quality.json holds, and the reconstruction it was drawn from.

    Args:
        source: the items' vectors, all of them in this process; or those of a sample of the items, in rising order: then
            reconstruction, spread and neighbours are those of the sample, codes, collisions and categories those of all items.
        codes_IL: Semantic IDs without the de-duplication digit.
        seed: of samples and shuffles.

    Returns:
        `measure_quality`, `content_quality` and `category_purity` (None without categories) in one, with the `distance_summary` as
        `distances`.
    """
    seen_IL = codes_IL
    if isinstance(source, RowsSource):
        seen_IL, source = codes_IL[source.ids_R], TensorSource(source.x_RD)
    found = reconstruction(quantizer, source, seen_IL)
    quality = measure_quality(codes_IL, quantizer.sizes, found.relative_error)
    generator = torch.Generator().manual_seed(seed)
    quality |= content_quality(source, seen_IL, generator)
    quality["category_purity"] = category_purity(codes_IL, categories, generator) if categories else None
    return quality | {"distances": distance_summary(found.norm_I, found.left_I)}, found


def measure_quality(
    codes_IL: Tensor, codes_per_level: Sequence[int], relative_error: Sequence[float]
) -> dict[str, Any]:
    """Quality of the residual levels, as plain JSON values.

    Args:
        codes_IL: Semantic IDs without the de-duplication digit.
        codes_per_level: K of each of these levels.
        relative_error: share of the squared norm left unexplained after each level.

    Returns:
        `items`; `levels`, a list of `level_quality`, each with its `relative_error`; `relative_error` after the last level;
        `collisions`, as `collision_quality` gives them.
    """
    levels = [
        {**level_quality(codes_I, n_codes), "relative_error": error}
        for codes_I, n_codes, error in zip(codes_IL.unbind(1), codes_per_level, relative_error, strict=True)
    ]
    return {
        "items": len(codes_IL),
        "levels": levels,
        "relative_error": relative_error[-1],
        "collisions": collision_quality(codes_IL),
    }


def level_quality(codes_I: Tensor, n_codes: int) -> dict[str, Any]:
    """Use of one level's codes.

    `used` and `dead` codes, `usage` = used / K, `entropy` of the code frequencies in nats, `entropy_ratio` = entropy / ln K,
    `perplexity` = exp(entropy), `gini` of the counts (0: all codes equally used; 1 - 1/K: one code takes all), `counts`.
    """
    counts_K = torch.bincount(codes_I, minlength=n_codes)
    used = int((counts_K > 0).sum())
    share_K = counts_K.double() / counts_K.sum()
    entropy = float(torch.special.entr(share_K).sum())
    return {
        "codes": n_codes,
        "used": used,
        "dead": n_codes - used,
        "usage": used / n_codes,
        "entropy": entropy,
        "entropy_ratio": entropy / math.log(n_codes),
        "perplexity": math.exp(entropy),
        "gini": gini(counts_K),
        "counts": counts_K.tolist(),
    }


def gini(counts_K: Tensor, n: int | None = None) -> float:
    """Inequality of non-negative counts, 0 (all equal) to 1 - 1/K (one holds all): 2 Σ_k k·x_(k) / (K Σ x) - (K + 1) / K,
    x_(k) in rising order. `n`: K, where counts of zero are left out of `counts_K`."""
    n = len(counts_K) if n is None else n
    place_K = torch.arange(n - len(counts_K) + 1, n + 1, dtype=torch.float64)
    share_K = counts_K.double() / counts_K.sum()
    return 2 * float(place_K @ share_K.sort().values) / n - (n + 1) / n


def collision_quality(codes_IL: Tensor) -> dict[str, Any]:
    """Items that share all their codes.

    `distinct_sids`, `distinct_rate` = distinct Semantic IDs / I, `rate` = share of items whose codes are not theirs alone, `largest`
    = most items that share codes, `histogram`: number of items that share codes → number of such Semantic IDs (keys are strings, for JSON).
    """
    group_I, _ = code_groups(codes_IL)
    size_G = torch.bincount(group_I)
    sizes, groups = size_G.unique(return_counts=True)
    return {
        "distinct_sids": len(size_G),
        "distinct_rate": len(size_G) / len(codes_IL),
        "rate": float((size_G[group_I] > 1).double().mean()),
        "largest": int(size_G.max()),
        "histogram": {str(size): count for size, count in zip(sizes.tolist(), groups.tolist(), strict=True)},
    }


def reconstruction(quantizer: Quantizer, source: VectorSource, codes_IL: Tensor) -> Reconstruction:
    """Reconstruct every vector of a source from any residual codes."""
    norm_I, left_I = torch.empty(source.n_items), torch.empty(source.n_items)
    total = torch.zeros(1 + codes_IL.shape[1], dtype=torch.float64)
    for item_P, x_PD in source.blocks():
        distances = quantizer.distances(x_PD, codes_IL[item_P])
        total += distances.sum(0, dtype=torch.float64)
        norm_I[item_P], left_I[item_P] = distances[:, 0], distances[:, -1]
    relative = total[1:] / total[0].clamp(min=torch.finfo(torch.float64).tiny)
    return Reconstruction(relative.tolist(), norm_I, left_I)


def distance_summary(norm_I: Tensor, left_I: Tensor) -> dict[str, Any]:
    """How well codebooks reconstruct some vectors, as plain JSON values.

    Args:
        norm_I: squared norms of the vectors.
        left_I: squared distances to what their codes stand for.

    Returns:
        `items`, `relative_error` = Σ left / Σ norm, and `quantiles` of left / norm over items.
    """
    norm_I, left_I = norm_I.double(), left_I.double()
    share_I = (left_I / norm_I.clamp(min=torch.finfo(torch.float64).tiny)).numpy()
    quantiles = {str(q): float(value) for q, value in zip(QUANTILES, np.quantile(share_I, QUANTILES), strict=True)}
    error = float(left_I.sum() / norm_I.sum()) if norm_I.any() else 0.0
    return {"items": len(share_I), "relative_error": error, "quantiles": quantiles}


def content_quality(source: VectorSource, codes_IL: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """Do the Semantic IDs follow the content? As plain JSON values.

    Args:
        source: the items' vectors, all of them in this process.
        codes_IL: Semantic IDs without the de-duplication digit.
        generator: draws the items whose neighbours are looked at.

    Returns:
        `spread` of the vectors and `neighbour_purity`.
    """
    query_Q = torch.randperm(source.n_items, generator=generator)[:QUERIES].sort().values
    neighbours_QN = nearest_neighbours(source, query_Q, NEIGHBOURS)
    return {
        "spread": vector_spread(source),
        "neighbour_purity": neighbour_purity(codes_IL, query_Q, neighbours_QN),
    }


def vector_spread(source: VectorSource) -> float:
    """1 - ‖mean of the unit vectors‖²: 0 where all vectors point one way, 1 where they cancel."""
    total_D = torch.zeros(source.width, dtype=torch.float64)
    for _, x_PD in source.blocks():
        total_D += normalize(x_PD, dim=1).sum(0, dtype=torch.float64)
    return max(0.0, 1.0 - float((total_D / source.n_items).square().sum()))


def nearest_neighbours(source: VectorSource, query_Q: Tensor, n_neighbours: int) -> Tensor:
    """The items of highest cosine to each query item, itself left out: int64 `[Q, N]`, N at most I - 1.

    Exact; reads the source twice and holds one block of scores.
    """
    n_neighbours = min(n_neighbours, source.n_items - 1)
    place_I = torch.full((source.n_items,), -1)
    place_I[query_Q] = torch.arange(len(query_Q))
    queries_QD = torch.empty(len(query_Q), source.width)
    for item_P, x_PD in source.blocks():
        place_P = place_I[item_P]
        queries_QD[place_P[place_P >= 0]] = normalize(x_PD[place_P >= 0], dim=1)
    best_QN = queries_QD.new_full((len(query_Q), n_neighbours), -math.inf)
    found_QN = torch.full(best_QN.shape, -1)
    for items, vectors in source.blocks():
        for item_P, x_PD in zip(items.split(SCORE_ROWS), vectors.split(SCORE_ROWS), strict=True):
            score_QP = queries_QD @ normalize(x_PD, dim=1).T
            own_P = (place_I[item_P] >= 0).nonzero().squeeze(1)
            score_QP[place_I[item_P[own_P]], own_P] = -math.inf
            # Later blocks hold a new neighbour for ever fewer queries; only those are sorted.
            hot_H = (score_QP.amax(1) > best_QN[:, -1]).nonzero().squeeze(1)
            top_score, top_place = score_QP[hot_H].topk(min(n_neighbours, len(item_P)))
            joined_score = torch.cat([best_QN[hot_H], top_score], 1)
            joined_items = torch.cat([found_QN[hot_H], item_P[top_place]], 1)
            best_QN[hot_H], kept = joined_score.topk(n_neighbours)
            found_QN[hot_H] = joined_items.gather(1, kept)
    return found_QN


def neighbour_purity(codes_IL: Tensor, query_Q: Tensor, neighbours_QN: Tensor) -> list[dict[str, float]]:
    """A level each: `share` of (item, near neighbour) pairs with the same prefix of that length, and by `chance`.

    `chance` is that share over all pairs of different items.
    """
    found = []
    for depth in range(1, codes_IL.shape[1] + 1):
        group_I, _ = code_groups(codes_IL[:, :depth])
        same_QN = group_I[neighbours_QN] == group_I[query_Q].unsqueeze(1)
        size_G = torch.bincount(group_I).double()
        pairs = len(codes_IL) * (len(codes_IL) - 1)
        chance = float((size_G * (size_G - 1)).sum() / pairs) if pairs else 1.0
        found.append({"share": float(same_QN.double().mean()) if same_QN.numel() else 1.0, "chance": chance})
    return found


def category_purity(codes_IL: Tensor, categories: Categories, generator: torch.Generator) -> list[dict[str, float]]:
    """A level each: `share` of items in the most common category of their prefix, and by `chance`.

    `chance` is that share once categories are shuffled among the items, so a prefix of one item, always pure, earns nothing.
    Items without a category are left out.
    """
    has_I = categories.label_I >= 0
    codes_IL, label_I = codes_IL[has_I], categories.label_I[has_I]
    shuffled_I = label_I[torch.randperm(len(label_I), generator=generator)]
    found = []
    for depth in range(1, codes_IL.shape[1] + 1):
        group_I, _ = code_groups(codes_IL[:, :depth])
        found.append({"share": _majority(group_I, label_I), "chance": _majority(group_I, shuffled_I)})
    return found


def _majority(group_I: Tensor, label_I: Tensor) -> float:
    """Share of items that carry the most common label of their group."""
    n_labels = int(label_I.max()) + 1
    cell, count = (group_I * n_labels + label_I).unique(return_counts=True)
    most_G = torch.zeros(int(group_I.max()) + 1, dtype=torch.int64)
    most_G.scatter_reduce_(0, cell // n_labels, count, "amax")
    return int(most_G.sum()) / len(label_I)
