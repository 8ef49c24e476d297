"""What a recommender answers with."""

from __future__ import annotations

from typing import NamedTuple


class Recommendation(NamedTuple):
    """The best items of one user, best first: dense ids, scores, Semantic IDs."""

    items: list[int]
    scores: list[float]
    sids: list[tuple[int, ...]]


class Prefix(NamedTuple):
    """One beam of a trace: the codes so far, and their log-probability."""

    codes: tuple[int, ...]
    score: float
