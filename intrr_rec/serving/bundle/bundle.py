"""The bundle: all that recommending needs, and nothing that training does. An artefact written by `intrr export`.

settings.json                 model and ranking settings, level sizes
model.safetensors             backbone, RAN, codebooks, dense head; the item side's own RAN and codebooks where it has some
item_embeddings.safetensors   E_i of every item: float32, bfloat16, or int8 with a scale a row
guidance.safetensors          what guides each item's redistribution, as wide; read a row at a time, on demand
codes.safetensors             Semantic IDs as narrow as they fit: the file of the Semantic IDs' artefact
trie.safetensors              the trie over them: likewise
items.safetensors             own ids, titles, popularity, as flat arrays
search.safetensors            which blocks of titles may hold a word; a bundle without it is searched title by title
items.parquet                 columns to filter by
features.json                 features of histories that the model reads, where it reads some
features.safetensors          their rows
neighbours.safetensors        each item's neighbours and their terms, where they are part of the ranking

What has a row an item is mapped where it is large, so that the processes of a host share one copy.
Opening one starts no process group and reads no recipe, dataset or table of TorchRec's.

A kind of model that learns nothing (`item_knn`) has neighbours, and neither model, embeddings nor guidance.

Shape suffixes: I items, L levels.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from intrr_rec.config import EvaluateConfig, ModelConfig, PrepareConfig
from intrr_rec.config.logs.time_units import TimeUnit
from intrr_rec.data.features.space import Space
from intrr_rec.data.raw.files import IdKind
from intrr_rec.decoding.filters import Leaves
from intrr_rec.decoding.ranker import FITTED
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import Manifest, Opened
from intrr_rec.io.formats.mapped import roomy
from intrr_rec.io.formats.records import as_record
from intrr_rec.io.registry import bundle_place, read_registry, require_listed
from intrr_rec.io.stores.staging import copied
from intrr_rec.io.stores.storage import location
from intrr_rec.models.embeddings.item_embeddings import Width
from intrr_rec.models.neighbours.terms import TERMS, NeighbourTable
from intrr_rec.semantic_ids.artefact import CODES, NAME, TRIE, codes_fit
from intrr_rec.semantic_ids.trie import PrefixTrie
from intrr_rec.serving.bundle.features import NONE, read_space
from intrr_rec.serving.bundle.items import ItemTable
from intrr_rec.serving.bundle.title_search import NAME as NAME_OF_GRAMS
from intrr_rec.serving.bundle.title_search import SEARCH
from intrr_rec.serving.bundle.trained import Trained, require_finite

KIND = "bundle"
# Of what lies in the files: an older bundle is refused, not misread.
SCHEMA = 7
SETTINGS, ITEM_TABLE, ITEM_ARRAYS = "settings.json", "items.parquet", "items.safetensors"
NEIGHBOURS = "neighbours.safetensors"
CHUNK = 65_536  # items that are looked at together
REQUIRED = (SETTINGS, CODES, TRIE, ITEM_TABLE, ITEM_ARRAYS)  # beside what the kind of model needs


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
        trie: over the Semantic IDs.
        codes_IL: Semantic IDs, as narrow as they fit, on the host.
        items: own ids, titles, popularity, columns.
        neighbours: of the items, where the ranking asks for them.
        trained: what a model that learns leaves behind; None of a kind that learns nothing.
        space: the features of events and users that the model reads.
    """

    path: Path
    manifest: Manifest
    settings: BundleSettings
    device: torch.device
    trie: PrefixTrie
    codes_IL: Tensor
    items: ItemTable
    neighbours: NeighbourTable | None
    trained: Trained | None
    space: Space = NONE

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> Bundle:
        """Verify and open a bundle.

        Args:
            path: of the bundle, or of a registry, whose current bundle is opened.
            device: of all tensors.

        Raises:
            ArtefactError: missing, altered, of another kind or schema, or its files disagree with one another; or another than
                the registry's record says.
        """
        device, place = torch.device(device), location(path)
        while True:
            listed = read_registry(place)
            try:
                with copied(place if listed is None else bundle_place(place, listed.current)) as here:
                    found = cls._load(here, device)
                if listed is not None:
                    require_listed(here, found.manifest, listed.current)
                return found
            except ArtefactError:
                if listed == read_registry(place):  # else bundles were promoted meanwhile, and this one was removed
                    raise

    @classmethod
    def _load(cls, path: Path, device: torch.device) -> Bundle:
        return artefact.open_artefact(path, KIND, lambda opened: cls._of(path, opened, device), REQUIRED)

    @classmethod
    def _of(cls, path: Path, opened: Opened, device: torch.device) -> Bundle:
        settings = _settings(path, opened)
        learns = settings.model.kind_settings.learns
        codes_IL = opened.mapped(CODES)[NAME]
        if not codes_fit(codes_IL, settings.codes_per_level):
            raise ArtefactError(f"{path}: {CODES} is not of {len(settings.codes_per_level)} levels; export it again")
        trie = PrefixTrie.from_tensors(opened.mapped(TRIE), codes_IL).to(device)
        neighbours = None
        if not learns or settings.evaluate.rank_by == "sid_dense_and_neighbours":
            neighbours = _neighbours(path, opened, settings, device)
        space = read_space(path, opened)
        grams = opened.mapped(SEARCH)[NAME_OF_GRAMS] if SEARCH in opened.manifest.files else None
        opened_bundle = cls(
            path,
            opened.manifest,
            settings,
            device,
            trie,
            codes_IL,
            ItemTable(path / ITEM_TABLE, opened.parquet(ITEM_TABLE), opened.mapped(ITEM_ARRAYS), grams),
            neighbours,
            Trained.of(path, opened, settings, trie, neighbours, device, space) if learns else None,
            space,
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
        return Leaves.of(self.trie)

    @property
    def reads_times(self) -> bool:
        """Whether the model asks when each event happened, for its backbone or for a feature."""
        return self.settings.model.reads_times or any(column.clock for column in self.space.columns)

    @property
    def model(self) -> Trained:
        """The trained part.

        Raises:
            ConfigError: there is none, since the kind of model is not trained.
        """
        if self.trained is None:
            raise ConfigError(
                f"{self.path}: holds {self.settings.model.kind}, which is not trained; give another bundle"
            )
        return self.trained

    def _require_consistent(self) -> None:
        levels, items = len(self.settings.codes_per_level), self.manifest.counts["items"]
        checks = {CODES: self.codes_IL.shape == (items, levels), ITEM_TABLE: len(self.items) == items}
        faulty = next((name for name, passed in checks.items() if not passed), None)
        if faulty is None and self.trained is not None:
            faulty = self.trained.faulty(self.settings, items)
        if faulty is not None:
            raise ArtefactError(f"{self.path}: {faulty} is not of {items} items in {levels} levels; export it again")


def _neighbours(path: Path, opened: Opened, settings: BundleSettings, device: torch.device) -> NeighbourTable:
    config, items = settings.model.neighbours, opened.manifest.counts["items"]
    tensors = require_finite(path, NEIGHBOURS, opened.mapped(NEIGHBOURS))
    known = {
        "items": (torch.int32, (items, config.kept)),
        "terms": (torch.float16, (items, config.kept, len(TERMS))),
        "popular": (torch.int32, (items,)),
    }
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    in_range = found == known and -1 <= int(tensors["items"].min()) <= int(tensors["items"].max()) < items
    in_range = in_range and _is_permutation(tensors["popular"])
    weighted = not settings.model.kind_settings.learns or len(settings.ranking or ()) == FITTED
    if not (in_range and weighted):
        raise ArtefactError(f"{path}: {NEIGHBOURS} is not of {items} items, or has no weights; export it again")
    return NeighbourTable(config, *(tensors[name].to(device) for name in known))


def _is_permutation(place_I: Tensor) -> bool:
    is_there_I = torch.from_numpy(roomy(np.bool_, (len(place_I),)))
    if not 0 <= int(place_I.min()) <= int(place_I.max()) < len(place_I):
        return False
    for place_R in place_I.split(CHUNK):
        is_there_I[place_R.long()] = True
    return bool(is_there_I.all())


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
