"""What a run is made of: dataset, Semantic IDs and vectors, checked against one another, and the model they define."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intrr_rec.config import ModelConfig, Recipe
from intrr_rec.config.logs.time_units import said
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.features.columns import find
from intrr_rec.data.features.space import Space
from intrr_rec.data.loading.batch import look_up_content
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.features import FeatureReader
from intrr_rec.data.loading.negatives import CandidateSampler
from intrr_rec.data.loading.streaming import StreamedWindows
from intrr_rec.data.loading.targets import TargetWeights
from intrr_rec.data.loading.windows import IntArray, Windows
from intrr_rec.data.repeats import share_of_repeats
from intrr_rec.errors import ArtefactError, ConfigError, DataError, UserError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import MANIFEST, require_parent
from intrr_rec.io.stores.staging import staged
from intrr_rec.io.stores.storage import Location, location
from intrr_rec.models.base import Recommender
from intrr_rec.models.embeddings.tables import Codebooks
from intrr_rec.models.embeddings.zch import item_keys
from intrr_rec.models.registry import make_model, model_class
from intrr_rec.runs.run_record import RunHashes, input_place, read_recipe, read_run_record
from intrr_rec.semantic_ids.artefact import SemanticIds
from intrr_rec.vectors.table import KIND as VECTORS
from intrr_rec.vectors.table import map_vectors, vectors_hash

FEW_REPEATS = 1 / 200  # share of training events below which people do not come back to what they had


def space_of(dataset: Dataset, config: ModelConfig) -> Space:
    """The feature columns of a dataset that a model reads.

    Raises:
        ConfigError: `model.features` names one that the dataset has not.
    """
    columns = dataset.features.columns if dataset.features is not None else ()
    chosen = list(columns)
    if config.features is not None:
        try:
            chosen = [column for name in dict.fromkeys(config.features) for column in find(columns, name)]
        except DataError as error:
            raise ConfigError(f"model.features: {error} in {dataset.path}") from None
    reads = config.kind_settings.reads_features
    return Space(tuple(column for column in columns if column in chosen and reads))


@dataclass(frozen=True)
class Inputs:
    """Everything a run reads, aligned by dense item id.

    Attributes:
        content_IV: what `model.content` reads, float16 or float32, mapped where it is large; None where that is off.
        neighbour_IV: item vectors by which neighbours are told; None where none were given, or no neighbours are looked up.
    """

    recipe: Recipe
    dataset: Dataset
    semantic_ids: SemanticIds
    content_IV: NDArray[np.floating[Any]] | None
    neighbour_IV: NDArray[np.floating[Any]] | None = None

    def content(self, items_U: Tensor | IntArray, device: torch.device) -> Tensor | None:
        """The vectors of some items, float32 `[U, V]`, where the model reads them."""
        found_UV = look_up_content(self.content_IV, items_U)
        return None if found_UV is None else found_UV.to(device)

    def hashes(self) -> RunHashes:
        """Content hashes of dataset and Semantic IDs."""
        return RunHashes(
            dataset=self.dataset.manifest.content_hash, semantic_ids=self.semantic_ids.manifest.content_hash
        )

    def model(self, device: torch.device) -> Recommender:
        """A freshly initialised model; equal seeds give equal models on every rank.

        On the meta device only its tables lie there, to be filled in their shards, and the rest on the CPU.
        """
        torch.manual_seed(self.recipe.train.seed)
        config, ids = self.recipe.model, self.semantic_ids
        content_width = None if self.content_IV is None else self.content_IV.shape[1]
        keys_I = (
            None if config.zch.rows is None else item_keys(own for _, part in ids.own_ids() for own in part.to_pylist())
        )
        rows = self.space.rows
        model = make_model(config, ids.codes_IL, ids.codes_per_level, content_width, device, keys_I, rows)
        if config.codebook_init == "stage1":
            for module in model.modules():
                if isinstance(module, Codebooks):
                    module.start_from(ids.codebooks)
        return model if device.type == "meta" else model.to(device)

    @cached_property
    def space(self) -> Space:
        """The feature columns that the model reads; none where the dataset or the kind of model has none.

        Raises:
            ConfigError: `model.features` names one that the dataset has not.
        """
        return space_of(self.dataset, self.recipe.model)

    @cached_property
    def feature_reader(self) -> FeatureReader | None:
        """Reads features of items and users of the dataset, and of events that are handed in; None where the model reads none."""
        if self.dataset.features is None or not self.space.columns:
            return None
        return FeatureReader(self.space, self.dataset.features, whole=False)

    @cached_property
    def calibration_U(self) -> NDArray[np.bool_]:
        """The users whose last training event is not learned from: a choice by number, the same for every seed."""
        share = self.recipe.train.calibration_users if self.recipe.fits_ranking else 0.0
        mixed_U = np.arange(self.dataset.n_users, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(2**32)
        return mixed_U < share * 2**32

    @cached_property
    def unlearned_U(self) -> IntArray:
        """Events at the end of each history that training does not read; a history keeps one that it may."""
        held_out_U, length_U = self.dataset.held_out("train"), np.diff(self.dataset.offsets)
        return held_out_U + (self.calibration_U & (length_U > held_out_U + 1))

    @cached_property
    def unscored_U(self) -> IntArray | None:
        """Events at the begin of each history that training reads and does not learn; None where there are none."""
        since = self.recipe.train.since
        return None if since is None else np.diff(self.dataset.offsets) - self.dataset.events.count_from(since)

    def require_range(self) -> None:
        """Refuse a range of time (`train.since`, `train.until`) that holds nothing to learn.

        Raises:
            DataError: it is so.
        """
        train, first_U = self.recipe.train, 1 if self.unscored_U is None else np.maximum(self.unscored_U, 1)
        if (np.diff(self.dataset.offsets) - self.unlearned_U > first_U).any():
            return
        named = {"train.since": train.since, "train.until": train.until}
        found = [f"{name} ({said(moment)})" for name, moment in named.items() if moment is not None]
        given = f"{found[0]} leaves" if len(found) == 1 else f"{' and '.join(found)} leave"
        raise DataError(
            f"{self.dataset.path}: {given} nothing to learn: no event of the training part in that range has one of its user "
            "before it; choose other moments"
        )

    @cached_property
    def target_weights(self) -> TargetWeights | None:
        """Reads what each event counts as a target of training; None where all count the same.

        Raises:
            ConfigError: `train.target_weights` names a feature or value that the dataset has not.
        """
        train = self.recipe.train
        return TargetWeights.of(self.dataset, train.target_weights, marked=not train.learn_all)

    def training_windows(self) -> Windows | StreamedWindows:
        """What this run learns from, cut as its kind of model states: every position of a window, or the last alone."""
        model = self.recipe.model
        cut = partial(model_class(model).windows, window=model.window)
        if not self.streams:
            windows = cut(self.dataset.offsets, held_out=self.unlearned_U)
            if self.unscored_U is None:
                return windows
            return windows.scored_from((self.dataset.offsets[:-1] + self.unscored_U)[windows.user_M])
        loader, held_out_U, features = self.recipe.train.loader, self.unlearned_U, self.dataset.features
        return StreamedWindows(
            self.dataset.events,
            held_out_U,
            cut,
            loader.pool_events,
            times=model.reads_times,
            readers=loader.workers,
            features=None if features is None else (features, self.space.of("event")),
            weights=self.target_weights,
            unscored_U=self.unscored_U,
        )

    @property
    def streams(self) -> bool:
        """Whether training reads the events as it goes, since they are more than are shuffled together."""
        return len(self.dataset.events) > self.recipe.train.loader.pool_events

    def collator(self, *, training: bool) -> Collator:
        """Builds this run's batches; negatives are drawn for training only.

        Where training streams, and for evaluation, the events of each batch are handed in with its windows.
        """
        model = self.recipe.model
        candidates = None
        if training and (model.dense.weight or model.kind_settings.draws_negatives):
            seed = self.recipe.train.seed
            candidates = CandidateSampler(self.dataset.n_items, model.dense.negatives, seed)
        whole = training and not self.streams
        items_E, times_E = np.empty(0, np.int64), None
        if whole:
            items_E, times_E = self.dataset.items_E, self.dataset.timestamps_E if model.reads_times else None
        features = self.feature_reader
        if training and features is not None and self.dataset.features is not None:
            features = FeatureReader(self.space, self.dataset.features, whole=whole, unasked=model.unasked)
        return Collator(
            items_E,
            model.window,
            self.content_IV,
            model.align_average,
            times_E,
            candidates,
            with_targets=training and model_class(model).with_targets,
            codes_IL=self.semantic_ids.codes_IL,
            features=features,
            weight_E=self.target_weights.whole() if whole and self.target_weights else None,
            told=model.reads_times,
        )

    def history_collator(self) -> Collator:
        """Builds batches of items and times alone, to evaluate by; the events are handed in."""
        model = self.recipe.model
        return Collator(
            np.empty(0, np.int64), model.window, None, model.align_average, with_targets=False, told=model.reads_times
        )


def open_inputs(recipe: Recipe, dataset: Location, semantic_ids: Path, vectors: Path | None) -> Inputs:
    """Open and cross-check the artefacts of a run; what the recipe leaves to the data is decided.

    Raises:
        ArtefactError: the Semantic IDs were built from another dataset, or no user has enough events.
        ConfigError: `model.content` without vectors, `model.hstu.time_bias` or a range of time without timestamps, or a feature that
            is none.
        DataError: a range of time with nothing to learn.
    """
    data, ids = Dataset.open(dataset), SemanticIds.open(semantic_ids)
    for name in ("since", "until"):
        if getattr(recipe.train, name) is not None and not data.has_times:
            raise ConfigError(
                f"train.{name}: {dataset} has no timestamps; leave the setting out, or prepare the logs with a prepare.time_column"
            )
    data = replace(data, until=recipe.train.until)
    placed = {"sharding": recipe.train.sharding.of_catalogue(data.n_items)}
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update=placed)})
    if recipe.evaluate.exclude_seen is None:
        decided = {"exclude_seen": share_of_repeats(data) < FEW_REPEATS}
        recipe = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update=decided)})
    require_parent(semantic_ids, ids.manifest, "dataset", dataset, data.manifest)
    if recipe.model.reads_times and not data.has_times:
        raise ConfigError(
            f"model.hstu.time_bias is on, but {dataset} has no timestamps: turn it off, or prepare the logs with a "
            "prepare.time_column"
        )
    found = None
    if recipe.model.content and vectors is None:
        raise ConfigError(
            f"model.content is on, so the item vectors are needed: give {_known_vectors(semantic_ids, data)}"
        )
    if vectors is not None and (recipe.model.content or recipe.uses_neighbours):
        if (built_from := ids.manifest.parents.get("vectors")) != vectors_hash(vectors):
            raise ArtefactError(f"{vectors}: is not what {semantic_ids} was indexed from ({str(built_from)[:12]})")
        found = map_vectors(vectors, data)
    inputs = Inputs(
        recipe, data, ids, found if recipe.model.content else None, found if recipe.uses_neighbours else None
    )
    _ = inputs.space, inputs.target_weights  # names that are none are refused now
    if recipe.train.since is not None or recipe.train.until is not None:
        inputs.require_range()
    return inputs


def _known_vectors(semantic_ids: Path, data: Dataset) -> str:
    """The option that names the vectors of a dataset: those that lie beside the Semantic IDs, where that is so."""
    for folder in sorted(semantic_ids.absolute().parent.glob(f"*/{MANIFEST}")):
        with suppress(UserError):
            manifest = artefact.read(folder.parent, VECTORS)
            if manifest.parents.get("dataset") == data.manifest.content_hash:
                return f"--vectors {semantic_ids.parent / folder.parent.name}"
    return f"--vectors PATH, the vectors that {semantic_ids} was indexed from"


def reopen_inputs(run: Path, overrides: Sequence[str] = ()) -> Inputs:
    """The inputs a run was trained on, under its recipe with `overrides`.

    Raises:
        ArtefactError: `run` is not a run folder, or an input has changed since.
        ConfigError: an override that is unknown or out of range.
    """
    record = read_run_record(run)
    recipe = read_recipe(run, overrides)
    dataset, semantic_ids = (input_place(run, record, role) for role in ("dataset", "semantic_ids"))
    assert dataset is not None and semantic_ids is not None
    with staged() as places:
        ids_here = places.bring(semantic_ids)
        vectors = input_place(run, record, "vectors", partial(_are_of, ids_here))
        vectors_here = None if vectors is None else places.bring(vectors)
        inputs = open_inputs(recipe, location(dataset), ids_here, vectors_here)
    for role, found in inputs.hashes().model_dump().items():
        if found != getattr(record.hashes, role):
            where, number = input_place(run, record, role), record.versions.get(role)
            which = "" if number is None else f" (version {number}, which is kept no more)"
            raise ArtefactError(f"{where}: was rebuilt after {run} was trained on it{which}; train again")
    return inputs


def _are_of(semantic_ids: Path, vectors: Path) -> bool:
    """Whether these vectors are what the Semantic IDs were indexed from."""
    try:
        built_from = artefact.peek(semantic_ids).parents.get("vectors")
        return built_from is None or vectors_hash(vectors) == built_from
    except UserError:
        return False
