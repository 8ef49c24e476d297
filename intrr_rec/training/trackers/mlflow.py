"""MLflow: a run of an experiment, in a tracking server or a store of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from intrr_rec.config import Section
from intrr_rec.config.tracking import MlflowConfig
from intrr_rec.errors import ConfigError
from intrr_rec.io.disk.places import not_the_input
from intrr_rec.io.stores.mirror import origin
from intrr_rec.training.trackers.tracker import TrackedRun, Tracker, require_package

URI, RETRIES = "MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
LONGEST_PARAM, LONGEST_TAG, PARAMS_AT_ONCE = 6_000, 5_000, 100  # MLflow's own limits


class Mlflow(Tracker):
    """A run of MLflow.

    Raises:
        ConfigError: MLflow is not installed.
    """

    Config: ClassVar[type[Section]] = MlflowConfig

    def __init__(self, config: MlflowConfig) -> None:
        require_package("mlflow", "mlflow")
        os.environ.setdefault(RETRIES, "3")  # of seven, which double their waits, a start would hang for minutes
        self.config = config
        self._client: Any = None
        self._id = ""

    def begin(self, run: TrackedRun) -> str:
        """Open the run, or make it, and its experiment where there is none; settings are its parameters."""
        from mlflow import MlflowClient
        from mlflow.entities import Param

        uri = self.config.uri or os.environ.get(URI) or _beside(run.folder)
        try:
            self._client = MlflowClient(uri)
            if run.id is not None:
                self._client.get_run(run.id)
                self._client.set_terminated(run.id, "RUNNING")
                self._id = run.id
                return run.id
            made = self._client.create_run(
                self._experiment(),
                run_name=run.name,
                tags={f"intrr_rec.{name}": value[:LONGEST_TAG] for name, value in run.tags.items()},
            )
            self._id = made.info.run_id
            params = [Param(name, str(value)[:LONGEST_PARAM]) for name, value in run.settings.items()]
            for first in range(0, len(params), PARAMS_AT_ONCE):
                self._client.log_batch(self._id, params=params[first : first + PARAMS_AT_ONCE])
        except Exception as error:  # of MLflow, of the driver of a database, of the network
            not_the_input(error)
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ConfigError(f"track.tracker: mlflow cannot open the run ({reason}); see track.mlflow.uri") from None
        return self._id

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """One batch of metrics."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(
            self._id, metrics=[Metric(_name(name), value, now, step) for name, value in figures.items()]
        )

    def summarize(self, figures: Mapping[str, float]) -> None:
        """Metrics of step 0, of which there is one value each."""
        self.log(figures, 0)

    def end(self, *, finished: bool) -> None:
        """The run is finished, or was killed and may go on."""
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self.config.experiment
        if (found := self._client.get_experiment_by_name(name)) is None:
            try:
                return self._client.create_experiment(name)
            except MlflowException:  # another run has made it meanwhile
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id


def _beside(folder: Path) -> str:
    """The store of all runs that lie in one folder.

    Raises:
        ConfigError: they lie in an object store.
    """
    place = origin(folder)
    if not isinstance(place, Path):
        raise ConfigError(
            f"track.mlflow.uri: {place} lies in a store, where no database can; give a tracking server, or set {URI}"
        )
    return f"sqlite:///{place.absolute().parent}/mlflow.db"


def _name(figure: str) -> str:
    """As MLflow allows: it takes no `@`."""
    return figure.replace("@", "_at_")
