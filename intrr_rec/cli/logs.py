"""Which raw logs a verb was given: by a descriptor, or file by file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from intrr_rec.config import PrepareConfig, load_recipe
from intrr_rec.errors import ConfigError


def describe(
    logs: Annotated[
        Path, typer.Argument(metavar="LOGS", help="Interaction log: Parquet, CSV or JSON lines, or a folder.")
    ],
    items: Annotated[Path | None, typer.Argument(metavar="[ITEMS]", help="Item table.")] = None,
    users: Annotated[Path | None, typer.Argument(metavar="[USERS]", help="User table.")] = None,
) -> None:
    """Raw tables → a proposed descriptor with a schema of features (docs/features.md), on standard output."""
    from intrr_rec.data.raw.describe import propose

    typer.echo(propose(logs, items, users), nl=False)


@dataclass(frozen=True)
class Logs:
    """Raw logs, their item and user tables, a name, and how they are prepared."""

    name: str
    interactions: tuple[Path, ...]
    items: Path | None
    settings: PrepareConfig
    users: Path | None = None


def given_logs(
    words: Sequence[str],
    interactions: Sequence[Path],
    items: Path | None,
    data: Path,
    config: Path | None,
    users: Path | None = None,
) -> Logs:
    """The logs of the descriptor among `words`, below `data`, or else `interactions`, `items` and `users`.

    The descriptor's own settings give way to those of the recipe `config`, and these to the other words.

    Raises:
        ConfigError: neither or both are given, or the descriptor or a setting cannot be read.
        DataError: a file that the descriptor names is not there.
    """
    descriptors = [word for word in words if word.endswith((".yaml", ".yml")) and "=" not in word]
    overrides = [word for word in words if word not in descriptors]
    if len(descriptors) + bool(interactions) != 1:
        raise ConfigError("give either one descriptor (datasets/*.yaml) or --interactions FILE")
    if interactions:
        return Logs(interactions[0].name, tuple(interactions), items, load_recipe(config, overrides).prepare, users)
    from intrr_rec.data.raw.descriptors import find_tables, load_descriptor

    path = Path(descriptors[0])
    descriptor = load_descriptor(path)
    settings = load_recipe(config, overrides, under=(path, {"prepare": descriptor.prepare})).prepare
    found = find_tables(descriptor, path, data)
    return Logs(path.stem, found.interactions, items or found.items, settings, users or found.users)
