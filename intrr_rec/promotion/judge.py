"""Whether a candidate may take the place of the model that is served: a rule applied to figures, part by part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from intrr_rec.config.promotion import PromotionRule
from intrr_rec.promotion.compare_on import COLD_EVENTS, Comparison

CANDIDATE, CURRENT = 0, 1  # places in a comparison


@dataclass(frozen=True)
class Check:
    """One part of a rule.

    Attributes:
        passed: None where it was not judged.
        candidate, current: figures of the two.
        said: what was asked and what was found, in words.
    """

    part: str
    passed: bool | None
    candidate: float
    current: float
    said: str

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Costs:
    """What serving costs: median and 95th percentile of a request in milliseconds, bytes of the bundle; the candidate's first."""

    median_ms: tuple[float, float] | None
    p95_ms: tuple[float, float] | None
    bytes: tuple[int, int]


def judge(rule: PromotionRule, comparison: Comparison, costs: Costs) -> list[Check]:
    """The checks of a rule.

    Args:
        comparison: of the candidate with the current model, in this order.
        costs: of the two; without times where the rule does not ask for them.
    """
    checks: list[Check] = []
    if rule.accuracy is not None:
        checks += [_not_worse(comparison, name, rule.accuracy.max_loss, cold=False) for name in rule.accuracy.metrics]
    if rule.cold is not None:
        checks.append(_cold(comparison, rule))
    if rule.coverage is not None:
        candidate, current = (each.coverage for each in comparison.standings)
        passed = candidate >= (1 - rule.coverage.max_loss) * current
        said = f"coverage {candidate:.1%}, of {current:.1%} a loss of {rule.coverage.max_loss:.0%} is allowed"
        checks.append(Check("coverage", passed, candidate, current, said))
    if rule.latency is not None and costs.median_ms is not None:
        said = f"median of a request {costs.median_ms[0]:.2f} ms, {costs.median_ms[1]:.2f} ms before"
        checks.append(_ratio("latency", costs.median_ms, rule.latency.max_ratio, said))
    if rule.size is not None:
        said = f"{costs.bytes[0] / 1e6:,.1f} MB, {costs.bytes[1] / 1e6:,.1f} MB before"
        checks.append(_ratio("size", costs.bytes, rule.size.max_ratio, said))
    return checks


def _not_worse(comparison: Comparison, name: str, max_loss: float, *, cold: bool) -> Check:
    users_T = comparison.cold_T if cold else None
    candidate, current = ((each.means(users_T) or {})[name] for each in comparison.standings)
    found = comparison.difference(CANDIDATE, CURRENT, cold=cold)[name]
    bound = -max_loss * current
    said = (
        f"{name}{' of cold targets' if cold else ''} {candidate:.4f} - {current:.4f} = {found.difference:+.4f}, "
        f"95 % interval from {found.low:+.4f}, at least {bound:+.4f} is asked for"
    )
    return Check("cold" if cold else "accuracy", found.low >= bound, candidate, current, said)


def _cold(comparison: Comparison, rule: PromotionRule) -> Check:
    assert rule.cold is not None
    users = int(comparison.cold_T.sum())
    if users >= rule.cold.min_users:
        return _not_worse(comparison, rule.cold.metric, rule.cold.max_loss, cold=True)
    candidate, current = (
        (each.means(comparison.cold_T) or {}).get(rule.cold.metric, 0.0) for each in comparison.standings
    )
    said = f"not judged: {users} users have a target of fewer than {COLD_EVENTS} training events, {rule.cold.min_users} are asked for"
    return Check("cold", None, candidate, current, said)


def _ratio(part: str, of: tuple[float, float], most: float, said: str) -> Check:
    return Check(part, of[0] <= most * of[1], of[0], of[1], f"{said}; at most {most:g} times is asked for")
