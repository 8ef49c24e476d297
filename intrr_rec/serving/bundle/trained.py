"""The trained part of a bundle: what a model that learns leaves behind for ranking.

Shape suffixes: U items looked up, I items, D width, K codes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from intrr_rec.data.features.space import Space
from intrr_rec.data.loading.batch import Batch, Layout
from intrr_rec.decoding.ranker import Ranker
from intrr_rec.errors import ArtefactError
from intrr_rec.io.artefact import Opened
from intrr_rec.models.backbones.backbone import make_backbone
from intrr_rec.models.dense_head import DenseHead
from intrr_rec.models.embeddings.item_embeddings import DTYPES, Rows
from intrr_rec.models.finite import finite
from intrr_rec.models.neighbours.terms import NeighbourTable
from intrr_rec.models.ran import Ran
from intrr_rec.models.ran_decoder import RanSteps
from intrr_rec.semantic_ids.trie import PrefixTrie
from intrr_rec.serving.bundle.features import NONE, SlotFeatures, read_rows
from intrr_rec.serving.bundle.tensor_file import RowFile

if TYPE_CHECKING:
    from intrr_rec.serving.bundle.bundle import BundleSettings

MODEL, ITEM_EMBEDDINGS, GUIDANCE = "model.safetensors", "item_embeddings.safetensors", "guidance.safetensors"
VALUES, SCALE = "values", "scale"
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True, eq=False)
class Trained:
    """The modules of a trained model, and the representations of all items.

    Attributes:
        backbone: in evaluation mode, like all modules here.
        ranker: RAN, codebooks, trie, dense head and the representations of all items.
        ran, codebooks: of the user side; the ranker has them made ready for decoding.
        item_ran, item_codebooks: of the item side; the user side's where it has none of its own.
        guidance_file: what guides each item's redistribution.
        features: of histories, where the model reads some.
    """

    backbone: Callable[[Tensor, Layout, Tensor], Tensor]
    ranker: Ranker
    rows: Rows
    ran: Ran
    codebooks: tuple[Tensor, ...]
    item_ran: Ran
    item_codebooks: tuple[Tensor, ...]
    guidance_file: RowFile
    device: torch.device
    features: SlotFeatures | None = None

    @classmethod
    def of(
        cls,
        path: Path,
        opened: Opened,
        settings: BundleSettings,
        trie: PrefixTrie,
        neighbours: NeighbourTable | None,
        device: torch.device,
        space: Space = NONE,
    ) -> Trained:
        """The trained part of a bundle that is being opened.

        Raises:
            ArtefactError, ValueError: files that are missing or do not fit the settings.
        """
        config, levels = settings.model, len(settings.codes_per_level)
        tensors = require_finite(path, MODEL, opened.tensors(MODEL))
        rows = require_finite(path, ITEM_EMBEDDINGS, opened.mapped(ITEM_EMBEDDINGS))
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
        table = Rows(rows[VALUES], rows.get(SCALE))
        fitted_X = None if neighbours is None else torch.tensor(settings.ranking, device=device)
        ranker = Ranker(RanSteps(ran, codebooks), trie, dense, table, neighbours, fitted_X)
        file = RowFile(path / GUIDANCE, opened.folder.open(GUIDANCE))
        features = read_rows(path, opened, space, config.width, device) if space.columns else None
        return cls(backbone, ranker, table, ran, codebooks, item_ran, item_codebooks, file, device, features)

    def states(self, batch: Batch) -> Tensor:
        """The state at each scored slot, `[B, D]`."""
        history_TD = self.rows.take(batch.items_U[batch.slot_T])
        if self.features is not None:
            history_TD = self.features.add(history_TD, batch.features)
        return self.backbone(history_TD, batch.layout, batch.scored_S)

    def guidance(self, items_U: Tensor) -> Tensor:
        """What guides the redistribution of these items, `[U, D]`, read from disk."""
        rows = []
        for item in items_U.tolist():
            values, scale = self.guidance_file.row(VALUES, item), self.guidance_file.row(SCALE, item)
            assert values is not None
            rows.append(Rows(values, scale).take(torch.zeros(1, dtype=torch.int64)))
        return torch.cat(rows).to(self.device)

    def faulty(self, settings: BundleSettings, items: int) -> str | None:
        """The name of a file that is not of this many items; None where all are."""
        width = settings.model.width
        known: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {VALUES: (DTYPES[settings.rows], (items, width))}
        if settings.rows == "int8":
            known[SCALE] = (torch.float32, (items,))
        found = {VALUES: (self.rows.values_ID.dtype, tuple(self.rows.values_ID.shape))}
        if self.rows.scale_I is not None:
            found[SCALE] = (self.rows.scale_I.dtype, tuple(self.rows.scale_I.shape))
        if found != known:
            return ITEM_EMBEDDINGS
        return GUIDANCE if self.guidance_file.shapes != known else None


def require_finite(path: Path, name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file, all of whose values are numbers.

    Raises:
        ArtefactError: one holds a value that is not finite.
    """
    for key, tensor in tensors.items():
        if not finite(tensor):
            raise ArtefactError(f"{path}: {name}: '{key}' holds values that are not finite; train again, then export")
    return tensors


def _codebooks(name: str, tensors: Mapping[str, Tensor], settings: BundleSettings) -> tuple[Tensor, ...]:
    books = tuple(tensors[f"{name}.{level}"] for level in range(len(settings.codes_per_level)))
    for codes, book_KD in zip(settings.codes_per_level, books, strict=True):
        if book_KD.shape != (codes, settings.model.width) or book_KD.dtype != torch.float32:
            raise ValueError(f"{name} has shape {tuple(book_KD.shape)}, the settings say {codes} codes")
    return books


class _Undrawn(TorchFunctionMode):
    """Leaves out initial values: drawing them on the meta device takes PyTorch's decompositions, whose import lasts 2.6 s."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def filled(make: Callable[[], M], prefix: str, tensors: Mapping[str, Tensor], device: torch.device) -> M:
    """A module with the tensors of this prefix, in evaluation mode.

    Raises:
        ValueError: the module that the settings describe has other tensors; nothing was allocated for it.
    """
    own: dict[str, Any] = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    with torch.device("meta"), _Undrawn():
        described = {key: (value.shape, value.dtype) for key, value in make().state_dict().items()}
    if described != {key: (value.shape, value.dtype) for key, value in own.items()}:
        raise ValueError(f"{MODEL} does not hold the tensors '{prefix}*' of the model's settings")
    module = make()
    module.load_state_dict(own)
    return module.to(device).eval().requires_grad_(False)
