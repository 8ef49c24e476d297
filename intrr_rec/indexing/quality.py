"""How good Semantic IDs are: use of the codes, collisions before the de-duplication digit, reconstruction.

Shape legend: I items, L residual levels, K codes of a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from intrr_rec.indexing.collisions import path_groups


def measure_quality(
    codes_IL: Tensor, codes_per_level: Sequence[int], relative_error: Sequence[float]
) -> dict[str, Any]:
    """Quality of the residual levels, as plain JSON values.

    Args:
        codes_IL: paths without the de-duplication digit.
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
    place_K = torch.arange(1, n_codes + 1, dtype=torch.float64)
    gini = 2 * float(place_K @ share_K.sort().values) / n_codes - (n_codes + 1) / n_codes
    return {
        "codes": n_codes,
        "used": used,
        "dead": n_codes - used,
        "usage": used / n_codes,
        "entropy": entropy,
        "entropy_ratio": entropy / math.log(n_codes),
        "perplexity": math.exp(entropy),
        "gini": gini,
        "counts": counts_K.tolist(),
    }


def collision_quality(codes_IL: Tensor) -> dict[str, Any]:
    """Items that share a full path.

    `distinct_paths`, `distinct_rate` = distinct paths / I, `rate` = share of items whose path is not theirs alone, `largest`
    = most items on one path, `histogram`: number of items on a path → number of such paths (keys are strings, for JSON).
    """
    group_I, _ = path_groups(codes_IL)
    size_G = torch.bincount(group_I)
    sizes, paths = size_G.unique(return_counts=True)
    return {
        "distinct_paths": len(size_G),
        "distinct_rate": len(size_G) / len(codes_IL),
        "rate": float((size_G[group_I] > 1).double().mean()),
        "largest": int(size_G.max()),
        "histogram": {str(size): count for size, count in zip(sizes.tolist(), paths.tolist(), strict=True)},
    }
