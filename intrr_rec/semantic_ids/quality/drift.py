"""Drift: how far a grown catalogue has moved from the vectors its codebooks were fitted on.

Always against the fit (version 1), not against the version before, so that many small steps add up instead of hiding.

Shape legend: I items, L residual levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from intrr_rec.config import DriftConfig
from intrr_rec.semantic_ids.collisions import code_groups
from intrr_rec.semantic_ids.quality.metrics import distance_summary

FAR = "0.99"


def measure_drift(
    reference: Mapping[str, Any],
    norm_I: Tensor,
    left_I: Tensor,
    codes_IL: Tensor,
    since_I: Tensor,
    version: int,
    config: DriftConfig,
) -> dict[str, Any]:
    """Compare today's vectors with those of the fit, as plain JSON values.

    Args:
        reference: `distance_summary` of the fit.
        norm_I: squared norms of the live items' vectors today.
        left_I: their squared distances to what the published Semantic IDs stand for.
        codes_IL: of these Semantic IDs, residual codes only.
        since_I: version each item came with.
        version: number of the version being made.

    Returns:
        `reference`; `groups`: of the items of the fit that still live (`fitted`), of all added since (`added`) and of this
        version's (`newcomers`), each with its summary, `error_ratio` = relative error over the fit's, `beyond` = share of
        items farther than the fit's 99th percentile, `collision_rate` = share of items that some other item shares its
        residual codes with; None for a group of no items. `due`, and `verdict` in words.
    """
    group_I, _ = code_groups(codes_IL)
    shares_I = torch.bincount(group_I)[group_I] > 1
    masks = {"fitted": since_I == 1, "added": since_I > 1, "newcomers": since_I == version}

    def measure(mask_I: Tensor) -> dict[str, Any] | None:
        if not mask_I.any():
            return None
        summary = distance_summary(norm_I[mask_I], left_I[mask_I])
        beyond_I = left_I[mask_I].double() > reference["quantiles"][FAR] * norm_I[mask_I].double()
        base = reference["relative_error"]
        return {
            **summary,
            "error_ratio": summary["relative_error"] / base if base else 1.0,
            "beyond": float(beyond_I.double().mean()),
            "collision_rate": float(shares_I[mask_I].double().mean()),
        }

    groups = {name: measure(mask_I) for name, mask_I in masks.items()}
    due, verdict = _judge(groups, config)
    return {
        "reference": dict(reference),
        "groups": groups,
        "thresholds": config.model_dump(),
        "due": due,
        "verdict": verdict,
    }


def _judge(groups: Mapping[str, Mapping[str, Any] | None], config: DriftConfig) -> tuple[bool, str]:
    """Is a re-index due, and the line that says why. Items of the fit count too: their vectors may have been made anew."""
    reasons, seen = [], []
    for name, said in (("added", "added since the fit"), ("fitted", "of the fit")):
        group = groups[name]
        if group is None:
            continue
        seen.append(
            f"{group['items']:,} items {said}: error {group['error_ratio']:.2f} × the fit's, {group['beyond']:.1%} beyond "
            "its 99th percentile"
        )
        if group["items"] < config.min_items:
            seen[-1] += f" (fewer than index.drift.min_items {config.min_items}: not judged)"
            continue
        for figure, key in (("error_ratio", "max_error_ratio"), ("beyond", "max_beyond")):
            limit = getattr(config, key)
            if limit is not None and group[figure] > limit:
                reasons.append(f"{figure} {group[figure]:.3g} of items {said} > index.drift.{key} {limit:g}")
    verdict = f"re-index due ({'; '.join(reasons)})" if reasons else "no re-index due"
    return bool(reasons), f"drift: {verdict}. {'; '.join(seen)}"
