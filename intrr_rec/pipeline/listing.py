"""`intrr runs`: every run folder below some folders, how far it is, its best figures, its job and its place."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from torchx.runner import Runner
from torchx.specs import AppStatus

from intrr_rec.errors import ArtefactError
from intrr_rec.io.console import console
from intrr_rec.io.stores.mirror import origin
from intrr_rec.pipeline.runner import own_runner
from intrr_rec.pipeline.tracker import status_of
from intrr_rec.runs.metrics_file import metric_lines
from intrr_rec.runs.records import read_results
from intrr_rec.runs.run_files import CONFIG, INPUTS, METRICS, RESULTS
from intrr_rec.runs.run_record import read_run_record

log = logging.getLogger(__name__)
SELECTED, SHOWN = "recall@10", ("recall@10", "ndcg@10")


@dataclass(frozen=True)
class Listed:
    """A run folder.

    Attributes:
        state: finished or unfinished, or that of its job where that lives.
        epoch: of the newest figures, 0 before the first.
        valid, test: metrics of the best validation and on the test users, as far as there are any.
        job: handle of the TorchX job that started it.
        changed: seconds since 1970 of its newest figures.
    """

    path: Path
    state: str
    epoch: float
    valid: dict[str, float]
    test: dict[str, float]
    job: str | None
    changed: float


def list_runs(folders: Sequence[Path], *, ask: bool) -> None:
    """Print the run folders that are, or lie below, `folders`.

    Args:
        folders: where to look.
        ask: ask the schedulers how the jobs of unfinished runs are.

    Raises:
        ArtefactError: a folder that is not there, or a run's file that cannot be read.
    """
    with own_runner() if ask else nullcontext() as runner:
        runs = [read_listed(path, runner) for path in find_runs(folders)]
    table = Table()
    for name in ("run", "state", "epoch", *(f"valid {name}" for name in SHOWN), *SHOWN, "job", "newest figures"):
        table.add_column(name, overflow="fold")
    for run in sorted(runs, key=lambda run: run.changed, reverse=True):
        figures = [f"{part[name]:.4f}" if name in part else "–" for part in (run.valid, run.test) for name in SHOWN]
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed))
        table.add_row(str(origin(run.path)), run.state, f"{run.epoch:g}", *figures, run.job or "–", when)
    # In a file or a pipe nothing is broken over lines.
    console(width=None if sys.stdout.isatty() else 1000, markup=False).print(table)


def _status(runner: Runner, job: str) -> AppStatus | None:
    try:
        return status_of(runner, job)
    except ArtefactError as error:  # one run's record says nothing of the others
        log.warning("%s", error)
        return None


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Run folders at or below `folders`; none is looked for inside another."""
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise ArtefactError(f"{folder}: no such folder; correct the path")
        found += _below(folder)
    return found


def _below(folder: Path) -> list[Path]:
    if (folder / INPUTS).is_file() and (folder / CONFIG).is_file():
        return [folder]
    children = sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))
    return [run for child in children for run in _below(child)]


def read_listed(path: Path, runner: Runner | None) -> Listed:
    """What there is to say of a run; with a runner, that of its job's scheduler as well."""
    job = read_run_record(path).job
    figures = path / METRICS
    lines = metric_lines(figures)
    results = read_results(path)
    best: dict[str, float] = {}
    if results is not None:
        state, epoch, valid, test = "finished", results.epochs or 0, results.valid, results.test
    else:
        status = _status(runner, job) if runner and job else None
        state = status.state.name.lower() if status and not status.is_terminal() else "unfinished"
        validations = [line for line in lines if line["split"] == "valid"]
        best = max(validations, key=lambda line: line[SELECTED] or 0, default={})
        epoch, valid, test = max((line["epoch"] for line in lines), default=0), best, {}
    newest = path / RESULTS if results else figures if lines else path / INPUTS
    return Listed(path, state, epoch, valid, test, job, newest.stat().st_mtime)
