"""The stages: the job of each, where its artefact lies, and what is wrong with the one that is there.

A stage is judged by the artefact alone, whoever made it: its hashes, the settings it was made with, and the hashes of what
it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchx.specs import AppDef

from intrr_rec.config import Recipe, load_recipe
from intrr_rec.io.stores.staging import staged
from intrr_rec.io.stores.storage import Folder, Location, below, location
from intrr_rec.pipeline import faults
from intrr_rec.pipeline.description import Embed, Pipeline, StageName
from intrr_rec.pipeline.faults import content_hash
from intrr_rec.runs.run_files import RESULTS
from torchx_components import jobs
from torchx_components.launch import IMAGE


@dataclass(frozen=True)
class Stage:
    """One job of the pipeline.

    Attributes:
        place: what it makes; asked once the stages before are up to date.
        job: the job that makes it.
        fault: why what is there does not do, in a few words; None where it does.
        made: content hash of what is there.
        after: done whenever the stage is found or brought up to date.
    """

    name: StageName
    place: Callable[[], Location]
    job: Callable[[], AppDef]
    fault: Callable[[], str | None]
    made: Callable[[], str]
    after: Callable[[], None] = lambda: None


class Line:
    """The artefacts of a pipeline and the jobs that make them.

    Args:
        pipeline: its description.

    Raises:
        ConfigError: the recipe is not one.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._recipe = self.read_recipe(pipeline.settings)
        self.dataset, self.ids, self.bundle = map(pipeline.place, ("dataset", "semantic_ids", "bundle"))
        self.vectors = pipeline.place("vectors") if pipeline.vectors is None else location(pipeline.vectors)

    @property
    def settings(self) -> tuple[str, ...]:
        """Words over the recipe's file."""
        return self.pipeline.settings

    @property
    def recipe(self) -> Recipe:
        """What all verbs are given."""
        return self._recipe

    def stages(self) -> list[Stage]:
        """In order."""
        made = [
            Stage("prepare", lambda: self.dataset, self.prepare, self.dataset_fault, lambda: content_hash(self.dataset))
        ]
        if (embed := self.pipeline.embed) is not None:
            made.append(
                Stage(
                    "embed",
                    lambda: self.vectors,
                    lambda: self.embed(embed),
                    lambda: faults.vectors_fault(self.vectors, self.dataset, embed),
                    lambda: content_hash(self.vectors),
                )
            )
        made += [
            Stage("index", lambda: self.ids, self.index, self.ids_fault, lambda: content_hash(self.ids)),
            Stage("train", self.run, self.train, self.run_fault, lambda: faults.weights(self.run())),
            Stage(
                "evaluate",
                lambda: below(self.run(), RESULTS),
                self.evaluate,
                lambda: faults.results_fault(self.run(), self.recipe),
                lambda: Folder.at(self.run()).hash(RESULTS),
            ),
        ]
        if self.recipe.model.kind_settings.exportable:
            made.append(
                Stage(
                    "export",
                    lambda: self.bundle,
                    self.export,
                    lambda: faults.bundle_fault(self.pipeline, self.bundle, self.run()),
                    lambda: content_hash(self.bundle),
                )
            )
        return made

    def run(self) -> Location:
        """The run folder."""
        return self.pipeline.place("run")

    def dataset_fault(self) -> str | None:
        """What is wrong with the dataset."""
        return faults.dataset_fault(self.pipeline, self.dataset, self.recipe)

    def ids_fault(self) -> str | None:
        """What is wrong with the Semantic IDs."""
        return faults.ids_fault(self.ids, self.vectors, self.dataset, self.recipe)

    def run_fault(self) -> str | None:
        """What is wrong with the run."""
        return faults.run_fault(self.run(), self.dataset, self.ids, self.recipe)

    def prepare(self) -> AppDef:
        """All logs → dataset."""
        return self.prepare_job([str(path) for path in self.pipeline.interactions])

    def prepare_job(self, interactions: list[str], *, append: bool = False) -> AppDef:
        """The job that prepares logs, or adds them."""
        return jobs.prepare(
            *self._settings_of("prepare"),
            interactions=interactions,
            items=str(self.pipeline.items) if self.pipeline.items else None,
            out=str(self.dataset),
            append=append,
            **self._recipe_words,
            **self.where("prepare", ranks=False),
        )

    def embed(self, embed: Embed) -> AppDef:
        """Item texts → vectors."""
        words: dict[str, Any] = {"dataset": str(self.dataset), "out": str(self.vectors)}
        return jobs.embed(**words, model=embed.model, text_column=embed.text_column, **self.where("embed", ranks=False))

    def index(self) -> AppDef:
        """Vectors → Semantic IDs."""
        return self.index_job(None)

    def index_job(self, extend: str | None) -> AppDef:
        """The job that builds Semantic IDs, or extends others."""
        words: dict[str, Any] = {"dataset": str(self.dataset), "vectors": str(self.vectors), "out": str(self.ids)}
        own = self._settings_of("index")
        return jobs.index(*own, **words, extend=extend, **self._recipe_words, **self.where("index"))

    def train(self) -> AppDef:
        """Dataset and Semantic IDs → run."""
        return self.train_job(None)

    def train_job(self, init_from: str | None) -> AppDef:
        """The job that trains, from another run if one is given."""
        words: dict[str, Any] = {"dataset": str(self.dataset), "semantic_ids": str(self.ids), "out": str(self.run())}
        content = str(self.vectors) if self.recipe.model.content or self.recipe.uses_neighbours else None
        words |= self._recipe_words
        return jobs.train(*self.settings, **words, vectors=content, init_from=init_from, **self.where("train"))

    def evaluate(self) -> AppDef:
        """Run → test metrics."""
        dumped = self.recipe.evaluate.model_dump(mode="json")
        asked = [f"evaluate.{key}={json.dumps(value)}" for key, value in dumped.items()]
        return jobs.evaluate(*asked, run=str(self.run()), **self.where("evaluate"))

    def export(self) -> AppDef:
        """Run → bundle."""
        return jobs.export(run=str(self.run()), out=str(self.bundle), rows=self.pipeline.rows, **self.where("export"))

    def where(self, stage: StageName, *, ranks: bool = True) -> dict[str, Any]:
        """The arguments of a component that say where and how often it runs."""
        pipeline, ask = self.pipeline, self.pipeline.ask(stage)
        where = {"h": ask.h, "max_retries": ask.max_retries, "image": pipeline.image or IMAGE}
        where |= {"env": dict(pipeline.env), "mounts": list(pipeline.mounts)}
        return where | ({"j": ask.j, "rdzv_port": pipeline.rdzv_port} if ranks else {})

    def read_recipe(self, settings: Sequence[str]) -> Recipe:
        """The pipeline's recipe with these settings."""
        with staged() as places:
            config: Path | None = None
            if self.pipeline.recipe is not None:
                config = places.bring(self.pipeline.recipe)
            return load_recipe(config, settings)

    @property
    def _recipe_words(self) -> dict[str, Any]:
        return {"config": str(self.pipeline.recipe) if self.pipeline.recipe else None}

    def _settings_of(self, section: str) -> list[str]:
        return [word for word in self.settings if word.split(".")[0] == section]
