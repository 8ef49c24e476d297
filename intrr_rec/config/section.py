"""What every group of settings is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from intrr_rec.errors import ConfigError, instead


class Section(BaseModel):
    """A group of settings: immutable, no unknown keys, finite numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Section)


def as_name(given: object) -> object:
    """A number that YAML made of a name is that name; which word a truth value was cannot be known."""
    if isinstance(given, bool):
        word = str(given).lower()
        raise ValueError(f"YAML reads {word} as a truth value; put it in quotes, as in '{word}'")
    return str(given) if isinstance(given, int | float) else given


def read_section(section: type[S], settings: Mapping[str, Any], where: str) -> S:
    """Settings that stand alone, validated.

    Args:
        where: named in errors.

    Raises:
        ConfigError: an unknown key, with the nearest name, or a value that does not fit.
    """
    try:
        return section.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{where}: unknown key '{key}'{instead(key, section.model_fields)}") from None
        raise ConfigError(f"{where}: '{key}': {first['msg'].removeprefix('Value error, ')}") from None
