"""Which events are targets: those that a model is taught to predict and is measured by. All others are read, never predicted."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, ValidationError, model_validator

from intrr_rec.config.logs.features import FeaturesConfig
from intrr_rec.config.section import Section
from intrr_rec.errors import instead


class Range(Section):
    """Numbers from `at_least` on that are below `below`; one of the two may be left out."""

    at_least: float | None = Field(None, description="the least number")
    below: float | None = Field(None, description="the first number that is too large")

    @model_validator(mode="after")
    def _holds_something(self) -> Range:
        if self.at_least is None and self.below is None:
            raise ValueError("give at_least, below or both")
        if self.at_least is not None and self.below is not None and self.at_least >= self.below:
            raise ValueError("holds no number; at_least must be less than below")
        return self


Condition = Range | tuple[str, ...]


def read_conditions(given: Mapping[str, object], what: str) -> dict[str, Condition]:
    """Conditions as a person writes them: a value, a list of values, or a range, by name.

    Raises:
        ValueError: one that is none of these; `what` names the setting.
    """
    return {str(name): _read(condition, f"{what}.{name}") for name, condition in given.items()}


def _read(given: object, where: str) -> Condition:
    if isinstance(given, Range):
        return given
    if isinstance(given, dict):
        for key in given:
            if key not in Range.model_fields:
                raise ValueError(f"{where}: unknown key '{key}'{instead(str(key), Range.model_fields)}")
        try:
            return Range.model_validate(given)
        except ValidationError as error:
            raise ValueError(f"{where}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    entries = given if isinstance(given, list | tuple) else [given]
    if not entries or any(isinstance(each, dict | list | tuple) or each is None for each in entries):
        raise ValueError(f"{where}: give a value, a list of values, or a range such as {{at_least: 4}}")
    return tuple(str(each).lower() if isinstance(each, bool) else str(each) for each in entries)


def require_targets(targets: Mapping[str, Condition], features: FeaturesConfig) -> None:
    """Refuse conditions that no feature of events can answer.

    Raises:
        ValueError: which, and what to write.
    """
    for name, condition in targets.items():
        feature = features.event.get(name)
        if feature is None:
            known = instead(name, features.event) or "; declare it in prepare.features.event"
            raise ValueError(f"targets.{name}: no such feature of events{known}")
        if feature.kind == "timestamp_parts":
            raise ValueError(f"targets.{name}: is timestamp_parts; name a categorical, numeric or boolean feature")
        if feature.kind == "boolean" and (isinstance(condition, Range) or not set(condition) <= {"true", "false"}):
            raise ValueError(f"targets.{name}: is boolean; give true or false")
        if feature.kind == "numeric" and not isinstance(condition, Range):
            raise ValueError(f"targets.{name}: is numeric; give a range such as {{at_least: 4}}")
