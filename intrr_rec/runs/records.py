"""Finished runs as records: what results.json says, and mean and spread over runs that differ in their seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field

from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.io.formats.records import read_record, shell_word
from intrr_rec.runs.parts import require_whole
from intrr_rec.runs.run_files import RESULTS
from intrr_rec.runs.run_record import read_run_record
from intrr_rec.semantic_ids.quality.records import Quality

FIX = "evaluate the run again to rewrite it"

Metrics = dict[str, float]


class Counts(BaseModel):
    """Size of the dataset after preparation."""

    users: int
    items: int
    interactions: int


class Baseline(BaseModel):
    """The yardstick, on the test targets."""

    name: str
    metrics: Metrics


class Band(BaseModel):
    """Test users in one band of a slicing; fields as in `evaluation.slices.as_slices`."""

    lowest: int = Field(alias="from")
    highest: int | None = Field(alias="to")
    users: int
    share: float
    metrics: Metrics | None


class Results(BaseModel):
    """results.json: what the run came to."""

    name: str | None = None
    seed: int | None = None
    wall_seconds: float | None = None
    epochs: float | None = None
    best_epoch: float | None = None
    world_size: int | None = None
    device: str | None = None
    command: str | None = None
    dataset: Counts | None = None
    baseline: Baseline | None = None
    valid: Metrics = {}
    test: Metrics = {}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}  # split → metric → 95 % interval over users
    slices: dict[str, list[Band]] = {}
    beyond_accuracy: Metrics = {}
    semantic_ids: Quality | None = None
    files: dict[str, str] = {}  # the other files of the evaluation, and their SHA-256


@dataclass(frozen=True)
class RunResults:
    """A run that was evaluated: its folder, results.json, and the content hash of the dataset it was trained on."""

    path: Path
    results: Results
    dataset_hash: str


@dataclass(frozen=True)
class Spread:
    """A metric over runs: mean, and standard deviation over the runs (ddof = 1); None for a single run."""

    mean: float
    sd: float | None
    runs: int

    def __str__(self) -> str:
        return f"{self.mean:.4f}" if self.sd is None else f"{self.mean:.4f} ± {self.sd:.4f}"


def read_results(run: Path) -> Results | None:
    """results.json of a run folder; None where it has none.

    Raises:
        ArtefactError: the file cannot be read.
    """
    return read_record(run / RESULTS, Results, FIX)


def read_run(path: Path) -> RunResults:
    """A run folder with test metrics.

    Raises:
        ArtefactError: not a run folder, not evaluated yet, or a file of it cannot be read.
    """
    inputs = read_run_record(path)
    results = read_results(path)
    if results is None or not results.test:
        raise ArtefactError(f"{path}: has no test metrics; run `intrr evaluate --run {shell_word(path)}`")
    require_whole(path, results.files)
    return RunResults(path, results, inputs.hashes.dataset)


def summarize(runs: Sequence[RunResults]) -> dict[str, Spread]:
    """Mean and standard deviation of every test metric over runs, in the order of the first run's metrics.

    Raises:
        ConfigError: no run, or one twice: a spread over copies would be too small.
        ArtefactError: runs on different datasets, or with different metrics.
    """
    if not runs:
        raise ConfigError("no runs to summarise; give at least one --run DIR")
    require_same_dataset(runs)
    first = runs[0]
    for place, run in enumerate(runs):
        if run.path.resolve() in {earlier.path.resolve() for earlier in runs[:place]}:
            raise ConfigError(f"{run.path}: is named twice on one side; name each run once")
        if set(run.results.test) != set(first.results.test):
            raise ArtefactError(
                f"{run.path}: has other test metrics than {first.path}; run `intrr evaluate --run DIR` on both"
            )
    spreads = {}
    for name in first.results.test:
        values = np.array([run.results.test[name] for run in runs])
        sd = float(values.std(ddof=1)) if len(runs) > 1 else None
        spreads[name] = Spread(float(values.mean()), sd, len(runs))
    return spreads


def require_same_dataset(runs: Sequence[RunResults]) -> None:
    """Refuse runs whose figures say nothing about one another.

    Raises:
        ArtefactError: two runs were trained on different dataset artefacts.
    """
    for run in runs[1:]:
        if run.dataset_hash != runs[0].dataset_hash:
            raise ArtefactError(
                f"{run.path}: was trained on dataset {run.dataset_hash[:12]}, but {runs[0].path} on "
                f"{runs[0].dataset_hash[:12]}; compare runs on one dataset"
            )
