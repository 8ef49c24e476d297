"""How a file of YAML that describes jobs is read: one line for each mistake, paths from the folder of the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from intrr_rec.config import Section
from intrr_rec.errors import ConfigError, instead
from intrr_rec.io.disk.places import url_of
from intrr_rec.io.formats.yaml_text import parse_yaml, read_text
from intrr_rec.io.stores.storage import Location

Described = TypeVar("Described", bound=Section)


def read_described(path: Path, kind: type[Described], inner: Mapping[str, type[Section]]) -> Described:
    """Read a file as `kind`.

    Args:
        inner: section of each key that has keys of its own, to name the nearest valid one.

    Raises:
        ConfigError: cannot be read, an unknown or missing key, or a value that does not fit.
    """
    try:
        tree = parse_yaml(read_text(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); correct the path") from None
    except ValueError as error:
        raise ConfigError(f"{path}: is not valid YAML ({error})") from None
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(item, path, kind, inner) for item in error.errors())) from None


def seen_from(path: Path, found: Path) -> Location:
    """A place that the file at `path` names: a URL as it is, a path from the folder of the file."""
    return url_of(found) or path.absolute().parent / found


def _explain(item: Any, path: Path, kind: type[Section], inner: Mapping[str, type[Section]]) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = inner.get(str(item["loc"][0]), kind) if len(item["loc"]) > 1 else kind
        return f"{path}: unknown key '{where}'{instead(str(item['loc'][-1]), known.model_fields)}"
    where = f"'{where}': " if where else ""
    return f"{path}: {where}{item['msg'].removeprefix('Value error, ')}"
