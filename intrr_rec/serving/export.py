"""`intrr export`: the best checkpoint of a run → a bundle.

Tables stay in their shards: the catalogue is made and written a chunk at a time, so that beside the model as it lies in the
ranks there is never more than a chunk of rows.

Shape suffixes: I items, U items of a chunk, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

from intrr_rec import artefact
from intrr_rec.artefact import Draft, file_hash
from intrr_rec.config import Recipe
from intrr_rec.errors import ConfigError
from intrr_rec.indexing.semantic_ids import SemanticIds
from intrr_rec.models.intrr import IntRR
from intrr_rec.models.rows import DTYPES, Rows, Width
from intrr_rec.parallel.apply import META, parallelize
from intrr_rec.parallel.checkpoint import COMPLETE
from intrr_rec.parallel.topology import World, join_world
from intrr_rec.serving.bundle import (
    GUIDANCE,
    ITEM_TABLE,
    KIND,
    MODEL,
    PATHS,
    REPRESENTATIONS,
    SCALE,
    SETTINGS,
    VALUES,
    BundleSettings,
)
from intrr_rec.serving.items import item_table
from intrr_rec.serving.tensor_file import TensorFile
from intrr_rec.training.checkpoints import BEST, Checkpoints
from intrr_rec.training.inputs import Inputs, reopen_inputs
from intrr_rec.training.run_dir import CHECKPOINTS

log = logging.getLogger(__name__)
CHUNK = 8192


def write_bundle(run: Path, out: Path, rows: Width = "float32") -> None:
    """Write the bundle of a run's best checkpoint; every rank of a job calls this, the main one writes.

    Args:
        run: the run folder.
        out: the bundle; one there is replaced when the new one is whole.
        rows: type of the representations on disk and in memory. bfloat16 takes half, int8 a quarter.

    Raises:
        ArtefactError: not a run folder, changed inputs, no checkpoint, or `out` holds something else.
        ConfigError: a kind of model that has no bundle.
    """
    inputs = reopen_inputs(run, ())
    require_exportable(inputs.recipe)
    with join_world() as world, ExitStack() as stack:
        parallel = parallelize(inputs.model(META), world, inputs.recipe, training=False)
        Checkpoints(run, parallel, world).load_best()
        model = parallel.model.eval()
        assert isinstance(model, IntRR)
        tensors = model_tensors(model)
        drafts: list[Draft] = []

        def begin() -> None:
            if world.is_main:
                drafts.append(stack.enter_context(artefact.writing(out, KIND, {"rows": rows, "run": run.name})))

        world.together(begin)
        draft = drafts[0] if drafts else None
        if draft is not None:
            write_small_files(draft.path, inputs, tensors, rows)
            draft.counts |= {"items": inputs.dataset.n_items, "levels": inputs.semantic_ids.levels}
            draft.parents |= {
                "dataset": inputs.dataset.manifest.content_hash,
                "semantic_ids": inputs.semantic_ids.manifest.content_hash,
                "checkpoint": file_hash(run / CHECKPOINTS / BEST / COMPLETE),
            }
        _write_tables(draft, inputs, model, rows, world)
    if world.is_main:
        log.info("wrote the bundle %s: %d items, rows in %s", out, inputs.dataset.n_items, rows)


def require_exportable(recipe: Recipe) -> None:
    """Refuse a kind of model that has no bundle.

    Raises:
        ConfigError: anything but IntRR.
    """
    if recipe.model.kind != "intrr":
        raise ConfigError(
            f"export: model.kind {recipe.model.kind} has no bundle, only intrr has; `intrr evaluate` ranks with this run"
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


def write_small_files(folder: Path, inputs: Inputs, tensors: Mapping[str, Tensor], rows: Width) -> None:
    """All files but the tables of rows; `tensors` are those of the model."""
    recipe, ids = inputs.recipe, inputs.semantic_ids
    settings = BundleSettings(
        model=recipe.model, evaluate=recipe.evaluate, codes_per_level=ids.codes_per_level, rows=rows
    )
    artefact.write_json(folder / SETTINGS, settings.model_dump(mode="json"))
    save_file(dict(tensors), folder / MODEL)
    save_file(ids.trie.tensors() | {"codes": narrow_codes(ids)}, folder / PATHS)
    pq.write_table(item_table(inputs.dataset), folder / ITEM_TABLE)


def narrow_codes(ids: SemanticIds) -> Tensor:
    """Semantic IDs of all items, in the narrowest type."""
    widest = max(ids.codes_per_level) - 1
    dtype = next(d for d in (torch.uint8, torch.int16, torch.int32) if widest <= torch.iinfo(d).max)
    return ids.codes_IL.to(dtype)


def _write_tables(draft: Draft | None, inputs: Inputs, model: IntRR, rows: Width, world: World) -> None:
    """Representations and guidance; a rank that has no draft only takes part in the look-ups."""
    shapes = {VALUES: (DTYPES[rows], (inputs.dataset.n_items, model.token_width))}
    if rows == "int8":
        shapes[SCALE] = (torch.float32, (inputs.dataset.n_items,))  # type: ignore[assignment]
    with ExitStack() as stack:
        files = []
        if draft is not None:
            files = [stack.enter_context(TensorFile(draft.path / name, shapes)) for name in (REPRESENTATIONS, GUIDANCE)]
        for first_row, tables in catalogue_chunks(inputs, model, world):
            for file, table_UD in zip(files, tables, strict=bool(files)):
                narrow = Rows.narrow(table_UD, rows)
                file.write(VALUES, first_row, narrow.values_ID)
                if narrow.scale_I is not None:
                    file.write(SCALE, first_row, narrow.scale_I)


@torch.no_grad()
def catalogue_chunks(inputs: Inputs, model: IntRR, world: World) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    """First row, and E_i and guidance `[U, D]`, of each chunk of the catalogue; every rank makes its share of each."""
    n_items, codebooks = inputs.dataset.n_items, model.codebooks()
    for first_row in range(0, n_items, CHUNK * world.size):
        left = n_items - first_row
        share = min(CHUNK, -(-left // world.size))
        items_U = (first_row + share * world.rank + torch.arange(share)).clamp(max=n_items - 1)
        content_UV = None
        if inputs.content_IV is not None:
            content_UV = torch.from_numpy(inputs.content_IV[items_U]).to(world.device)
        items_U = items_U.to(world.device)
        guidance_UD = model.guidance(items_U, content_UV)
        made = (model.assign(items_U, guidance_UD, codebooks).representation_UD, guidance_UD)
        gathered = tuple(world.gather_rows(table_UD)[:left] for table_UD in made)
        yield first_row, (gathered[0], gathered[1])
