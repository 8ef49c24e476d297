"""quality.json of Semantic IDs, typed."""

from __future__ import annotations

from pydantic import BaseModel


class Level(BaseModel):
    """How one residual level uses its codes; fields as in `semantic_ids.quality.metrics.level_quality`."""

    codes: int
    used: int | None = None
    dead: int | None = None
    entropy_ratio: float | None = None
    perplexity: float | None = None
    gini: float | None = None
    relative_error: float | None = None
    counts: list[int] = []


class Collisions(BaseModel):
    """Items that share their codes before the de-duplication digit; fields as in `semantic_ids.quality.metrics.collision_quality`."""

    distinct_sids: int | None = None
    distinct_rate: float | None = None
    rate: float | None = None
    largest: int | None = None
    histogram: dict[int, int] = {}


class Purity(BaseModel):
    """A share of items or pairs that go together, and what chance alone would give."""

    share: float
    chance: float


class Quality(BaseModel):
    """quality.json of the semantic-ids artefact, as far as the page shows it."""

    levels: list[Level] = []
    collisions: Collisions = Collisions()
    neighbour_purity: list[Purity] = []
    category_purity: list[Purity] | None = None
