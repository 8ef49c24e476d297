"""Every setting in words: key, type, default and meaning (`intrr settings`, docs/settings.md).

What is listed is read from the settings' own classes; those of plug-ins are left out, which their packages describe.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from intrr_rec.config.recipe import Recipe
from intrr_rec.config.section import Section
from intrr_rec.errors import ConfigError, instead

_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


@dataclass(frozen=True)
class Setting:
    """A setting: `key` as a command line takes it, the rest in words."""

    key: str
    type: str
    default: str
    meaning: str


def settings_of(section: str | None = None) -> list[Setting]:
    """The settings of a section, such as `train` or `model.hstu`, or of all; one that is named by its whole key stands alone.

    Raises:
        ConfigError: no such section or setting.
    """
    listed = list(_below(Recipe, ""))
    if section is None:
        return listed
    found = [each for each in listed if each.key == section or each.key.startswith(f"{section}.")]
    if not found:
        known = {part for each in listed for part in _prefixes(each.key)}
        raise ConfigError(f"settings: there is no '{section}'{instead(section, sorted(known))}")
    return found


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _below(section: type[Section], prefix: str) -> Iterator[Setting]:
    for name, field in section.model_fields.items():
        key, kind = f"{prefix}{name}", field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from _below(kind, f"{key}.")
        else:
            default = field.get_default(call_default_factory=True)
            yield Setting(key, _kind_of(field), _in_words(default), field.description or "")


def _kind_of(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(each, name):g}"
        for each in field.metadata
        for name, sign in _BOUNDS.items()
        if hasattr(each, name)
    ]
    return ", ".join([_type(field.annotation), *bounds])


def _type(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _type(inner[0])
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " or ".join(map(_type, inner))
    if origin is tuple:
        several = inner[-1] is Ellipsis
        return f"list of {_type(inner[0])}" if several else f"[{', '.join(map(_type, inner))}]"
    if origin is dict:
        return f"{{{_type(inner[0])}: {_type(inner[1])}}}"
    words = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null"}
    return words.get(kind) or kind.__name__.removesuffix("Config").lower()


def _in_words(value: Any) -> str:
    """As YAML on one line."""
    plain = list(value) if isinstance(value, tuple) else value
    return (
        yaml.safe_dump(plain, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("...\n").strip()
    )


def page() -> str:
    """`docs/settings.md`."""
    lines = ["# Settings", "", *_ABOUT.splitlines()]
    for name, section in Recipe.model_fields.items():
        about = " ".join((section.annotation.__doc__ or "").split())
        lines += ["", f"## {name}", "", about, "", "| setting | type | default | meaning |", "|---|---|---|---|"]
        for each in settings_of(name):
            cells = [f"`{each.key}`", each.type, f"`{each.default}`", each.meaning]
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


_ABOUT = """Every setting with its type, its default (the paper's) and its meaning, as `intrr settings` and `intrr settings SECTION` list them. They
stand in a recipe (`--config`) or as `section.key=value` words on the command line. This page is written by
`python -m intrr_rec.config.listing`; a test holds it against the code."""


if __name__ == "__main__":
    print(page(), end="")
