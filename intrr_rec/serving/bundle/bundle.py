"""The bundle: all that recommending needs, and nothing that training does. An artefact written by `intrr export`.

settings.json                 model and ranking settings, level sizes
model.safetensors             backbone, RAN, codebooks, dense head; the item side's own RAN and codebooks where it has some
representations.safetensors   E_i of every item: float32, bfloat16, or int8 with a scale a row
guidance.safetensors          what guides each item's redistribution, as wide; read a row at a time, on demand
paths.safetensors             Semantic IDs and the trie over them
items.parquet                 own ids, titles, popularity, columns to filter by

Opening one starts no process group and reads no recipe, dataset or table of TorchRec's.

Shape suffixes: I items, U items looked up, D width, L levels, K codes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import load_file
from torch import Tensor, nn

from intrr_rec.config import EvaluateConfig, ModelConfig
from intrr_rec.data.loading.batch import Layout
from intrr_rec.decoding.filters import Leaves
from intrr_rec.decoding.ranker import Ranker
from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import Manifest
from intrr_rec.io.places import not_the_input
from intrr_rec.models.backbones.backbone import make_backbone
from intrr_rec.models.dense_head import DenseHead
from intrr_rec.models.embeddings.item_embeddings import Rows, Width
from intrr_rec.models.ran import Ran
from intrr_rec.models.ran_decoder import RanSteps
from intrr_rec.semantic_ids.trie import PrefixTrie
from intrr_rec.serving.bundle.items import ItemTable
from intrr_rec.serving.bundle.tensor_file import RowFile

KIND = "bundle"
# Of what lies in the files: an older bundle is refused, not misread.
SCHEMA = 3
SETTINGS, MODEL, PATHS, ITEM_TABLE = "settings.json", "model.safetensors", "paths.safetensors", "items.parquet"
REPRESENTATIONS, GUIDANCE = "representations.safetensors", "guidance.safetensors"
VALUES, SCALE = "values", "scale"
M = TypeVar("M", bound=nn.Module)


class BundleSettings(BaseModel):
    """What `settings.json` holds: the bundle's schema, the model, how it ranks, K_l of each level, the type of the rows."""

    bundle_schema: int = SCHEMA
    model: ModelConfig
    evaluate: EvaluateConfig
    codes_per_level: tuple[int, ...]
    rows: Width


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened bundle.

    Attributes:
        backbone: in evaluation mode, like all modules here.
        ranker: RAN, codebooks, trie, dense head and the representations of all items.
        ran, codebooks: of the user side; the ranker has them made ready for decoding.
        item_ran, item_codebooks: of the item side; the user side's where it has none of its own.
        codes_IL: Semantic IDs, as narrow as they fit.
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
        manifest = artefact.read(path, KIND)
        settings = _read_settings(path)
        config, levels = settings.model, len(settings.codes_per_level)
        tensors, paths, rows = (_load(path / name, device) for name in (MODEL, PATHS, REPRESENTATIONS))
        try:
            backbone = filled(make_backbone(config, config.window), "backbone.", tensors, device)
            ran = filled(Ran(levels, config.width, config.ran), "ran.", tensors, device)
            codebooks = tuple(tensors[f"codebook.{level}"] for level in range(levels))
            dense = DenseHead(config.dense, config.width) if config.dense.weight else None
            if dense is not None:
                dense = filled(dense, "dense.", tensors, device)
            item_ran, item_codebooks = ran, codebooks
            if not config.shared_ran:
                item_ran = filled(Ran(levels, config.width, config.ran), "item_ran.", tensors, device)
                item_codebooks = tuple(tensors[f"item_codebook.{level}"] for level in range(levels))
            codes_IL, trie = paths.pop("codes"), PrefixTrie.from_tensors(paths)
            ranker = Ranker(RanSteps(ran, codebooks), trie, dense, Rows(rows[VALUES], rows.get(SCALE)))
        except (KeyError, RuntimeError) as error:
            not_the_input(error)
            raise ArtefactError(f"{path}: its files do not fit one another ({error}); export it again") from None
        opened = cls(
            path,
            manifest,
            settings,
            device,
            backbone,
            ranker,
            ran,
            codebooks,
            item_ran,
            item_codebooks,
            codes_IL,
            ItemTable(path / ITEM_TABLE),
            RowFile(path / GUIDANCE),
        )
        opened._require_consistent(len(rows[VALUES]))
        return opened

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

    def _require_consistent(self, rows: int) -> None:
        levels, items = len(self.settings.codes_per_level), self.manifest.counts["items"]
        sizes = {
            PATHS: (len(self.codes_IL), self.codes_IL.shape[1], len(self.ranker.trie.leaf_items)),
            REPRESENTATIONS: (rows, levels, rows),
            ITEM_TABLE: (len(self.items), levels, len(self.items)),
        }
        for name, found in sizes.items():
            if found != (items, levels, items):
                raise ArtefactError(f"{self.path}: {name} is not of {items} items in {levels} levels; export it again")


def this_device() -> torch.device:
    """The GPU of this process where there is one (LOCAL_RANK's under a launcher), else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def _read_settings(path: Path) -> BundleSettings:
    words = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
    if (found := words.get("bundle_schema", 1)) != SCHEMA:
        raise ArtefactError(f"{path}: is a bundle of schema {found}, this version reads {SCHEMA}; export it again")
    try:
        return BundleSettings.model_validate(words)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise ArtefactError(f"{path}: {SETTINGS}: {where}: {error.errors()[0]['msg']}; export it again") from None


def _load(path: Path, device: torch.device) -> dict[str, Tensor]:
    """A file's tensors, copied: of a file that is mapped and then cut short in its place, a look at a page ends the process."""
    tensors = load_file(path, str(device))
    return {name: tensor.clone() for name, tensor in tensors.items()} if device.type == "cpu" else tensors


def filled(module: M, prefix: str, tensors: Mapping[str, Tensor], device: torch.device) -> M:
    """A module with the tensors of this prefix, in evaluation mode."""
    own: dict[str, Any] = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    module.load_state_dict(own)
    return module.to(device).eval().requires_grad_(False)
