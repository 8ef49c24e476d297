"""Weights & Biases: a run of a project, online or in files for `wandb sync`."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from intrr_rec.config import Section
from intrr_rec.config.tracking import WandbConfig
from intrr_rec.errors import ConfigError
from intrr_rec.io.disk.places import not_the_input
from intrr_rec.io.stores.mirror import origin
from intrr_rec.training.trackers.tracker import TrackedRun, Tracker, require_package

STEP = "step"
KEY_FILES = (".netrc", "_netrc")


class Wandb(Tracker):
    """A run of Weights & Biases.

    Raises:
        ConfigError: its package is not installed, or it is online without a key.
    """

    Config: ClassVar[type[Section]] = WandbConfig

    def __init__(self, config: WandbConfig) -> None:
        require_package("wandb", "wandb")
        self.config = config
        self.mode: Any = config.mode or os.environ.get("WANDB_MODE") or "online"
        if self.mode == "online" and not _has_key():
            raise ConfigError("track.tracker: wandb has no key; put it into WANDB_API_KEY, or track.wandb.mode=offline")
        self._run: Any = None

    def begin(self, run: TrackedRun) -> str:
        """Open the run, or make it; settings are its config. Nothing of the machine or the code is recorded."""
        if not isinstance(origin(run.folder), Path) and self.mode == "offline":
            raise ConfigError(
                "track.wandb.mode: offline keeps files in the run folder, which lies in a store; use online"
            )
        import wandb

        logging.getLogger("wandb").setLevel(logging.ERROR)
        settings = wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
            x_disable_stats=True,
            x_disable_meta=True,
            init_timeout=60,
        )
        try:
            self._run = wandb.init(
                project=self.config.project,
                entity=self.config.entity,
                mode=self.mode,
                name=run.name,
                id=run.id,
                resume="allow" if run.id else None,
                dir=str(run.folder),
                config={**run.settings, **{f"intrr_rec.{name}": value for name, value in run.tags.items()}},
                settings=settings,
            )
        except Exception as error:  # of its client, of the service it starts, of the network
            not_the_input(error)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"track.tracker: wandb cannot open the run ({reason})") from None
        self._run.define_metric("*", step_metric=STEP)
        return str(self._run.id)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """One row of its history."""
        self._run.log({**figures, STEP: step})

    def summarize(self, figures: Mapping[str, float]) -> None:
        """Its summary."""
        self._run.summary.update(dict(figures))

    def end(self, *, finished: bool) -> None:
        """The run has ended, with exit code 0 or, where it may go on, 75."""
        self._run.finish(exit_code=0 if finished else 75)


def _has_key() -> bool:
    return bool(os.environ.get("WANDB_API_KEY")) or any((Path.home() / name).is_file() for name in KEY_FILES)
