"""`intrr tune`: trials are proposed, run as jobs, stopped early where they fall behind, and counted; the best recipe is written.

Killed at any point, the same command goes on: the journal holds what was proposed, the run folders how far each trial is.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

from rich.table import Table
from torchx.runner import Runner
from torchx.specs import AppState

from intrr_rec.config import save_recipe
from intrr_rec.errors import ArtefactError, ConfigError, Stopped
from intrr_rec.io import artefact
from intrr_rec.io.console import console
from intrr_rec.io.disk.lock import Lock, Taken
from intrr_rec.io.disk.opened import require_finished
from intrr_rec.io.disk.places import writing_to
from intrr_rec.io.stores.storage import Folder
from intrr_rec.pipeline.runner import own_runner
from intrr_rec.pipeline.tuning.description import Study, Value, load_study
from intrr_rec.pipeline.tuning.journal import JOB, JOURNAL, WORDS, open_journal, propose, pruner_of
from intrr_rec.pipeline.tuning.trials import LOGS, Running, run_of

log = logging.getLogger(__name__)
BEST = "best.yaml"
POLL_SECONDS = 2.0
SUBMISSIONS = 3  # of a trial's job by one process, before the trial has failed
FAILURES = 3  # trials in a row, before the search is given up


def tune(path: Path, *, show: bool) -> Path | None:
    """Search the settings of a file, or only show how far the search is.

    Returns:
        The run folder of the best trial, if there is one.

    Raises:
        ConfigError: the file does not fit, or its work folder holds another study.
        ArtefactError: dataset or Semantic IDs are not there, another process is at work, or the journal was altered.
        Stopped: trial after trial failed, or SIGTERM came; the same command goes on.
    """
    study = load_study(path)
    inputs = {
        "dataset": _hash_of(study.dataset, "dataset"),
        "semantic_ids": _hash_of(study.semantic_ids, "semantic ids"),
    }
    if show and not (study.work / JOURNAL).is_file():
        raise ArtefactError(f"{study.work}: holds no study yet; start it by the same command without --status")
    with writing_to(study.work):
        study.work.mkdir(parents=True, exist_ok=True)
    try:
        with writing_to(study.work), Lock(study.work):
            found = open_journal(study, inputs)
            if not show:
                with own_runner() as runner:
                    Search(study, found, runner).run()
            return _finish(study, found, write=not show)
    except Taken:
        raise ArtefactError(f"{study.work}: another `intrr tune` is at work there; wait for it") from None


class Search:
    """The trials of a study on one scheduler.

    Args:
        study: its description.
        found: Optuna's study; the work folder is locked.
        runner: TorchX's.
    """

    def __init__(self, study: Study, found: Any, runner: Runner) -> None:
        self.study, self.found, self.runner = study, found, runner
        found.pruner = pruner_of(study)
        self.running: list[Running] = []
        self._failed = 0

    def run(self) -> None:
        """Until all trials are over."""
        self._take_up()
        while self.running or self._begun() < self.study.trials:
            while len(self.running) < self.study.at_once and self._begun() < self.study.trials:
                self._begin()
            done = sum(self._step(each) for each in list(self.running))
            if not done:
                time.sleep(POLL_SECONDS)

    def _take_up(self) -> None:
        """The trials that an earlier process has left."""
        import optuna

        for frozen in self.found.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            trial = optuna.trial.Trial(self.found, frozen._trial_id)
            values = frozen.user_attrs.get(WORDS)
            if values is None:  # killed while it was proposed
                self.found.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            log.info("trial %d: goes on", frozen.number)
            known = set(frozen.intermediate_values)
            self.running.append(Running(self.study, trial, frozen.number, values, known))

    def _begun(self) -> int:
        """Trials that count."""
        return sum(WORDS in each.user_attrs for each in self.found.get_trials(deepcopy=False))

    def _begin(self) -> None:
        trial, values = propose(self.found, self.study)
        one = Running(self.study, trial, trial.number, values)
        try:
            self.study.recipe_of(values)
        except ConfigError as error:
            self._fail(one, f"its settings do not go together ({error})", job=False)
            return
        one.submit(self.runner)
        self.running.append(one)

    def _step(self, one: Running) -> bool:
        """Look after a trial; returns whether anything was done."""
        state = one.look(self.runner)
        if state is None:
            return False
        from optuna.trial import TrialState

        validations = one.validations()
        if one.pruned:
            self._over(one)
            self.found.tell(one.trial, state=TrialState.PRUNED)
        elif state == AppState.SUCCEEDED and validations:
            self._over(one)
            self._failed = 0
            best = max(value for _, value in validations)
            self.found.tell(one.trial, best)
            log.info("trial %d: %s %.4f", one.number, self.study.metric, best)
        elif state == AppState.SUCCEEDED:
            self._fail(one, f"its validations have no {self.study.metric}")
        elif state == AppState.UNKNOWN or (state == AppState.CANCELLED and one.submitted == 0):
            # Lost with the process that submitted it; the run folder has its checkpoints.
            if one.submitted == SUBMISSIONS:
                self._fail(one, "its job was lost again and again")
            else:
                one.submit(self.runner)
        elif one.submitted == 0 and state != AppState.SUCCEEDED:
            one.submit(self.runner)  # it ended with the process before
        else:
            self._fail(
                one, f"{one.handle} is {state.name}; `torchx log {one.handle}/train`, or {self.study.work / LOGS}"
            )
        self._drop_checkpoints()
        return True

    def _over(self, one: Running) -> None:
        self.running = [each for each in self.running if each is not one]

    def _fail(self, one: Running, why: str, *, job: bool = True) -> None:
        from optuna.trial import TrialState

        self._over(one)
        self.found.tell(one.trial, state=TrialState.FAIL)
        log.warning("trial %d: failed, %s", one.number, why)
        self._failed += job
        if self._failed == FAILURES:
            raise Stopped(f"tune: {FAILURES} trials in a row failed; the last: {why}", 1)

    def _drop_checkpoints(self) -> None:
        """Of all trials that are over, but for the best ones."""
        over = [each for each in self.found.get_trials(deepcopy=False) if each.state.is_finished()]
        ranked = sorted(over, key=lambda each: -1.0 if each.value is None else each.value, reverse=True)
        complete = [each.number for each in ranked if each.state.name == "COMPLETE"]
        for each in over:
            if each.number not in complete[: self.study.keep]:
                Running(self.study, each, each.number, {}).drop_checkpoints()


def _finish(study: Study, found: Any, *, write: bool) -> Path | None:
    """Print the trials; write the recipe of the best one."""
    trials = found.get_trials(deepcopy=False)
    complete = [each for each in trials if each.state.name == "COMPLETE"]
    best = max(complete, key=lambda each: each.value, default=None)
    table = Table(title=str(study.work))
    for name in ("trial", "state", study.metric, "epochs", *study.search, "job"):
        table.add_column(name, overflow="fold")
    for each in sorted(trials, key=lambda each: (each.value is None, -(each.value or 0.0))):
        values: dict[str, Value] = each.user_attrs.get(WORDS, {})
        figures = max(each.intermediate_values.values(), default=None) if each.value is None else each.value
        shown = "–" if figures is None else f"{figures:.4f}"
        words = [
            f"{value:.4g}" if isinstance(value, float) else str(value)
            for key in study.search
            for value in [values.get(key)]
        ]
        epochs = str(max(each.intermediate_values, default=0))
        mark = "best" if best is not None and each.number == best.number else each.state.name.lower()
        table.add_row(str(each.number), mark, shown, epochs, *words, each.user_attrs.get(JOB, "–"))
    console(width=None if sys.stdout.isatty() else 1000, markup=False).print(table)
    if best is None:
        return None
    if write:
        save_recipe(study.recipe_of(best.user_attrs[WORDS]), study.work / BEST)
    return run_of(study, best.number)


def _hash_of(place: Any, kind: str) -> str:
    require_finished(Folder.at(place), place, kind)
    return artefact.peek(place).content_hash
