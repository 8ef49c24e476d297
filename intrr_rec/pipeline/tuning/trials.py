"""One trial: a training job in a run folder of its own, and what its figures say so far.

A trial is told by its run folder. A job that was lost is submitted again and goes on from the newest checkpoint there; one that
outlived its submitter is waited for.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchx.runner import Runner
from torchx.specs import AppDef, AppState

from intrr_rec.io.disk.atomic import remove_tree
from intrr_rec.io.disk.lock import Lock, Taken
from intrr_rec.pipeline.tuning.description import Study, Value
from intrr_rec.pipeline.tuning.journal import JOB
from intrr_rec.runs.metrics_file import metric_lines
from intrr_rec.runs.run_files import CHECKPOINTS, METRICS, RESULTS
from torchx_components import jobs
from torchx_components.launch import IMAGE

log = logging.getLogger(__name__)
LOGS = "jobs"
PORTS = 100  # trials after which a port is taken again


def run_of(study: Study, number: int) -> Path:
    """The run folder of a trial."""
    return study.work / "trials" / f"{number:04}"


def job_of(study: Study, number: int, values: dict[str, Value]) -> AppDef:
    """The training job of a trial."""
    ask, run = study.job, run_of(study, number)
    optional: dict[str, Any] = {
        name: str(place) if place is not None else None
        for name, place in (("vectors", study.vectors), ("config", study.recipe))
    }
    return jobs.train(
        *study.words(values),
        dataset=str(study.dataset),
        semantic_ids=str(study.semantic_ids),
        out=str(run),
        h=ask.h,
        j=ask.j,
        max_retries=ask.max_retries,
        image=study.image or IMAGE,
        env=dict(study.env),
        mounts=list(study.mounts),
        rdzv_port=study.rdzv_port + number % PORTS,
        **optional,
    )


@dataclass
class Running:
    """A trial that is not over.

    Attributes:
        trial: Optuna's.
        number: of it, which names the run folder.
        values: its settings.
        reported: epochs that were told to the pruner.
        pruned: it was told to stop.
        submitted: times its job was submitted by this process.
    """

    study: Study
    trial: Any
    number: int
    values: dict[str, Value]
    reported: set[int] = field(default_factory=set)
    pruned: bool = False
    submitted: int = 0

    @property
    def run(self) -> Path:
        """Its run folder."""
        return run_of(self.study, self.number)

    @property
    def handle(self) -> str | None:
        """Its newest job."""
        return self.trial.user_attrs.get(JOB)

    def submit(self, runner: Runner) -> None:
        """Hand its job to the scheduler."""
        logs = self.study.work / LOGS
        logs.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = dict(self.study.options)
        if (folder := {"slurm": "job_dir", "local_cwd": "log_dir"}.get(self.study.scheduler)) is not None:
            options.setdefault(folder, str(logs))
        handle = runner.run(job_of(self.study, self.number, self.values), self.study.scheduler, options)
        self.trial.set_user_attr(JOB, str(handle))
        self.submitted += 1
        said = ", ".join(f"{key}={value}" for key, value in self.values.items())
        log.info("trial %d: %s was submitted with %s", self.number, handle, said)

    def look(self, runner: Runner) -> AppState | None:
        """Tell the pruner what is new, stop the job if it says so; returns the state of one that is over, None while it goes on."""
        for epoch, value in self.validations():
            if epoch not in self.reported and not self.pruned:
                self.trial.report(value, epoch)
                self.reported.add(epoch)
                if self.trial.should_prune():
                    log.info("trial %d: stopped, below the median at epoch %d", self.number, epoch)
                    self.pruned = True
        status = runner.status(self.handle) if self.handle is not None else None
        if status is not None and not status.is_terminal():
            if self.pruned:
                assert self.handle is not None
                runner.cancel(self.handle)
            return None
        if (self.run / RESULTS).is_file():
            return AppState.SUCCEEDED
        if self._is_claimed():  # a job that outlived the process that submitted it
            return None
        return AppState.UNKNOWN if status is None else status.state

    def validations(self) -> list[tuple[int, float]]:
        """Epoch and metric of each validation so far."""
        lines = metric_lines(self.run / METRICS)
        name = self.study.metric
        return [
            (int(line["epoch"]), float(line[name]))
            for line in lines
            if line["split"] == "valid" and line.get(name) is not None
        ]

    def drop_checkpoints(self) -> None:
        """Keep what it has shown, without its weights."""
        remove_tree(self.run / CHECKPOINTS)

    def _is_claimed(self) -> bool:
        if not self.run.is_dir():
            return False
        try:
            Lock(self.run).release()
        except Taken:
            return True
        return False
