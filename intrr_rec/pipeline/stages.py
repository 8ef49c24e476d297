"""The stages: the job of each, where its artefact lies, and what is wrong with the one that is there.

A stage is judged by the artefact alone, whoever made it: its hashes, the settings it was made with, and the hashes of what
it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torchx.specs import AppDef

from intrr_rec.config import Recipe, Section, load_recipe, same_run
from intrr_rec.data.raw.paths import table_files
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import file_hash
from intrr_rec.io.records import read_sealed
from intrr_rec.io.storage import Folder, Location, below
from intrr_rec.io.stores.staging import staged
from intrr_rec.pipeline.description import Pipeline, StageName
from intrr_rec.runs.parts import recorded_files, require_whole
from intrr_rec.runs.records import FIX
from intrr_rec.runs.run_files import CONFIG, INPUTS, RESULTS, weights_hash
from intrr_rec.runs.run_record import read_recipe, read_run_record
from intrr_rec.vectors.table import vectors_hash
from torchx_components import jobs
from torchx_components.launch import IMAGE

MISSING = "not there"


@dataclass(frozen=True)
class Stage:
    """One job of the pipeline.

    Attributes:
        place: what it makes.
        job: the job that makes it.
        fault: why what is there does not do, in a few words; None where it does.
        made: content hash of what is there.
    """

    name: StageName
    place: Location
    job: Callable[[], AppDef]
    fault: Callable[[], str | None]
    made: Callable[[], str]


def stages_of(pipeline: Pipeline) -> list[Stage]:
    """The stages in order.

    Raises:
        ConfigError: the recipe is not one.
    """
    with staged() as places:
        config = None if pipeline.recipe is None else places.bring(pipeline.recipe)
        recipe = load_recipe(config, pipeline.settings)
    dataset, ids, run, bundle = (pipeline.place(name) for name in ("dataset", "semantic_ids", "run", "bundle"))
    recipe_words: dict[str, Any] = {"config": str(pipeline.recipe) if pipeline.recipe else None}

    def settings(*sections: str) -> list[str]:
        return [word for word in pipeline.settings if word.split(".")[0] in sections]

    def prepare() -> AppDef:
        return jobs.prepare(
            *settings("prepare"),
            interactions=[str(path) for path in pipeline.interactions],
            items=str(pipeline.items) if pipeline.items else None,
            out=str(dataset),
            **recipe_words,
            **_place(pipeline, "prepare", ranks=False),
        )

    def index() -> AppDef:
        words = {"dataset": str(dataset), "vectors": str(pipeline.vectors), "out": str(ids), **recipe_words}
        return jobs.index(*settings("index"), **words, **_place(pipeline, "index"))

    def train() -> AppDef:
        words = {"dataset": str(dataset), "semantic_ids": str(ids), "out": str(run), **recipe_words}
        content = str(pipeline.vectors) if recipe.model.content or recipe.uses_neighbours else None
        return jobs.train(*pipeline.settings, **words, vectors=content, **_place(pipeline, "train"))

    def evaluate() -> AppDef:
        asked = [
            f"evaluate.{key}={json.dumps(value)}" for key, value in recipe.evaluate.model_dump(mode="json").items()
        ]
        return jobs.evaluate(*asked, run=str(run), **_place(pipeline, "evaluate"))

    def export() -> AppDef:
        return jobs.export(run=str(run), out=str(bundle), rows=pipeline.rows, **_place(pipeline, "export"))

    stages = [
        Stage("prepare", dataset, prepare, lambda: _dataset_fault(pipeline, dataset, recipe), lambda: _hash(dataset)),
        Stage("index", ids, index, lambda: _ids_fault(pipeline, ids, dataset, recipe), lambda: _hash(ids)),
        Stage("train", run, train, lambda: _run_fault(run, dataset, ids, recipe), lambda: _weights(run)),
        Stage(
            "evaluate",
            below(run, RESULTS),
            evaluate,
            lambda: _results_fault(run, recipe),
            lambda: Folder.at(run).hash(RESULTS),
        ),
    ]
    if recipe.model.kind_settings.exportable:
        stages.append(
            Stage("export", bundle, export, lambda: _bundle_fault(pipeline, bundle, run), lambda: _hash(bundle))
        )
    return stages


def _place(pipeline: Pipeline, stage: StageName, *, ranks: bool = True) -> dict[str, Any]:
    """The arguments of a component that say where and how often it runs."""
    ask = pipeline.ask(stage)
    where = {"h": ask.h, "max_retries": ask.max_retries, "image": pipeline.image or IMAGE}
    where |= {"env": dict(pipeline.env), "mounts": list(pipeline.mounts)}
    return where | ({"j": ask.j, "rdzv_port": pipeline.rdzv_port} if ranks else {})


def _dataset_fault(pipeline: Pipeline, place: Location, recipe: Recipe) -> str | None:
    with staged() as places:
        tables = [places.bring(table) for table in (*pipeline.interactions, pipeline.items) if table]
        raw = [path for table in tables for path in table_files(table)]
        return _fault(place, "dataset", recipe.prepare, sorted(file_hash(path) for path in raw))


def _ids_fault(pipeline: Pipeline, place: Location, dataset: Location, recipe: Recipe) -> str | None:
    with staged() as places:
        vectors = vectors_hash(places.bring(pipeline.vectors))
    return _fault(place, "semantic ids", recipe.index, sorted([_hash(dataset), vectors]))


def _fault(place: Location, kind: str, settings: Section, parents: list[str]) -> str | None:
    if not _is_there(place):
        return MISSING
    try:
        manifest = artefact.read(place, kind)
    except ArtefactError as error:
        return str(error)
    if changed := _changed(manifest.config, settings.model_dump(mode="json")):
        return f"made with another {changed}"
    return None if sorted(manifest.parents.values()) == parents else "made from other inputs"


def _changed(was: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first setting that differs."""
    return next((key for key, value in now.items() if was.get(key) != value), None)


