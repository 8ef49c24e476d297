"""A line of two days: yesterday's run and bundle, and a dataset that has grown since."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.training.trainer import train
from tests import tiny
from tests.runs.test_versions import add_day, first_day


@dataclass(frozen=True)
class Days:
    """Where all lies; `line` is of the newest day."""

    line: tiny.Line
    yesterday: Path
    today: Path

    @property
    def bundles(self) -> tuple[Path, Path]:
        """Yesterday's and today's."""
        return self.yesterday.with_name("yesterday-bundle"), self.today.with_name("today-bundle")


def make_days(folder: Path, *words: str) -> Days:
    """Train on the first day, add a day, train on from the first."""
    line = first_day(folder)
    days = Days(line, folder / "yesterday", folder / "today")

    def learn(out: Path, bundle: Path, init_from: Path | None) -> None:
        inputs = {"dataset": line.dataset, "semantic_ids": line.semantic_ids, "vectors": None}
        train(tiny.recipe("train.epochs=3", *words), out=out, init_from=init_from, **inputs)
        write_bundle(out, bundle)

    learn(days.yesterday, days.bundles[0], None)
    add_day(folder, line, 1)
    learn(days.today, days.bundles[1], days.yesterday)
    return days
