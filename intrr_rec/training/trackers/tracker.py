"""What a tracker is: a class that opens a run in a service or store, and is given its figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from intrr_rec.config import Section
from intrr_rec.errors import ConfigError

Scalar = str | int | float | bool | None


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run when it begins or goes on.

    Attributes:
        name: of the run.
        folder: the run folder, on this machine's disk.
        settings: of the recipe, by key such as `train.epochs`.
        tags: hashes of dataset and Semantic IDs, the command, and the user's own tags.
        id: what `begin` returned when the run was begun; None of a new run.
    """

    name: str
    folder: Path
    settings: Mapping[str, Scalar]
    tags: Mapping[str, str]
    id: str | None = None


class Tracker(ABC):
    """Gets the figures of one run. Made as `MyTracker(config)`, `config` being of its class `Config`.

    All methods are called by the main rank, one at a time; `log` and what follows it by a thread of its own, so none holds training up.
    What `log` and `summarize` raise becomes a warning. The run folder holds every figure in any case.

    Attributes:
        Config: its settings, a section whose every field has a default.
    """

    Config: ClassVar[type[Section]]

    @abstractmethod
    def begin(self, run: TrackedRun) -> str:
        """Open the run `run.id`, or a new one; returns its id, by which it is opened when training is resumed.

        Raises:
            ConfigError: it cannot be opened.
        """

    @abstractmethod
    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Figures, such as `train/loss`, after `step` training steps."""

    @abstractmethod
    def summarize(self, figures: Mapping[str, float]) -> None:
        """The run's final figures, such as `test/recall@10`."""

    @abstractmethod
    def end(self, *, finished: bool) -> None:
        """Close the run; one that is not `finished` may go on later."""


class NoTracker(Tracker):
    """No tracker: figures stay in the run folder."""

    class Config(Section):
        """No settings."""

    def __init__(self, config: Section) -> None:
        pass

    def begin(self, run: TrackedRun) -> str:
        """A run by its name."""
        return run.name

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Nothing."""

    def summarize(self, figures: Mapping[str, float]) -> None:
        """Nothing."""

    def end(self, *, finished: bool) -> None:
        """Nothing."""


def require_package(package: str, extra: str) -> None:
    """Refuse a tracker whose package is not installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec(package) is None:
        raise ConfigError(
            f"track.tracker: the package {package} is not installed; `pip install --no-deps -r requirements/{extra}.txt`"
        )
