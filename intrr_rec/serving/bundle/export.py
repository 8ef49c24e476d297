"""`intrr export`: the best checkpoint of a run → a bundle.

Tables stay in their shards: the catalogue is made and written a chunk at a time, so that beside the model as it lies in the
ranks there is never more than a chunk of rows.

Shape suffixes: I items, U items of a chunk, D width.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pyarrow as pa
import torch
from safetensors.torch import save_file
from torch import Tensor

from intrr_rec.config import PrepareConfig, Recipe
from intrr_rec.data.dataset import USERS, Dataset
from intrr_rec.data.features.space import Space
from intrr_rec.data.features.store import FEATURES, FeatureRecord
from intrr_rec.data.raw.files import IdKind
from intrr_rec.distributed.world import World, join_world
from intrr_rec.errors import ConfigError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import MANIFEST, Draft
from intrr_rec.io.disk.atomic import write_json, write_text
from intrr_rec.io.formats.records import as_record
from intrr_rec.models.embeddings.features import FEATURE_TABLE
from intrr_rec.models.embeddings.item_embeddings import DTYPES, Rows, Width
from intrr_rec.models.embeddings.tables import look_up
from intrr_rec.models.intrr import IntRR
from intrr_rec.models.neighbours.terms import NeighbourTable
from intrr_rec.runs.inputs import Inputs
from intrr_rec.runs.neighbours import build_neighbours
from intrr_rec.runs.open_run import open_run
from intrr_rec.runs.run_files import weights_hash
from intrr_rec.semantic_ids.artefact import CODES, TRIE
from intrr_rec.serving.bundle.bundle import (
    ITEM_ARRAYS,
    ITEM_TABLE,
    KIND,
    NEIGHBOURS,
    SETTINGS,
    BundleSettings,
)
from intrr_rec.serving.bundle.catalogue import Catalogue
from intrr_rec.serving.bundle.features import CHUNK as FEATURE_CHUNK
from intrr_rec.serving.bundle.features import FEATURE_ROWS, ROWS
from intrr_rec.serving.bundle.items import write_items
from intrr_rec.serving.bundle.tensor_file import TensorFile
from intrr_rec.serving.bundle.trained import GUIDANCE, ITEM_EMBEDDINGS, MODEL, SCALE, VALUES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grown:
    """Where a later version of the catalogue lies: the dataset, its extended Semantic IDs, its vectors."""

    dataset: Path
    semantic_ids: Path
    vectors: Path | None = None


def write_bundle(run: Path, out: Path, rows: Width = "float32", grown: Grown | None = None) -> None:
    """Write the bundle of a run's best checkpoint; every rank of a job calls this, the main one writes.

    Args:
        run: the run folder.
        out: the bundle; one there is replaced when the new one is whole.
        rows: type of the representations on disk and in memory. bfloat16 takes half, int8 a quarter.
        grown: a later catalogue; None is the run's own.

    Raises:
        ArtefactError: not a run folder, changed inputs, no checkpoint, or `out` holds something else.
        ConfigError: a kind of model that has no bundle.
    """
    with join_world() as world, ExitStack() as stack:
        drafts: list[Draft] = []

        def begin() -> None:
            if world.is_main:
                drafts.append(stack.enter_context(artefact.writing(out, KIND, {"rows": rows, "run": run.name})))

        world.agree(begin)
        catalogues: list[Catalogue] = []

        def check(inputs: Inputs) -> None:
            require_exportable(inputs.recipe)
            if grown is None:
                catalogues.append(Catalogue.of_run(inputs))
            else:
                catalogues.append(Catalogue.grown(inputs, grown.dataset, grown.semantic_ids, grown.vectors))

        opened = open_run(run, world, check=check)
        inputs = opened.inputs
        (catalogue,) = catalogues
        draft = drafts[0] if drafts else None
        if draft is not None:
            write_small_files(draft.path, inputs, catalogue, rows, opened.state.get("ranking"))
            draft.counts |= {
                "items": catalogue.dataset.n_items,
                "levels": catalogue.semantic_ids.levels,
                "newcomers": catalogue.newcomers,
            }
            draft.parents |= {
                "dataset": catalogue.dataset.manifest.content_hash,
                "semantic_ids": catalogue.semantic_ids.manifest.content_hash,
                "checkpoint": weights_hash(run, opened.checkpoint),
            }
        if inputs.recipe.model.kind_settings.learns:
            model = cast(IntRR, opened.model)
            write_model(draft, catalogue, model, rows, world)
            if inputs.space.reads_slots:
                write_features(None if draft is None else draft.path, inputs.space, model, world.device)
        if inputs.recipe.uses_neighbours:
            config = inputs.recipe.model.neighbours
            table = build_neighbours(catalogue.dataset, catalogue.neighbour_IV, config, world)
            if draft is not None:
                write_neighbours(draft.path, table)
    if world.is_main:
        log.info(
            "wrote the bundle %s: %d items, %d of them newcomers; rows in %s",
            out,
            catalogue.dataset.n_items,
            catalogue.newcomers,
            rows,
        )


def require_exportable(recipe: Recipe) -> None:
    """Refuse a kind of model that has no bundle.

    Raises:
        ConfigError: anything but IntRR and `item_knn`.
    """
    if not recipe.model.kind_settings.exportable:
        raise ConfigError(
            f"export: model.kind {recipe.model.kind} has no bundle, intrr and item_knn have; `intrr evaluate` ranks with this run"
        )


@torch.no_grad()
def model_tensors(model: IntRR) -> dict[str, Tensor]:
    """What `model.safetensors` holds, on the CPU; every rank calls this."""
    parts = {"backbone": model.backbone, "ran": model.ran, "item_ran": model.item_ran, "dense": model.dense}
    tensors = {
        f"{name}.{key}": value
        for name, module in parts.items()
        if module is not None
        for key, value in module.state_dict().items()
    }
    tensors |= {f"codebook.{level}": book_KD for level, book_KD in enumerate(model.codebooks())}
    if model.item_codebooks is not None:
        tensors |= {f"item_codebook.{level}": book_KD for level, book_KD in enumerate(model.item_codebooks())}
    return {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}


def _prepared(dataset: Dataset) -> PrepareConfig:
    return as_record(dataset.manifest.config, PrepareConfig, f"{dataset.path}/{MANIFEST}", "prepare the logs again")


def write_small_files(
    folder: Path,
    inputs: Inputs,
    catalogue: Catalogue,
    rows: Width,
    ranking: Sequence[float] | None = None,
) -> None:
    """All files but those of the model and the neighbours; `ranking` are the fitted weights."""
    ids = catalogue.semantic_ids
    dataset = catalogue.dataset
    declared = _prepared(inputs.dataset).features
    settings = BundleSettings(
        model=inputs.recipe.model,
        evaluate=inputs.recipe.evaluate,
        codes_per_level=ids.codes_per_level,
        rows=rows,
        prepare=_prepared(dataset).model_copy(update={"features": declared}),
        time_unit=dataset.time_unit,
        item_ids=_kind(dataset.own_ids([0])),
        user_ids=_kind(dataset.take(USERS, ["user_id"], [0])["user_id"]),
        ranking=None if ranking is None else tuple(ranking),
    )
    write_json(folder / SETTINGS, settings.model_dump(mode="json"))
    for name in (CODES, TRIE):
        ids.copy(name, folder / name)
    is_new_I = None if catalogue.row_I is None else (catalogue.row_I < 0).numpy()
    write_items(catalogue.dataset, is_new_I, folder / ITEM_TABLE, folder / ITEM_ARRAYS)


def write_neighbours(folder: Path, table: NeighbourTable) -> None:
    """The table of neighbours as flat arrays."""
    tensors = {"items": table.item_IM, "terms": table.term_IMF, "popular": table.popular_I}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / NEIGHBOURS)


def _kind(ids: pa.Array) -> IdKind:
    return "string" if pa.types.is_string(ids.type) else "integer"


def write_model(draft: Draft | None, catalogue: Catalogue, model: IntRR, rows: Width, world: World) -> None:
    """Modules, representations and guidance; a rank that has no draft only takes part in the look-ups."""
    tensors = model_tensors(model)
    if draft is not None:
        save_file(tensors, draft.path / MODEL)
    shapes = {VALUES: (DTYPES[rows], (catalogue.dataset.n_items, model.token_width))}
    if rows == "int8":
        shapes[SCALE] = (torch.float32, (catalogue.dataset.n_items,))  # type: ignore[assignment]
    with ExitStack() as stack:
        files = []
        if draft is not None:
            files = [stack.enter_context(TensorFile(draft.path / name, shapes)) for name in (ITEM_EMBEDDINGS, GUIDANCE)]
        for first_row, tables in catalogue.chunks(model, world):
            for file, table_UD in zip(files, tables, strict=bool(files)):
                narrow = Rows.narrow(table_UD, rows)
                file.write(VALUES, first_row, narrow.values_ID)
                if narrow.scale_I is not None:
                    file.write(SCALE, first_row, narrow.scale_I)


def write_features(folder: Path | None, space: Space, model: IntRR, device: torch.device) -> None:
    """Write columns and rows, some at a time; every rank calls this, one without a folder only takes part in the look-ups.

    Args:
        space: all columns that the model reads.
    """
    own = space.of_slots
    if folder is None:
        for _ in _rows(space, own, model, device):
            pass
        return
    record = FeatureRecord(columns=own.columns).model_dump(mode="json", exclude_defaults=True)
    write_text(folder / FEATURES, json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")
    with TensorFile(folder / FEATURE_ROWS, {ROWS: (torch.float32, (own.rows, model.token_width))}) as file:
        for first, rows_RD in _rows(space, own, model, device):
            file.write(ROWS, first, rows_RD)


@torch.no_grad()
def _rows(space: Space, own: Space, model: IntRR, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    assert model.features is not None
    row_R = torch.from_numpy(space.rows_of(own))
    for first in range(0, own.rows, FEATURE_CHUNK):
        asked_R = row_R[first : first + FEATURE_CHUNK].to(device)
        yield first, look_up(model.features.collection, FEATURE_TABLE, asked_R).float()
