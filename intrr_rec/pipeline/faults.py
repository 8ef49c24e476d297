"""What is wrong with the artefact of a stage, in a few words: its hashes, its settings, and the hashes of what it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from intrr_rec.config import Recipe, Section, same_run
from intrr_rec.data.raw.paths import table_files
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import file_hash
from intrr_rec.io.formats.records import read_sealed
from intrr_rec.io.stores.staging import staged
from intrr_rec.io.stores.storage import Folder, Location
from intrr_rec.pipeline.description import Embed, Pipeline
from intrr_rec.runs.parts import recorded_files, require_whole
from intrr_rec.runs.records import FIX
from intrr_rec.runs.run_files import CONFIG, INPUTS, RESULTS, weights_hash
from intrr_rec.runs.run_record import read_recipe, read_run_record
from intrr_rec.vectors.embed import DEFAULT_MODEL
from intrr_rec.vectors.table import vectors_hash

MISSING = "not there"


def dataset_fault(pipeline: Pipeline, place: Location, recipe: Recipe) -> str | None:
    """Of a dataset made of all logs at once."""
    with staged() as places:
        tables = [places.bring(table) for table in (*pipeline.interactions, pipeline.items) if table]
        raw = [path for table in tables for path in table_files(table)]
        return _fault(place, "dataset", recipe.prepare, sorted(file_hash(path) for path in raw))


def vectors_fault(place: Location, dataset: Location, embed: Embed) -> str | None:
    """Of vectors that `intrr embed` makes."""
    if not is_there(place):
        return MISSING
    try:
        manifest = artefact.read(place, "vectors")
    except ArtefactError as error:
        return str(error)
    asked = {"encoder": embed.model or DEFAULT_MODEL, "text_column": embed.text_column}
    if other := changed(manifest.config, asked):
        return f"made with another {other}"
    return None if manifest.parents.get("dataset") == content_hash(dataset) else "made from another dataset"


def ids_fault(
    place: Location, vectors: Location, dataset: Location, recipe: Recipe, *, may_extend: bool = False
) -> str | None:
    """Of Semantic IDs.

    Args:
        may_extend: those that extend others do as well, which are a third parent.
    """
    with staged() as places:
        parents = {content_hash(dataset), vectors_hash(places.bring(vectors))}
    if may_extend and is_there(place) and (before := artefact.peek(place).parents.get("semantic ids")):
        parents.add(before)
    return _fault(place, "semantic ids", recipe.index, sorted(parents))


def run_fault(place: Location, dataset: Location, ids: Location, recipe: Recipe) -> str | None:
    """Of a run that is to learn from these two.

    Raises:
        ConfigError: it learns from others.
    """
    with staged() as places:
        run = places.run(place, write=False, anew=True)
        if not (run / INPUTS).is_file():
            return MISSING
        hashes = read_run_record(run).hashes.model_dump()
        if hashes != {"dataset": content_hash(dataset), "semantic_ids": content_hash(ids)}:
            raise ConfigError(
                f"{run}: was trained on other artefacts than the dataset and the Semantic IDs beside it; move it away, or give the pipeline another work"
            )
        saved = read_recipe(run)
        if not same_run(run / CONFIG, recipe.model_copy(update={"evaluate": saved.evaluate})):
            return "trained with other settings"
        return None if (run / RESULTS).is_file() else "not finished"


def results_fault(place: Location, recipe: Recipe) -> str | None:
    """Of the test metrics of a run."""
    with staged() as places:
        run = places.run(place, write=False, anew=True)
        if not (run / RESULTS).is_file():
            return MISSING
        try:
            require_whole(run, recorded_files(run))
        except ArtefactError:
            return "interrupted"
        results = read_sealed(run / RESULTS, FIX) or {}
        was = results.get("evaluate")
        other = changed(was if isinstance(was, dict) else {}, recipe.evaluate.model_dump(mode="json"))
        return f"made with another {other}" if other else None


def bundle_fault(pipeline: Pipeline, place: Location, run: Location) -> str | None:
    """Of the bundle of a run."""
    if not is_there(place):
        return MISSING
    try:
        manifest = artefact.read(place, "bundle")
    except ArtefactError as error:
        return str(error)
    if manifest.config.get("rows") != pipeline.rows:
        return "made with other rows"
    return None if manifest.parents.get("checkpoint") == weights(run) else "made from another checkpoint"


def _fault(place: Location, kind: str, settings: Section, parents: list[str]) -> str | None:
    if not is_there(place):
        return MISSING
    try:
        manifest = artefact.read(place, kind)
    except ArtefactError as error:
        return str(error)
    if other := changed(manifest.config, settings.model_dump(mode="json")):
        return f"made with another {other}"
    return None if sorted(manifest.parents.values()) == parents else "made from other inputs"


def changed(was: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first setting that differs."""
    return next((key for key, value in now.items() if was.get(key) != value), None)


def weights(place: Location) -> str:
    """What tells the best checkpoint of a run from any other."""
    with staged() as places:
        return weights_hash(places.run(place, write=False, anew=True))


def is_there(place: Location) -> bool:
    """Whether anything lies at a place."""
    return Folder.at(place).is_folder()


def content_hash(place: Location) -> str:
    """That of an artefact, by its manifest."""
    return artefact.peek(place).content_hash
