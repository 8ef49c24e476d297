"""The rule by which a candidate takes the place of the model that is served (`intrr promote --rule`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from intrr_rec.config.recipe import read_yaml
from intrr_rec.config.section import Section, read_section

MetricName = Literal["recall@5", "recall@10", "ndcg@5", "ndcg@10"]


class AccuracyRule(Section):
    """Accuracy over all test users of the dataset."""

    metrics: tuple[MetricName, ...] = Field(("recall@10", "ndcg@10"), min_length=1, description="each must pass")
    max_loss: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of the current model's figure that the candidate may be worse by, at the lower end of the 95 % interval "
        "of the paired bootstrap",
    )


class ColdRule(Section):
    """Accuracy over the users whose target had fewer than five training events."""

    metric: MetricName = "recall@10"
    max_loss: float = Field(0.25, ge=0, lt=1, description="as that of accuracy")
    min_users: int = Field(500, ge=1, description="with fewer such users nothing is judged")


class CoverageRule(Section):
    """Share of the catalogue that is among the ten best of anyone."""

    max_loss: float = Field(0.2, ge=0, lt=1, description="share of the current model's coverage that may be lost")


class LatencyRule(Section):
    """Median time of one request, measured for both bundles in turn on the machine of the job."""

    max_ratio: float = Field(1.25, gt=0, description="of the candidate's to the current one's")
    requests: int = Field(200, ge=10, description="measured for each of the two")


class SizeRule(Section):
    """Bytes of the bundle."""

    max_ratio: float = Field(1.5, gt=0, description="of the candidate's to the current one's")


class PromotionRule(Section):
    """What a candidate must hold to be promoted; null takes a part away."""

    accuracy: AccuracyRule | None = AccuracyRule()
    cold: ColdRule | None = ColdRule()
    coverage: CoverageRule | None = CoverageRule()
    latency: LatencyRule | None = LatencyRule()
    size: SizeRule | None = SizeRule()


def load_rule(path: Path | None) -> PromotionRule:
    """The rule of a YAML file; None is the default.

    Raises:
        ConfigError: it cannot be read, an unknown key, or a value out of range.
    """
    return PromotionRule() if path is None else read_section(PromotionRule, read_yaml(path), str(path))
