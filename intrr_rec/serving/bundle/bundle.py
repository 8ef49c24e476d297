"""The bundle: all that recommending needs, and nothing that training does. An artefact written by `intrr export`.

settings.json                 model and ranking settings, level sizes
model.safetensors             backbone, RAN, codebooks, dense head; the item side's own RAN and codebooks where it has some
item_embeddings.safetensors   E_i of every item: float32, bfloat16, or int8 with a scale a row
guidance.safetensors          what guides each item's redistribution, as wide; read a row at a time, on demand
codes.safetensors             Semantic IDs as narrow as they fit: the file of the Semantic IDs' artefact
trie.safetensors              the trie over them: likewise
items.parquet                 own ids, titles, popularity, columns to filter by
neighbours.safetensors        each item's neighbours and their terms, where they are part of the ranking

What has a row an item is mapped where it is large, so that the processes of a host share one copy.
Opening one starts no process group and reads no recipe, dataset or table of TorchRec's.

Shape suffixes: I items, U items looked up, D width, L levels, K codes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from intrr_rec.config import EvaluateConfig, ModelConfig, PrepareConfig
from intrr_rec.config.time_units import TimeUnit
from intrr_rec.data.loading.batch import Layout
from intrr_rec.data.raw.files import IdKind
from intrr_rec.decoding.filters import Leaves
from intrr_rec.decoding.ranker import FEATURES, Ranker
from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import Manifest, Opened
from intrr_rec.io.records import as_record
from intrr_rec.models.backbones.backbone import make_backbone
from intrr_rec.models.dense_head import DenseHead
from intrr_rec.models.embeddings.item_embeddings import DTYPES, Rows, Width
from intrr_rec.models.neighbours import TERMS, NeighbourTable
from intrr_rec.models.ran import Ran
from intrr_rec.models.ran_decoder import RanSteps
from intrr_rec.semantic_ids.artefact import CODES, NAME, TRIE, codes_fit
from intrr_rec.semantic_ids.trie import PrefixTrie
from intrr_rec.serving.bundle.items import ItemTable
from intrr_rec.serving.bundle.tensor_file import RowFile

KIND = "bundle"
# Of what lies in the files: an older bundle is refused, not misread.
SCHEMA = 6
SETTINGS, MODEL, ITEM_TABLE = "settings.json", "model.safetensors", "items.parquet"
ITEM_EMBEDDINGS, GUIDANCE = "item_embeddings.safetensors", "guidance.safetensors"
NEIGHBOURS = "neighbours.safetensors"
VALUES, SCALE = "values", "scale"
REQUIRED = (SETTINGS, MODEL, CODES, TRIE, ITEM_TABLE, ITEM_EMBEDDINGS, GUIDANCE)
M = TypeVar("M", bound=nn.Module)
CHUNK = 65_536  # rows that are looked at together


class BundleSettings(BaseModel):
    """What `settings.json` holds: the bundle's schema, the model, how it ranks, K_l of each level, the type of the rows, the fitted weights of the ranking; and how the
    logs of its dataset were read, what numbers in their time column counted, and what their ids are: `intrr recommend` reads events in the same way and answers in that type.
    """

    model_config = ConfigDict(extra="forbid")

    bundle_schema: int = SCHEMA
    model: ModelConfig
    evaluate: EvaluateConfig
    codes_per_level: tuple[Annotated[int, Field(ge=1, le=1 << 31)], ...] = Field(min_length=2, max_length=64)
    rows: Width
    prepare: PrepareConfig = PrepareConfig()
    time_unit: TimeUnit | None = None
    item_ids: IdKind = "string"
    user_ids: IdKind | None = None
    ranking: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened bundle.

    Attributes:
        backbone: in evaluation mode, like all modules here.
        ranker: RAN, codebooks, trie, dense head and the representations of all items.
        ran, codebooks: of the user side; the ranker has them made ready for decoding.
        item_ran, item_codebooks: of the item side; the user side's where it has none of its own.
        codes_IL: Semantic IDs, as narrow as they fit, on the host.
        items: own ids, titles, popularity, columns.
        guidance_file: what guides each item's redistribution.
    """

    path: Path
    manifest: Manifest
    settings: BundleSettings
    device: torch.device
    backbone: Callable[[Tensor, Layout, Tensor], Tensor]
    ranker: Ranker
    ran: Ran
    codebooks: tuple[Tensor, ...]
    item_ran: Ran
    item_codebooks: tuple[Tensor, ...]
    codes_IL: Tensor
    items: ItemTable
    guidance_file: RowFile

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> Bundle:
        """Verify and open a bundle.

        Args:
            path: of the bundle.
            device: of all tensors.

        Raises:
            ArtefactError: missing, altered, of another kind or schema, or its files disagree with one another.
        """
        path, device = Path(path), torch.device(device)
        return artefact.open_artefact(path, KIND, lambda opened: cls._of(path, opened, device), REQUIRED)

    @classmethod
    def _of(cls, path: Path, opened: Opened, device: torch.device) -> Bundle:
        settings = _settings(path, opened)
        config, levels = settings.model, len(settings.codes_per_level)
        tensors, rows = (
            _finite(path, MODEL, opened.tensors(MODEL)),
            _finite(path, ITEM_EMBEDDINGS, opened.mapped(ITEM_EMBEDDINGS)),
        )
        tensors, rows = ({name: t.to(device) for name, t in each.items()} for each in (tensors, rows))
        backbone = filled(lambda: make_backbone(config, config.window), "backbone.", tensors, device)
        ran = filled(lambda: Ran(levels, config.width, config.ran), "ran.", tensors, device)
        codebooks = _codebooks("codebook", tensors, settings)
        dense = None
        if config.dense.weight:
            dense = filled(lambda: DenseHead(config.dense, config.width), "dense.", tensors, device)
        item_ran, item_codebooks = ran, codebooks
        if not config.shared_ran:
            item_ran = filled(lambda: Ran(levels, config.width, config.ran), "item_ran.", tensors, device)
            item_codebooks = _codebooks("item_codebook", tensors, settings)
        codes_IL = opened.mapped(CODES)[NAME]
        if not codes_fit(codes_IL, settings.codes_per_level):
            raise ArtefactError(f"{path}: {CODES} is not of {levels} levels; export it again")
        trie = PrefixTrie.from_tensors(opened.mapped(TRIE), codes_IL).to(device)
        table = Rows(rows[VALUES], rows.get(SCALE))
        opened_bundle = cls(
            path,
            opened.manifest,
            settings,
            device,
            backbone,
            Ranker(RanSteps(ran, codebooks), trie, dense, table, *_neighbours(path, opened, settings, device)),
            ran,
            codebooks,
            item_ran,
            item_codebooks,
            codes_IL,
            ItemTable(path / ITEM_TABLE, opened.parquet(ITEM_TABLE)),
            RowFile(path / GUIDANCE, opened.folder.open(GUIDANCE)),
        )
        opened_bundle._require_consistent()
        return opened_bundle

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.codes_IL)

    @cached_property
    def leaves(self) -> Leaves:
        """Where items lie in the trie, for filters."""
        return Leaves.of(self.ranker.trie)

    def guidance(self, items_U: Tensor) -> Tensor:
        """What guides the redistribution of these items, `[U, D]`, read from disk."""
        rows = []
        for item in items_U.tolist():
            values, scale = self.guidance_file.row(VALUES, item), self.guidance_file.row(SCALE, item)
            assert values is not None
            rows.append(Rows(values, scale).take(torch.zeros(1, dtype=torch.int64)))
        return torch.cat(rows).to(self.device)

    def _require_consistent(self) -> None:
        levels, items = len(self.settings.codes_per_level), self.manifest.counts["items"]
        table, width = self.ranker.rows, self.settings.model.width
        assert table is not None
        known: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {VALUES: (DTYPES[self.settings.rows], (items, width))}
        if self.settings.rows == "int8":
            known[SCALE] = (torch.float32, (items,))
        found = {VALUES: (table.values_ID.dtype, tuple(table.values_ID.shape))}
        if table.scale_I is not None:
            found[SCALE] = (table.scale_I.dtype, tuple(table.scale_I.shape))
        checks = {
            CODES: self.codes_IL.shape == (items, levels),
            ITEM_EMBEDDINGS: found == known,
            GUIDANCE: self.guidance_file.shapes == known,
            ITEM_TABLE: len(self.items) == items,
        }
        for name, passed in checks.items():
            if not passed:
                raise ArtefactError(f"{self.path}: {name} is not of {items} items in {levels} levels; export it again")


