"""The pipeline of every day: new logs are added, training goes on from the day before, the better model is served.

All is told by what lies there. The run folder of a day is called after the Semantic IDs and the settings that it learns from, so that a day
that was killed goes on in it, and the next day gets one of its own.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torchx.specs import AppDef

from intrr_rec.config import PrepareConfig, Recipe
from intrr_rec.config.promotion import load_rule
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.io import artefact
from intrr_rec.io.formats.records import as_record
from intrr_rec.io.registry import decisions, read_decision, read_registry
from intrr_rec.io.stores.staging import staged
from intrr_rec.io.stores.storage import Location, below
from intrr_rec.pipeline import faults
from intrr_rec.pipeline.day_runs import LETTERS, Runs
from intrr_rec.pipeline.description import Pipeline
from intrr_rec.pipeline.faults import MISSING, content_hash, is_there
from intrr_rec.pipeline.new_logs import RECORD, Logs
from intrr_rec.pipeline.servers import reload_servers
from intrr_rec.pipeline.stages import Line, Stage
from torchx_components import jobs

KEEP_ROWS = "prepare.keep_rows=true"


class Day(Line):
    """The line of a day.

    Raises:
        ConfigError: a recipe or a rule that cannot be read, or that does not go with a pipeline of every day.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline)
        assert pipeline.daily is not None and pipeline.records is not None
        self.daily = pipeline.daily
        self.runs = Runs(pipeline.place("runs"), pipeline.registry)
        self.logs = Logs(pipeline.interactions, self.dataset, pipeline.records / RECORD)
        self.of_first_day = (*pipeline.settings, KEEP_ROWS)
        self.of_later_days = (*pipeline.settings, *self.daily.settings, KEEP_ROWS)
        self.first, self.later = map(self.read_recipe, (self.of_first_day, self.of_later_days))
        with staged() as places:
            load_rule(None if self.daily.rule is None else places.bring(self.daily.rule))
        for name in ("prepare", "index"):
            if getattr(self.later, name) != getattr(self.first, name):
                raise ConfigError(f"daily.settings: {name} stays as it was on the first day; leave its settings out")
        if not self.first.model.kind_settings.exportable:
            raise ConfigError(f"daily: model.kind {self.first.model.kind} has no bundle, so it cannot be served")

    @property
    def is_later(self) -> bool:
        """Whether a run of another day is finished."""
        first = self._name(self.first)
        return any(name != first for name in self.runs.finished())

    @property
    def settings(self) -> tuple[str, ...]:
        """Of the day."""
        return self.of_later_days if self.is_later else self.of_first_day

    @property
    def recipe(self) -> Recipe:
        """Of the day."""
        return self.later if self.is_later else self.first

    def run(self) -> Location:
        """The run folder of the day."""
        return below(self.runs.place, self._name(self.recipe))

    def stages(self) -> list[Stage]:
        """In order."""
        prepare, *others = super().stages()
        promote = Stage(
            "promote",
            lambda: self.runs.registry,
            self.promote,
            self.promotion_fault,
            lambda: content_hash(self.bundle),
            self.after_promotion,
        )
        return [
            Stage(prepare.name, prepare.place, prepare.job, prepare.fault, prepare.made, self.logs.note),
            *others,
            promote,
        ]

    def dataset_fault(self) -> str | None:
        """What is wrong with the dataset: logs that are not in it yet.

        Raises:
            ConfigError: another preparation than that of the first day.
            DataError: logs that cannot be added.
        """
        if not is_there(self.dataset):
            return MISSING
        try:
            manifest = artefact.read(self.dataset, "dataset")
        except ArtefactError as error:
            return str(error)
        where = f"{self.dataset}/{artefact.MANIFEST}"
        was = as_record(manifest.config, PrepareConfig, where, "prepare the logs again").model_dump(mode="json")
        asked = self.first.prepare.model_dump(mode="json")
        if changed := faults.changed(was, asked):
            raise ConfigError(
                f"prepare.{changed}: {asked[changed]!r} was asked for, but {self.dataset} was prepared with {was[changed]!r}; put "
                "that back, or give the pipeline another work"
            )
        count = len(self.logs.new())
        return f"{count} new files of logs" if count else None

    def prepare(self) -> AppDef:
        """All logs → dataset on the first day, then the new ones into it."""
        return self.prepare_job(self.logs.new(), append=True) if is_there(self.dataset) else super().prepare()

    def ids_fault(self) -> str | None:
        """What is wrong with the Semantic IDs, which may extend those of the day before."""
        return faults.ids_fault(self.ids, self.vectors, self.dataset, self.first, may_extend=True)

    def index(self) -> AppDef:
        """Vectors → Semantic IDs on the first day, then newcomers into them."""
        return self.index_job(str(self.ids) if is_there(self.ids) else None)

    def train(self) -> AppDef:
        """Dataset and Semantic IDs → run, from that of another day where there is one."""
        start = self.runs.start(self._name(self.recipe))
        return self.train_job(None if start is None else str(start))

    def promote(self) -> AppDef:
        """Bundle → registry, if the rule holds."""
        rule = None if self.daily.rule is None else str(self.daily.rule)
        words: dict[str, Any] = {"bundle": str(self.bundle), "over": str(self.runs.registry), "on": str(self.dataset)}
        return jobs.promote(**words, rule=rule, **self.where("promote", ranks=False))

    def promotion_fault(self) -> str | None:
        """Why the bundle is to be judged; None where it was: promoted, kept out, or rolled back since.

        A decision to promote that was written and not carried out was killed in between.
        """
        found = read_registry(self.runs.registry)
        if found is None:
            return MISSING
        candidate = content_hash(self.bundle)
        for number in reversed(decisions(self.runs.registry)):
            decision = read_decision(self.runs.registry, number)
            if decision.get("candidate") == candidate:
                return "interrupted" if decision.get("promoted") and number > found.decision else None
        return "not judged yet"

    def after_promotion(self) -> None:
        """Have the servers serve the current bundle, and remove old runs; before the first bundle there is no server."""
        found = read_registry(self.runs.registry)
        if found is not None and found.previous is not None:
            reload_servers(self.daily.servers, found.current)
        self.runs.prune(self._name(self.recipe), self.daily.keep)

    def _name(self, recipe: Recipe) -> str:
        asked = recipe.model_dump(mode="json", exclude={"evaluate", "serve", "track"})
        ids = content_hash(self.ids) if is_there(self.ids) else None
        return hashlib.sha256(json.dumps([ids, asked], sort_keys=True).encode()).hexdigest()[:LETTERS]


def stages_of(pipeline: Pipeline) -> list[Stage]:
    """The stages of a pipeline, or of a day of it, in order.

    Raises:
        ConfigError: a recipe or a rule that cannot be read, or that does not go with a pipeline of every day.
    """
    return (Line(pipeline) if pipeline.daily is None else Day(pipeline)).stages()
