"""The tracker of a run as training sees it: opened before anything is computed, then given figures by a thread of its own.

A server that does not answer holds no rank up, and a figure that it did not get is a warning: `metrics.jsonl` has them all.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any

from pydantic import BaseModel, ConfigDict

from intrr_rec.config import Recipe, component
from intrr_rec.distributed.world import World
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.formats.records import read_record, sealed
from intrr_rec.io.stores.mirror import origin
from intrr_rec.runs.run_files import TRACKER
from intrr_rec.training.trackers.tracker import NoTracker, Scalar, TrackedRun, Tracker

log = logging.getLogger(__name__)
LAST_SECONDS = 60.0  # that the end of a run waits for a tracker that is slow
FIX = "remove it; the tracker then begins another run"


class TrackerRecord(BaseModel):
    """`tracker.json`: the tracker of a run folder, and the id of the run there."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    tracker: str
    id: str


class Tracking:
    """A run's tracker on the main rank; used as a context manager, which closes it.

    Args:
        recipe: of the run; `track` says which tracker.
        out: the run folder.
        world: the main rank tracks, the others do nothing.
    """

    def __init__(self, recipe: Recipe, out: Path, world: World) -> None:
        self.recipe, self.out, self.name = recipe, out, recipe.track.tracker
        self._finished = self._failed = False
        self._tracker: Tracker = NoTracker(recipe.track)
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: Thread | None = None
        self._silent = self.name == "none" or not world.is_main

    def prepare(self) -> None:
        """Find what can be found wrong before anything is written.

        Raises:
            ConfigError: a tracker that cannot be imported, or whose package or key is missing.
        """
        if not self._silent:
            self._tracker = component("trackers", self.name)(self.recipe.track.of("tracker"))

    def begin(self, tags: Mapping[str, str]) -> None:
        """Open the run there, or go on with the one that this run folder has.

        Args:
            tags: of the run, beside the user's own.

        Raises:
            ConfigError: it cannot be opened.
        """
        if self._silent:
            return
        asked, recipe = self.recipe.track, self.recipe.model_dump(mode="json", exclude={"track", "serve"})
        saved = read_record(self.out / TRACKER, TrackerRecord, FIX)
        own = saved.id if saved is not None and saved.tracker == self.name else None
        name = asked.name or str(origin(self.out)).rstrip("/").rpartition("/")[2]
        found = self._tracker.begin(TrackedRun(name, self.out, flatten(recipe), {**tags, **asked.tags}, own))
        write_json(self.out / TRACKER, sealed(TrackerRecord(tracker=self.name, id=found).model_dump()))
        self._thread = Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    def __enter__(self) -> Tracking:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        finished = self._finished and kind is None
        self._calls.put(lambda: self._tracker.end(finished=finished))
        self._calls.put(None)
        self._thread.join(LAST_SECONDS)
        if self._thread.is_alive():
            log.warning(
                "track.tracker: %s has not taken every figure in %g s; metrics.jsonl has them", self.name, LAST_SECONDS
            )

    def log(self, split: str, step: int, figures: Mapping[str, float]) -> None:
        """Figures of a split after `step` steps, as they go to `metrics.jsonl`."""
        self._put(lambda found: self._tracker.log(found, step), split, figures)

    def finish(self, results: dict[str, Any]) -> dict[str, Any]:
        """Give it the test metrics among the `results` of a run that has come to its end; returns them all."""
        self._finished = True
        self._put(self._tracker.summarize, "test", results["test"])
        return results

    def _put(self, call: Callable[[Mapping[str, float]], None], split: str, figures: Mapping[str, float]) -> None:
        if self._thread is None:
            return
        found = {f"{split}/{name}": float(value) for name, value in figures.items() if math.isfinite(value)}
        self._calls.put(lambda: call(found))

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            self._do(call)

    def _do(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # whatever a service raises, training goes on
            if not self._failed:
                log.warning(
                    "track.tracker: %s has not taken figures (%s: %s); metrics.jsonl has them, and training goes on",
                    self.name,
                    type(error).__name__,
                    " ".join(str(error).split())[:300],
                )
            self._failed = True


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, Scalar]:
    """A tree of settings by dotted keys; lists as text."""
    flat: dict[str, Scalar] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        elif isinstance(value, str | int | float | bool | None):
            flat[f"{prefix}{key}"] = value
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