def _neighbours(
    path: Path, opened: Opened, settings: BundleSettings, device: torch.device
) -> tuple[NeighbourTable | None, Tensor | None]:
    """The table of neighbours and the fitted weights, where the ranking asks for them."""
    if settings.evaluate.rank_by != "path_dense_and_neighbours":
        return None, None
    config, items = settings.model.neighbours, opened.manifest.counts["items"]
    tensors = _finite(path, NEIGHBOURS, opened.tensors(NEIGHBOURS))
    known = {
        "items": (torch.int32, (items, config.kept)),
        "terms": (torch.float16, (items, config.kept, len(TERMS))),
        "popular": (torch.int32, (items,)),
    }
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    in_range = found == known and -1 <= int(tensors["items"].min()) <= int(tensors["items"].max()) < items
    if not in_range or len(settings.ranking or ()) != len(FEATURES):
        raise ArtefactError(f"{path}: {NEIGHBOURS} is not of {items} items, or has no weights; export it again")
    table = NeighbourTable(config, *(tensors[name].to(device) for name in known))
    return table, torch.tensor(settings.ranking, device=device)


def this_device() -> torch.device:
    """The GPU of this process where there is one (LOCAL_RANK's under a launcher), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK") or 0))
    return torch.device("cpu")


def _settings(path: Path, opened: Opened) -> BundleSettings:
    found = opened.json(SETTINGS)
    schema = found.get("bundle_schema") if isinstance(found, dict) else None
    if schema != SCHEMA:
        raise ArtefactError(f"{path}: is a bundle of schema {schema}, this version reads {SCHEMA}; export it again")
    return as_record(found, BundleSettings, f"{path}/{SETTINGS}", "export it again")


def _finite(path: Path, name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for key, tensor in tensors.items():
        parts = tensor.split(CHUNK) if tensor.is_floating_point() and tensor.ndim else (tensor,)
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            raise ArtefactError(f"{path}: {name}: '{key}' holds values that are not finite; train again, then export")
    return tensors


def _codebooks(name: str, tensors: Mapping[str, Tensor], settings: BundleSettings) -> tuple[Tensor, ...]:
    books = tuple(tensors[f"{name}.{level}"] for level in range(len(settings.codes_per_level)))
    for codes, book_KD in zip(settings.codes_per_level, books, strict=True):
        if book_KD.shape != (codes, settings.model.width) or book_KD.dtype != torch.float32:
            raise ValueError(f"{name} has shape {tuple(book_KD.shape)}, the settings say {codes} codes")
    return books


def filled(make: Callable[[], M], prefix: str, tensors: Mapping[str, Tensor], device: torch.device) -> M:
    """A module with the tensors of this prefix, in evaluation mode.

    Raises:
        ValueError: the module that the settings describe has other tensors; nothing was allocated for it.
    """
    own: dict[str, Any] = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    with torch.device("meta"):
        described = {key: (value.shape, value.dtype) for key, value in make().state_dict().items()}
    if described != {key: (value.shape, value.dtype) for key, value in own.items()}:
        raise ValueError(f"{MODEL} does not hold the tensors '{prefix}*' of the model in {SETTINGS}")
    module = make()
    module.load_state_dict(own)
    return module.to(device).eval().requires_grad_(False)
