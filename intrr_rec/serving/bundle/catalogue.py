"""The catalogue a bundle is made for: the run's own, or a later version of its Semantic IDs with items the run never saw.

A newcomer has no UID row. Its place in the trie is that of its Semantic ID, so it is decoded like any other item; where it is part
of a history it counts as what its vector redistributes to (`model.content`), else as the sum of its codewords.

Shape suffixes: I items of the catalogue, U items of a chunk, D width, L levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from intrr_rec.data.dataset import Dataset
from intrr_rec.data.loading.batch import look_up_content
from intrr_rec.data.loading.features import FeatureReader
from intrr_rec.distributed.world import World
from intrr_rec.models.intrr import IntRR
from intrr_rec.runs.inputs import Inputs, open_inputs
from intrr_rec.semantic_ids.artefact import SemanticIds
from intrr_rec.semantic_ids.versions import extended_places

CHUNK = 8192


@dataclass(frozen=True)
class Catalogue:
    """Items of a bundle, by their dense id in it.

    Attributes:
        row_I: dense id of each in the run's tables; -1 where the run never saw it. None: each is its own.
        neighbour_IV: item vectors by which neighbours are told, where there are some and the ranking asks for neighbours.
        content_IV: item vectors, where the model reads them.
        features: reads the features of its items as rows of the run's table; None where the model reads none.
    """

    dataset: Dataset
    semantic_ids: SemanticIds
    content_IV: NDArray[np.floating[Any]] | None
    row_I: Tensor | None
    neighbour_IV: NDArray[np.floating[Any]] | None = None
    features: FeatureReader | None = None

    @classmethod
    def of_run(cls, inputs: Inputs) -> Catalogue:
        """The catalogue a run was trained on."""
        return cls(
            inputs.dataset, inputs.semantic_ids, inputs.content_IV, None, inputs.neighbour_IV, inputs.feature_reader
        )

    @classmethod
    def grown(cls, inputs: Inputs, dataset: Path, semantic_ids: Path, vectors: Path | None) -> Catalogue:
        """A later catalogue: Semantic IDs that `intrr index --extend` made, and the dataset it made them for.

        Raises:
            ArtefactError: not made for one another, or not an extension of the run's.
            ConfigError: the model reads content, and its vectors are missing.
        """
        later = open_inputs(inputs.recipe, dataset, semantic_ids, vectors)
        row_I = extended_places(inputs.semantic_ids, later.semantic_ids)
        reader = None
        if inputs.feature_reader is not None:
            reader = inputs.feature_reader.of_later(later.dataset.features, str(dataset))
        return cls(later.dataset, later.semantic_ids, later.content_IV, row_I, later.neighbour_IV, reader)

    @property
    def newcomers(self) -> int:
        """Items the run never saw."""
        return 0 if self.row_I is None else int((self.row_I < 0).sum())

    @torch.no_grad()
    def chunks(self, model: IntRR, world: World) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
        """First row, and E_i and guidance `[U, D]`, of each chunk; every rank makes its share of each."""
        n_items, codebooks = self.dataset.n_items, model.codebooks()
        for first_row in range(0, n_items, CHUNK * world.size):
            left = n_items - first_row
            share = min(CHUNK, -(-left // world.size))
            items_U = (first_row + share * world.rank + torch.arange(share)).clamp(max=n_items - 1)
            made = self._make(items_U, model, codebooks, world.device)
            gathered = tuple(world.gather_rows(table_UD)[:left] for table_UD in made)
            yield first_row, (gathered[0], gathered[1])

    def _make(
        self, items_U: Tensor, model: IntRR, codebooks: tuple[Tensor, ...], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        row_U = (items_U if self.row_I is None else self.row_I[items_U]).to(device)
        is_new_U = None if self.row_I is None else row_U < 0
        row_U = row_U.clamp(min=0)
        content_UV = look_up_content(self.content_IV, items_U)
        content_UV = None if content_UV is None else content_UV.to(device)
        features = None if self.features is None else self.features.items(items_U.numpy())
        features_UD = model.item_features(None if features is None else features.to(device))
        guidance_UD = model.guidance(row_U, content_UV, is_new_U, features_UD)
        e_UD = model.embed(row_U, guidance_UD, codebooks, features_UD)
        if is_new_U is not None and bool(is_new_U.any()) and (content_UV is None or model.config.item_side == "lookup"):
            codes_UL = self.semantic_ids.codes_IL[items_U].to(device).long()
            books = model.item_codebooks() if model.item_codebooks is not None else codebooks
            spelt_UD = torch.stack([F.embedding(codes_UL[:, i], book) for i, book in enumerate(books)]).sum(0)
            spelt_UD = spelt_UD if features_UD is None else spelt_UD + features_UD
            e_UD = torch.where(is_new_U[:, None], spelt_UD, e_UD)
        return e_UD, guidance_UD