def _run_fault(place: Location, dataset: Location, ids: Location, recipe: Recipe) -> str | None:
    with staged() as places:
        return _fault_of_run(places.run(place, write=False, anew=True), dataset, ids, recipe)


def _fault_of_run(run: Path, dataset: Location, ids: Location, recipe: Recipe) -> str | None:
    if not (run / INPUTS).is_file():
        return MISSING
    hashes = read_run_record(run).hashes.model_dump()
    if hashes != {"dataset": _hash(dataset), "semantic_ids": _hash(ids)}:
        raise ConfigError(
            f"{run}: was trained on other artefacts than the dataset and the Semantic IDs beside it; move it away, or give the pipeline another work"
        )
    saved = read_recipe(run)
    if not same_run(run / CONFIG, recipe.model_copy(update={"evaluate": saved.evaluate})):
        return "trained with other settings"
    return None if (run / RESULTS).is_file() else "not finished"


def _results_fault(place: Location, recipe: Recipe) -> str | None:
    with staged() as places:
        return _fault_of_results(places.run(place, write=False, anew=True), recipe)


def _fault_of_results(run: Path, recipe: Recipe) -> str | None:
    if not (run / RESULTS).is_file():
        return MISSING
    try:
        require_whole(run, recorded_files(run))
    except ArtefactError:
        return "interrupted"
    changed = _changed(
        (read_sealed(run / RESULTS, FIX) or {}).get("evaluate", {}), recipe.evaluate.model_dump(mode="json")
    )
    return f"made with another {changed}" if changed else None


def _bundle_fault(pipeline: Pipeline, place: Location, run: Location) -> str | None:
    if not _is_there(place):
        return MISSING
    try:
        manifest = artefact.read(place, "bundle")
    except ArtefactError as error:
        return str(error)
    if manifest.config["rows"] != pipeline.rows:
        return "made with other rows"
    return None if manifest.parents["checkpoint"] == _weights(run) else "made from another checkpoint"


def _weights(place: Location) -> str:
    with staged() as places:
        return weights_hash(places.run(place, write=False, anew=True))


def _is_there(place: Location) -> bool:
    return Folder.at(place).is_folder()


def _hash(place: Location) -> str:
    return artefact.peek(place).content_hash
