"""Runs and bundles that rank the same users of one dataset, each in the item numbers of its own catalogue.

Shape suffixes: I items of the dataset, O items of the contender, T test users, U users of a chunk, W places of a list.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from intrr_rec.data.dataset import Dataset
from intrr_rec.data.loading.windows import IntArray
from intrr_rec.data.mapped_users import MappedUsers, map_users
from intrr_rec.data.popularity import falling_order
from intrr_rec.distributed.world import World
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.evaluation.evaluator import Evaluator
from intrr_rec.io.artefact import MANIFEST
from intrr_rec.io.formats.mapped import roomy
from intrr_rec.io.registry import read_registry
from intrr_rec.io.stores.storage import Location
from intrr_rec.runs.inputs import Inputs
from intrr_rec.runs.open_run import open_run
from intrr_rec.semantic_ids.versions import old_places
from intrr_rec.serving.bundle.bundle import Bundle, this_device
from intrr_rec.serving.filters import NOTHING, Filters
from intrr_rec.serving.recommender import Recommender

PLACES = 20
CHUNK = 1 << 17  # users ranked at a time
PART = 1 << 16  # items whose own ids are looked up at a time


class Contender(Protocol):
    """A model with its catalogue.

    Attributes:
        place: where it lies, as it was named.
        kind: "run" or "bundle".
        n_items: O.
    """

    place: Location
    kind: str

    @property
    def n_items(self) -> int:
        """O."""

    def places(self, dataset: Dataset) -> IntArray:
        """Its number of each item of a dataset, `[I]`; -1 for one it does not know. Items are known by their own ids."""

    def rank(self, users: MappedUsers) -> Tensor:
        """The best items of some users, best first, `[U, W]` in its own numbers; -1 for an empty place."""

    def popular(self) -> Tensor:
        """What someone gets of whom nothing is known, `[W]`."""


class RunContender:
    """The best checkpoint of a run, which ranks as `intrr evaluate` does.

    Raises:
        ArtefactError: not a run folder, changed inputs, or no checkpoint.
        ConfigError: a model that reads features of events or users.
    """

    kind = "run"

    def __init__(self, place: Path, world: World) -> None:
        def check(inputs: Inputs) -> None:
            if inputs.space.reads_slots:
                raise ConfigError(
                    f"{place}: reads features of events and users, which another dataset numbers anew; compare it without --on, or "
                    "train with model.features=[]"
                )

        self.place: Location = place
        opened = open_run(place, world, check=check)
        self._inputs = opened.inputs
        self._evaluator = Evaluator(opened.model, opened.inputs, world)
        self._evaluator.use(opened.state.get("ranking"))

    @property
    def n_items(self) -> int:
        """O."""
        return self._inputs.dataset.n_items

    def places(self, dataset: Dataset) -> IntArray:
        """See `Contender`."""
        ids, own = (each.item_ids().combine_chunks() for each in (dataset, self._inputs.dataset))
        if ids.type != own.type:
            ids, own = ids.cast(pa.string()), own.cast(pa.string())
        found: IntArray = old_places(ids, own).numpy()
        return found

    def rank(self, users: MappedUsers) -> Tensor:
        """See `Contender`."""
        items_UW = torch.full((len(users.place_U), PLACES), -1)
        for part in self._evaluator.of_users(users).rank_users("test"):
            is_item_BW = torch.isfinite(part.scores_BW)  # a catalogue smaller than the beam leaves places empty
            found_BW = torch.where(is_item_BW, part.items_BW, -1)[:, :PLACES].cpu()
            items_UW[torch.from_numpy(part.users), : found_BW.shape[1]] = found_BW
        return items_UW

    def popular(self) -> Tensor:
        """See `Contender`."""
        return _padded(torch.from_numpy(falling_order(self._inputs.dataset.popularity())[:PLACES].copy()))


class BundleContender:
    """A bundle, which ranks as `intrr recommend` and the server do.

    Raises:
        ArtefactError: not a whole bundle.
    """

    kind = "bundle"

    def __init__(self, place: Location) -> None:
        self.place = place
        self.bundle = Bundle.load(place, this_device())
        self.recommender = Recommender(self.bundle)

    @property
    def n_items(self) -> int:
        """O."""
        return self.bundle.n_items

    def places(self, dataset: Dataset) -> IntArray:
        """See `Contender`."""
        place_I: IntArray = roomy(np.int64, (dataset.n_items,))
        first = 0
        for part in dataset.own_id_parts():
            place_I[first : first + len(part)] = self.bundle.items.index.places(part.cast(pa.string()))
            first += len(part)
        return place_I

    @cached_property
    def beam(self) -> int:
        """W: what the bundle was evaluated with, or the size of a smaller catalogue."""
        return min(self.bundle.settings.evaluate.beam, self.n_items)

    def rank(self, users: MappedUsers) -> Tensor:
        """See `Contender`."""
        places = min(PLACES, self.beam)
        batch, parts = self.bundle.settings.evaluate.batch_users, [torch.empty(0, PLACES, dtype=torch.int64)]
        spans = [slice(a, b) for a, b in pairwise(users.offsets.tolist())]
        for first in range(0, len(spans), batch):
            chosen = spans[first : first + batch]
            dropped = (users.dropped_U or ())[first : first + batch]
            filters = [Filters(seen=items.tolist()) for items in dropped] or NOTHING
            histories = [users.items_E[span][:-1].tolist() for span in chosen]
            times = None if users.timestamps_E is None else [users.timestamps_E[span].tolist() for span in chosen]
            parts.append(_padded(self.recommender.rank(histories, places, self.beam, filters, times)[0]))
        return torch.cat(parts)

    def popular(self) -> Tensor:
        """See `Contender`."""
        return _padded(self.recommender.rank([[]], min(PLACES, self.beam), self.beam, times=[[0]])[0][0])


def open_contender(place: Location, world: World) -> Contender:
    """A run folder, a bundle, or a registry, which is its current bundle.

    Raises:
        ArtefactError, ConfigError: as `RunContender` and `BundleContender`.
    """
    if not isinstance(place, Path) or (place / MANIFEST).is_file() or read_registry(place) is not None:
        return BundleContender(place)
    return RunContender(place, world)


def ranked_chunks(
    contender: Contender, dataset: Dataset, users_T: IntArray, event_T: IntArray, place_I: IntArray
) -> Iterator[Tensor]:
    """The lists of the test users, `[U, W]` in the contender's numbers, a chunk of users at a time.

    Raises:
        ArtefactError: it knows no item of the dataset.
    """
    if not (place_I >= 0).any():
        example = dataset.own_ids([0])[0].as_py()
        raise ArtefactError(
            f"{contender.place}: knows no item of {dataset.path}, such as {example!r}; compare models of one catalogue"
        )
    for first in range(0, len(users_T), CHUNK):
        span = slice(first, first + CHUNK)
        users = map_users(dataset, users_T[span], event_T[span], place_I)
        items_UW = contender.popular().expand(len(users_T[span]), -1).clone()
        items_UW[torch.from_numpy(users.place_U)] = contender.rank(users)
        yield items_UW


def _padded(items_W: Tensor) -> Tensor:
    """Lists of `PLACES` places, the last of them empty where there are fewer items."""
    missing = PLACES - items_W.shape[-1]
    return torch.nn.functional.pad(items_W, (0, missing), value=-1) if missing else items_W
