"""What is asked of a tracker."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from intrr_rec.config import component
from intrr_rec.testing.checks import Check, require
from intrr_rec.training.trackers.tracker import TrackedRun


def check_tracker(name: str) -> Iterator[tuple[str, Check]]:
    """Checks of a registered tracker, each with what it says."""

    def goes_on() -> None:
        tracker_class = component("trackers", name)
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            run.mkdir()
            known: str | None = None
            for step, finished in ((1, False), (2, True)):
                tracker = tracker_class(tracker_class.Config())
                settings = {"train.epochs": 2, "train.ema_decay": None, "model.kind": "intrr"}
                found = tracker.begin(TrackedRun("run", run, settings, {"dataset": "0" * 64}, known))
                require(isinstance(found, str) and bool(found), "`begin` returns no id")
                require(known in (None, found), "`begin` opens another run than that of the id it is given")
                known = found
                tracker.log({"train/loss": 1.0 / step, "valid/recall@10": 0.5}, step)
                if finished:
                    tracker.summarize({"test/recall@10": 0.5})
                tracker.end(finished=finished)

    yield "a run is begun, ended before its time, and opened again by its id", goes_on
