"""Which raw logs a verb was given: by a descriptor, or file by file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from intrr_rec.errors import ConfigError
from intrr_rec.experiments.grid import load_descriptor


@dataclass(frozen=True)
class Logs:
    """Raw logs, their item table, a name, and the settings given beside them."""

    name: str
    interactions: tuple[Path, ...]
    items: Path | None
    overrides: tuple[str, ...]


def given_logs(words: Sequence[str], interactions: Sequence[Path], items: Path | None, data: Path) -> Logs:
    """The logs of the descriptor among `words`, below `data`, or else `interactions` and `items`.

    Raises:
        ConfigError: neither or both are given, or the descriptor cannot be read.
    """
    descriptors = [word for word in words if word.endswith((".yaml", ".yml")) and "=" not in word]
    overrides = tuple(word for word in words if word not in descriptors)
    if len(descriptors) + bool(interactions) != 1:
        raise ConfigError("give either one descriptor (datasets/*.yaml) or --interactions FILE")
    if interactions:
        return Logs(interactions[0].name, tuple(interactions), items, overrides)
    path = Path(descriptors[0])
    found = load_descriptor(path)
    table = data / found.items if found.items else None
    return Logs(path.stem, (data / found.interactions,), table, overrides)
