"""Optuna's study in a journal of JSON lines, `study.journal` of the work folder: what was proposed, what came of it.

Optuna's own lock of the journal is a file that a killed process leaves behind; ours goes with its process, so this one does nothing.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.io.disk.places import writing_to
from intrr_rec.pipeline.tuning.description import Range, Study, Value

JOURNAL, NAME = "study.journal", "intrr"
WORDS, JOB, ASKED = "values", "job", "asked"  # attributes of trials, and of the study


class _Alone:
    """The work folder is locked by this process, so nobody else writes the journal."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


def open_journal(study: Study, inputs: dict[str, str]) -> Any:
    """The Optuna study of a work folder, made where there is none; the folder is locked by the caller.

    Args:
        study: its description.
        inputs: content hashes of what its trials learn from.

    Raises:
        ConfigError: Optuna is not installed, or the folder holds a study of another search.
        ArtefactError: the journal was altered.
    """
    if find_spec("optuna") is None:
        raise ConfigError("tune: the package optuna is not installed; `pip install --no-deps -r requirements/tune.txt`")
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    path = study.work / JOURNAL
    with writing_to(study.work):
        _drop_torn_line(path)
        try:
            backend = JournalFileBackend(str(path), _Alone())
            found = optuna.create_study(
                study_name=NAME,
                storage=optuna.storages.JournalStorage(backend),
                direction="maximize",
                load_if_exists=True,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ArtefactError(
                f"{path}: is not the journal of a study ({error}); put it back, or give another work"
            ) from None
        asked = inputs | study.model_dump(mode="json", include={"settings", "search", "metric"})
        was = found.user_attrs.get(ASKED)
        if was is None:
            found.set_user_attr(ASKED, asked)
        elif changed := [key for key in asked if was.get(key) != asked[key]]:
            raise ConfigError(
                f"{study.work}: holds a study with another {changed[0]}; give another work, or put that back"
            )
    return found


def propose(found: Any, study: Study) -> tuple[Any, dict[str, Value]]:
    """A new trial and its values. Which ones depends on the seed and on the trials before alone, so a study that was killed goes on as
    it would have."""
    import optuna

    seed = int(np.random.SeedSequence([study.seed, len(found.trials)]).generate_state(1)[0])
    found.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=study.at_once > 1)
    trial = found.ask({key: _distribution(values) for key, values in study.search.items()})
    trial.set_user_attr(WORDS, trial.params)
    return trial, dict(trial.params)


def pruner_of(study: Study) -> Any:
    """By the median of the trials before."""
    import optuna

    if study.prune is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(n_startup_trials=study.prune.trials, n_warmup_steps=study.prune.epochs)


def _distribution(values: Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if values.values is not None:
        return CategoricalDistribution(values.values)
    low, high, step = values.low, values.high, values.step
    assert low is not None and high is not None
    if all(isinstance(each, int) for each in (low, high, step) if each is not None):
        return IntDistribution(low, high, log=values.log, step=step or 1)
    return FloatDistribution(float(low), float(high), log=values.log, step=step)


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line whose writing was interrupted: nothing was told of it to anybody."""
    if not path.is_file():
        return
    with open(path, "r+b") as file:
        text = file.read()
        if text and not text.endswith(b"\n"):
            file.truncate(text.rfind(b"\n") + 1)
