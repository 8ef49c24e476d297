"""Runs the stages one after another on one scheduler, and tells how far they are.

A stage whose artefact does is skipped. `jobs.json` in the work folder holds each stage's newest job, so that the command,
given again, waits for a job that is still there and submits no second one.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

from rich.table import Table
from torchx.runner import Runner
from torchx.specs import AppState, AppStatus

from intrr_rec.errors import ArtefactError, Stopped
from intrr_rec.io.console import console
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.disk.lock import Lock, Taken
from intrr_rec.io.formats.records import read_texts, sealed
from intrr_rec.pipeline.daily import stages_of
from intrr_rec.pipeline.description import Pipeline, load_pipeline
from intrr_rec.pipeline.faults import MISSING
from intrr_rec.pipeline.runner import own_runner
from intrr_rec.pipeline.stages import Stage
from intrr_rec.pipeline.tracker import link, status_of

log = logging.getLogger(__name__)
JOBS, LOGS = "jobs.json", "jobs"
POLL_SECONDS = 2.0


def run_pipeline(path: Path, *, show: bool) -> None:
    """Bring every stage up to date, or only show how far they are.

    Args:
        path: pipeline file.
        show: start nothing.

    Raises:
        ArtefactError: another process is bringing the pipeline up to date.
        ConfigError: the file or its recipe does not fit, or the run folder holds a run on other artefacts.
        DataError: raw files that are not there.
        Stopped: a job failed or was cancelled, or SIGTERM came; the same command goes on from that stage.
    """
    pipeline = load_pipeline(path)
    with own_runner() as runner:
        session = _Session(pipeline, runner)
        if show:
            session.show()
            return
        try:
            session.begin()
            for stage in session.stages:
                session.bring(stage)
            session.show()
        finally:
            session.release()


class _Session:
    def __init__(self, pipeline: Pipeline, runner: Runner) -> None:
        self.pipeline, self.runner = pipeline, runner
        self.stages = stages_of(pipeline)
        assert pipeline.records is not None
        self.records, self.record = pipeline.records, pipeline.records / JOBS
        self.jobs = self._read_jobs()
        self.lock: Lock | None = None

    def begin(self) -> None:
        """Keep others out; of a pipeline of every day, let jobs of the day before end, whose inputs are about to be replaced."""
        if self.records.is_dir():
            self._hold()
        if self.pipeline.daily is None:
            return
        for stage in self.stages:
            if (status := self._status(stage)) is not None and not status.is_terminal():
                log.info("%s: %s is still running and is waited for", stage.name, self.jobs[stage.name])
                self._end_of(stage)

    def release(self) -> None:
        """Let others in."""
        if self.lock is not None:
            self.lock.release()

    def bring(self, stage: Stage) -> None:
        """Have the stage's artefact there, as it should be."""
        status = self._status(stage)
        if status is None or status.is_terminal():
            fault = stage.fault()
            if fault is None:
                log.info("%s: up to date, %s", stage.name, stage.place())
                # Its job may have ended while nobody waited for it.
                if status is not None and status.state == AppState.SUCCEEDED:
                    self._link(stage)
                stage.after()
                return
            self._submit(stage, fault)
        self._wait(stage)
        if (fault := stage.fault()) is not None:
            raise Stopped(f"{stage.name}: {self.jobs[stage.name]} ended well, yet {stage.place()}: {fault}", 1)
        self._link(stage)
        stage.after()

    def show(self) -> None:
        """One line a stage: what is there, and its newest job."""
        table = Table(title=str(self.pipeline.work))
        for name in ("stage", "state", "job", "its state", "artefact"):
            table.add_column(name, overflow="fold")
        current = True
        for stage in self.stages:
            status = self._status(stage)
            alive = status is not None and not status.is_terminal()
            # Behind a stage that is not up to date, what is there was made from something that will change.
            fault = stage.fault() if current else "waits for the stage before"
            place = str(stage.place()) if current else "–"
            current = current and fault is None
            state = (
                "running" if alive else "done" if fault is None else "to do" if fault == MISSING else f"to do: {fault}"
            )
            job = self.jobs.get(stage.name, "–")
            table.add_row(stage.name, state, job, status.state.name if status else "–", place)
        # In a file or a pipe nothing is broken over lines.
        console(width=None if sys.stdout.isatty() else 1000, markup=False).print(table)

    def _submit(self, stage: Stage, fault: str) -> None:
        logs = self.records / LOGS
        logs.mkdir(parents=True, exist_ok=True)
        self._hold()
        options: dict[str, Any] = dict(self.pipeline.options)
        if (folder := {"slurm": "job_dir", "local_cwd": "log_dir"}.get(self.pipeline.scheduler)) is not None:
            options.setdefault(folder, str(logs))
        handle = self.runner.run(stage.job(), self.pipeline.scheduler, options)
        self.jobs[stage.name] = str(handle)
        write_json(self.record, sealed(self.jobs))
        log.info("%s: %s, so %s was submitted; torchx log %s/%s", stage.name, fault, handle, handle, stage.name)

    def _wait(self, stage: Stage) -> None:
        handle, status = self.jobs[stage.name], self._end_of(stage)
        if status is None or status.state != AppState.SUCCEEDED:
            how = status.state.name if status else "forgotten by the scheduler"
            raise Stopped(
                f"{stage.name}: {handle} is {how}; `torchx log {handle}/{stage.name}` tells why, and the same command goes on here",
                1,
            )

    def _end_of(self, stage: Stage) -> AppStatus | None:
        said = None
        while (status := self._status(stage)) is not None and not status.is_terminal():
            if status.state != said:
                log.info("%s: %s", stage.name, status.state.name)
                said = status.state
            time.sleep(POLL_SECONDS)
        return status

    def _hold(self) -> None:
        if self.lock is not None:
            return
        try:
            self.lock = Lock(self.records)
        except Taken:
            raise ArtefactError(f"{self.records}: another `intrr pipeline` is at work there; wait for it") from None
        self.jobs = self._read_jobs()

    def _read_jobs(self) -> dict[str, str]:
        return read_texts(self.record, "remove it, and jobs that still run are started a second time")

    def _status(self, stage: Stage) -> AppStatus | None:
        handle = self.jobs.get(stage.name)
        return status_of(self.runner, handle) if handle else None

    def _link(self, stage: Stage) -> None:
        before = [self.jobs[other.name] for other in self.stages[: self.stages.index(stage)] if other.name in self.jobs]
        link(self.records, self.jobs[stage.name], stage.name, stage.place(), stage.made(), before[-1:])
