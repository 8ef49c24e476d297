"""What logs and tables tell beside users, items and times: typed features of events, items and users.

A feature becomes whole numbers: 0 stands for a missing value, 1 for one that the vocabulary has not, the rest for values, buckets or
parts of a time (`data/features/columns.py`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from intrr_rec.config.section import Section
from intrr_rec.errors import instead

Kind = Literal["categorical", "multi_categorical", "numeric", "boolean", "timestamp_parts"]
Part = Literal["hour", "weekday", "day", "month"]
Side = Literal["event", "item", "user"]
PARTS: dict[Part, int] = {"hour": 24, "weekday": 7, "day": 31, "month": 12}
# What a setting is for; one that stands with another kind would do nothing, and is refused.
_OF_KINDS: dict[str, tuple[Kind, ...]] = {
    "size": ("categorical", "multi_categorical"),
    "hash_buckets": ("categorical", "multi_categorical"),
    "min_count": ("categorical", "multi_categorical"),
    "separator": ("multi_categorical",),
    "columns": ("multi_categorical",),
    "buckets": ("numeric",),
    "scale": ("numeric",),
    "parts": ("timestamp_parts",),
}


class FeatureConfig(Section):
    """One feature: where it stands, and how its values become whole numbers."""

    kind: Kind = Field(
        description="categorical, multi_categorical (items and users), numeric, boolean or timestamp_parts"
    )
    column: str | None = Field(None, description="column of the table; null: called as the feature")
    columns: tuple[str, ...] | None = Field(
        None, description="of multi_categorical: columns of 0 and 1, each of which is a value; in place of `column`"
    )
    separator: str | None = Field(
        None,
        description="of multi_categorical: between the values of a text; null: the column holds lists, or one value",
    )
    size: int = Field(
        1_000_000, ge=1, description="most values of a vocabulary: the most frequent ones have their own number"
    )
    min_count: int = Field(1, ge=1, description="rows that a value must stand in to have a number of its own")
    hash_buckets: int | None = Field(
        None, ge=2, le=1 << 30, description="numbers that values are hashed to, in place of a vocabulary"
    )
    buckets: int = Field(16, ge=2, le=256, description="of numeric: how many")
    scale: Literal["quantile", "log"] = Field(
        "quantile", description="of numeric: buckets of as many rows each, or equally wide in log(1 + |x|)"
    )
    parts: tuple[Part, ...] = Field(("hour", "weekday"), min_length=1, description="of timestamp_parts (UTC)")
    asked: bool = Field(
        False,
        description="of events: also given for the event to predict, when asking: the action that is asked for, or where and on "
        "what device the request is made",
    )

    @model_validator(mode="after")
    def _of_its_kind(self) -> FeatureConfig:
        for name in sorted(self.model_fields_set & set(_OF_KINDS)):
            if self.kind not in _OF_KINDS[name] and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name} is a setting of {' and '.join(_OF_KINDS[name])}, not of {self.kind}; leave it out"
                )
        if self.columns is not None and (self.column or self.separator):
            raise ValueError("columns stands in place of column and separator; leave those out")
        if self.hash_buckets is not None and (self.size, self.min_count) != (1_000_000, 1):
            raise ValueError("hash_buckets stands in place of size and min_count; leave those out")
        return self

    @model_serializer(mode="wrap")
    def _declared(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What differs from the defaults, and the kind: what a person would write."""
        written: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {key: value for key, value in written.items() if getattr(self, key) != fields[key].default}

    def column_of(self, name: str) -> str:
        """The column of a feature that is called `name`."""
        return self.column or name


class FeaturesConfig(Section):
    """Features by name. Names are unique over the three tables: requests and recipes name a feature by its name alone."""

    event: dict[str, FeatureConfig] = Field({}, description="of the interaction logs")
    item: dict[str, FeatureConfig] = Field({}, description="of the item table")
    user: dict[str, FeatureConfig] = Field({}, description="of the user table (`--users`, or `users` of a descriptor)")

    @field_validator("event", "item", "user", mode="before")
    @classmethod
    def _short_form(cls, given: object) -> object:
        """A kind alone stands for a feature of that kind; an unknown key is told with the nearest one."""
        if not isinstance(given, dict):
            return given
        found = {name: {"kind": each} if isinstance(each, str) else each for name, each in given.items()}
        for name, each in found.items():
            if isinstance(each, dict):
                _require_keys(str(name), each)
        return found

    @model_validator(mode="after")
    def _fits(self) -> FeaturesConfig:
        names = [name for side in (self.event, self.item, self.user) for name in side]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"'{twice}' is the name of two features; give one another name, and its `column`")
        for name in names:
            if not name or "." in name or "=" in name:
                raise ValueError(
                    f"'{name}' cannot name a feature; use letters and digits, and name the column by `column`"
                )
        for name, feature in self.event.items():
            if name in ("item", "time"):
                raise ValueError(
                    f"event.{name}: requests name the {name} of an event so; give it another name, and its `column`"
                )
            if feature.kind == "multi_categorical":
                raise ValueError(f"event.{name}: multi_categorical is for items and users; declare it as categorical")
        for side in ("item", "user"):
            if asked := next((name for name, each in getattr(self, side).items() if each.asked), None):
                raise ValueError(f"{side}.{asked}: asked is for features of events; leave it out")
        return self

    def __bool__(self) -> bool:
        return bool(self.event or self.item or self.user)


def _require_keys(name: str, given: dict[Any, Any]) -> None:
    for key in given:
        if key not in FeatureConfig.model_fields:
            raise ValueError(f"{name}: unknown key '{key}'{instead(str(key), FeatureConfig.model_fields)}")
    kind = given.get("kind")
    kinds = Kind.__args__  # type: ignore[attr-defined]
    if kind not in kinds:
        known = instead(str(kind), kinds) or f"; it is one of {', '.join(kinds)}"
        raise ValueError(f"{name}: {'kind is missing' if kind is None else f'unknown kind {kind!r}'}{known}")
    try:
        FeatureConfig.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join([name, *map(str, first["loc"])])
        raise ValueError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from None
