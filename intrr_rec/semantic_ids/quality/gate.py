"""The quality gate: Semantic IDs below a floor are not published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from intrr_rec.config import GateConfig
from intrr_rec.errors import ConfigError

ITEMS_PER_CODE = 40  # what k-means wants at least, as FAISS warns too


def require_quality(quality: Mapping[str, Any], gate: GateConfig) -> None:
    """Let good Semantic IDs pass.

    Args:
        quality: what `assess` found.

    Raises:
        ConfigError: one line naming every figure that fell short, its floor, and how to fix it or lower the floor.
    """
    faults = list(_faults(quality, gate))
    if faults:
        raise ConfigError(
            f"index.gate: the semantic ids were not published: {'; '.join(said for _, said in faults)}; fix the vectors or "
            "settings as said, or lower the floor (null takes it away): "
            + " ".join(dict.fromkeys(f"index.gate.{key}=null" for key, _ in faults))
        )


def _faults(quality: Mapping[str, Any], gate: GateConfig) -> Iterator[tuple[str, str]]:
    """(key of the floor, words) for each figure on the wrong side of its floor."""
    if gate.min_spread is not None and quality["spread"] < gate.min_spread:
        yield (
            "min_spread",
            f"spread of the vectors {quality['spread']:.2g} < {gate.min_spread:g} (they all but coincide: look at what was "
            "embedded)",
        )
    for number, level in enumerate(quality["levels"], start=1):
        fewer = _fewer_codes(quality["items"], level["codes"])
        for figure, key, cause in (
            ("usage", "min_usage", "codes lie dead: lower index.codes or restart dead ones"),
            ("entropy_ratio", "min_entropy_ratio", "a few codes take most items: look for repeated vectors"),
        ):
            floor, fix = getattr(gate, key), fewer or cause
            if floor is not None and level[figure] < floor:
                yield key, f"{figure} of level {number} {level[figure]:.3f} < {floor:g} ({fix})"
    collisions = quality["collisions"]
    fix = "raise index.codes or index.levels, or look for repeated vectors"
    if gate.max_collision_rate is not None and collisions["rate"] > gate.max_collision_rate:
        yield "max_collision_rate", f"collision rate {collisions['rate']:.3f} > {gate.max_collision_rate:g} ({fix})"
    if gate.min_distinct_rate is not None and collisions["distinct_rate"] < gate.min_distinct_rate:
        yield (
            "min_distinct_rate",
            f"distinct rate {collisions['distinct_rate']:.3f} < {gate.min_distinct_rate:g} ({fix})",
        )


def _fewer_codes(items: int, codes: int) -> str | None:
    """What to say of a catalogue too small for its codes; None of one that is not.

    With few vectors a code, residuals in many dimensions lie all but orthogonal: a code at one of them is far from all others, and
    the code at their mean takes the rest.
    """
    if items >= ITEMS_PER_CODE * codes:
        return None
    fits = max(2, 1 << (max(1, items // ITEMS_PER_CODE)).bit_length())
    return f"{items:,} items are few for {codes} codes: try index.codes={fits}" if fits < codes else None
