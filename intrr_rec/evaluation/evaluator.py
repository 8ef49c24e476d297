"""Full-ranking evaluation by the one decode: states from the backbone, items from the trie-constrained beam search.

Shape suffixes: B users, W beams, I items, D width, S scored slots, C places, M metrics.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intrr_rec.data.dataset import UserEvents
from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.own_users import Histories, OwnUsers
from intrr_rec.data.loading.windows import IntArray, Windows, evaluation_windows
from intrr_rec.data.popularity import falling_order
from intrr_rec.decoding.decode import decode, ranking
from intrr_rec.decoding.filters import Allowed, Leaves
from intrr_rec.decoding.ranker import FEATURES, FITTED
from intrr_rec.decoding.shard import Shard
from intrr_rec.distributed.planner.memory import GATHERED_ITEMS
from intrr_rec.distributed.world import World
from intrr_rec.evaluation.bootstrap import mean_intervals
from intrr_rec.evaluation.fit_ranking import fit_weights
from intrr_rec.evaluation.fit_returns import fit_returns
from intrr_rec.evaluation.metrics import NAMES, NDCG_AT, RECALL_AT, as_means, metrics_by_user, target_rank
from intrr_rec.models.base import Recommender
from intrr_rec.models.embeddings.item_embeddings import Rows
from intrr_rec.models.intrr import IntRR
from intrr_rec.models.neighbours.terms import NeighbourTable
from intrr_rec.runs.inputs import Inputs
from intrr_rec.runs.neighbours import build_neighbours
from intrr_rec.semantic_ids.trie import PrefixTrie

log = logging.getLogger(__name__)
Split = Literal["valid", "test"]
CATALOGUE_CHUNK = 8192
# Metrics of a user whose target is at each place, from 0 (missed) on; beyond the last all are missed. `[C, M]`
METRIC_CM = metrics_by_user(torch.arange(max(RECALL_AT + NDCG_AT) + 1))
BOOTSTRAP_SEED = 0


@dataclass
class Ranked:
    """The best items of some users, best first."""

    users: NDArray[np.int64]
    items_BW: Tensor
    scores_BW: Tensor
    target_B: Tensor


@dataclass
class TargetRanks:
    """Where this rank's users have their held-out item: its place, from 1, or 0 where it is not within the beam."""

    users: NDArray[np.int64]
    target_B: Tensor
    rank_B: Tensor

    @classmethod
    def of(cls, parts: Iterable[Ranked]) -> TargetRanks:
        """The places in ranked lists, on the CPU."""
        found = [(p.users, p.target_B, target_rank(p.items_BW, p.target_B)) for p in parts]
        users, targets, ranks = zip(*found, strict=True)
        return cls(np.concatenate(users), torch.cat(targets).cpu(), torch.cat(ranks).cpu())


class Evaluator:
    """Ranks the catalogue for every user who has a target in a split; each rank takes its share of users.

    Args:
        model: the model inside its parallel wrapper.
        inputs: of the run.
        world: this rank among its peers.
        between: called before each batch, as often on every rank; it may raise.
    """

    def __init__(
        self, model: Recommender, inputs: Inputs, world: World, between: Callable[[], None] = lambda: None
    ) -> None:
        self.model = model
        self.inputs = inputs
        self.world = world
        self.between = between
        self.users: UserEvents = inputs.dataset
        self.collate = inputs.collator(training=False)
        self.fitted_X: Tensor | None = None

    def of_users(self, users: UserEvents) -> Evaluator:
        """The same ranking, by the weights and neighbours of the run's own dataset, of other users, all of them; every rank calls this.

        Args:
            users: their events in the item numbers of the run.
        """
        if self.inputs.recipe.fits_ranking:
            if self.fitted_X is None:
                self.use(None)
            assert self.neighbours is not None
        other = copy(self)
        other.users = users
        return other

    @cached_property
    def trie(self) -> PrefixTrie:
        """Of the catalogue; on a CPU mapped from its file, on a GPU loaded when the first users are ranked."""
        return self.inputs.semantic_ids.trie.to(self.world.device)

    @cached_property
    def neighbours(self) -> NeighbourTable | None:
        """Of the whole training part, where they are part of the ranking; every rank asks for it at one point."""
        if not self.inputs.recipe.fits_ranking:
            return None
        return self._neighbours(self.inputs.dataset.held_out("train"))

    def _neighbours(self, held_out_U: IntArray) -> NeighbourTable:
        inputs = self.inputs
        return build_neighbours(
            inputs.dataset, inputs.neighbour_IV, inputs.recipe.model.neighbours, self.world, held_out_U
        )

    @cached_property
    def _calibration(self) -> tuple[NDArray[np.bool_] | None, NeighbourTable | None]:
        """The users whom the weights are fitted on, and neighbours without the events that those users' items come after."""
        inputs = self.inputs
        if not inputs.calibration_U.any():
            return None, self.neighbours
        return inputs.calibration_U, self._neighbours(inputs.unlearned_U)

    @cached_property
    def _returns(self) -> Tensor:
        """The weights of repeats, one set after the other; every rank asks for them at one point."""
        return fit_returns(self.inputs, self.world).flatten().to(self.world.device)

    @torch.no_grad()
    def fit(self, *, on_all: bool = False) -> None:
        """Fit the weights of the ranking on validation items, where the recipe asks for it; every rank calls this.

        Args:
            on_all: on those of all users: for a model whose training held no events of the calibration users back.
        """
        if not self.inputs.recipe.fits_ranking:
            return
        settings = self.inputs.recipe.evaluate
        split: Split = "valid"
        chosen_U, neighbours = (None, self.neighbours) if on_all else self._calibration
        was_training = self.model.training
        self.model.eval()
        catalogue_ID, returns_X = self.catalogue(), self._returns
        unfitted_X = torch.cat([returns_X.new_zeros(len(FEATURES)), returns_X])
        parts = []
        for batch, histories in self._batches(split, chosen_U):
            moved = batch.to(self.world.device)
            ranker, state_BD = ranking(cast(IntRR, self.model), moved, catalogue_ID, self.trie, neighbours, unfitted_X)
            allowed = self._unseen(batch.user_S, histories) if settings.exclude_seen else None
            parts.append((*ranker.candidates(state_BD, moved, settings, allowed), moved.target_S))
        self.fitted_X = torch.cat([fit_weights(parts, len(FEATURES), self.world).to(self.world.device), returns_X])
        self.model.train(was_training)
        if self.world.is_main:
            log.info("weights of the ranking: %s", dict(zip(FEATURES, self.weights() or (), strict=False)))

    def weights(self) -> list[float] | None:
        """The fitted numbers, for a checkpoint's state; None where there are none."""
        return None if self.fitted_X is None else [round(weight, 6) for weight in self.fitted_X.tolist()]

    def use(self, weights: Sequence[float] | None) -> None:
        """Rank with the weights of a checkpoint's state; where it has none and the recipe asks for them, fit them."""
        if weights is None or len(weights) != FITTED:  # of another version's features
            self.fit(on_all=weights is None)
        else:
            self.fitted_X = torch.tensor(weights, device=self.world.device)

    def _batches(self, split: Split, chosen_U: NDArray[np.bool_] | None = None) -> Iterator[tuple[Batch, Histories]]:
        """This rank's share of the users of a split, or of some of them."""
        users, inputs, world = self.users, self.inputs, self.world
        model = inputs.recipe.model
        windows = evaluation_windows(users.offsets, model.window, users.held_out(split))
        if chosen_U is not None:
            windows = windows.take(np.flatnonzero(chosen_U[windows.user_M]))
        elif users is inputs.dataset:
            windows = self._sampled(windows)
        own = OwnUsers(
            users,
            windows,
            self.collate,
            inputs.recipe.evaluate.batch_users,
            rank=world.rank,
            ranks=world.size,
            times=model.reads_times or inputs.recipe.evaluate.ranks_returns,
            features=inputs.space.of("event"),
        )
        yield from own.batches(self.between)

    def _sampled(self, windows: Windows) -> Windows:
        """Those of `evaluate.users` users, drawn without replacement: whom, hangs on the seed and the dataset alone.

        Every user gets a random number, and those of the smallest numbers are taken, so a larger sample holds the smaller one.
        """
        settings = self.inputs.recipe.evaluate
        if settings.users is None or len(windows) <= settings.users:
            return windows
        number_U = np.random.default_rng(settings.users_seed).random(self.inputs.dataset.n_users)
        return windows.take(np.sort(np.argpartition(number_U[windows.user_M], settings.users)[: settings.users]))

    def evaluate(self, split: Split, beam: int | None = None) -> dict[str, float]:
        """Recall@K and NDCG@K over the users of the split, the same on every rank; `beam` in place of the recipe's."""
        return self.means(TargetRanks.of(self.rank_users(split, beam)))

    def means(self, ranks: TargetRanks) -> dict[str, float]:
        """Recall@K and NDCG@K over the users of all ranks, the same on every rank."""
        count_C = self._counts(ranks)
        return as_means(count_C.double() @ METRIC_CM, int(count_C.sum()))

    def intervals(self, ranks: TargetRanks) -> dict[str, list[float]]:
        """The 95 % interval of each of `means`, by the bootstrap over users; the same on every rank, none of no users."""
        count_C = self._counts(ranks).numpy()
        if not count_C.any():
            return {}
        found_M2 = mean_intervals(METRIC_CM.numpy(), count_C, seed=BOOTSTRAP_SEED)
        return dict(zip(NAMES, found_M2.tolist(), strict=True))

    def _counts(self, ranks: TargetRanks) -> Tensor:
        """How many users of all ranks have their target at each place, in the order of `METRIC_CM`; int64 `[C]`."""
        place_B = torch.where(ranks.rank_B < len(METRIC_CM), ranks.rank_B, 0)
        return self.world.sum(torch.bincount(place_B, minlength=len(METRIC_CM))).cpu()

    @torch.no_grad()
    def rank_users(self, split: Split, beam: int | None = None) -> Iterator[Ranked]:
        """Decode this rank's users, batch by batch."""
        settings = self.inputs.recipe.evaluate
        if beam is not None:
            settings = settings.model_copy(update={"beam": beam})
        was_training = self.model.training
        self.model.eval()
        dataset = self.inputs.dataset
        kept = self.inputs.recipe.keeps_catalogue(dataset.n_items, len(dataset.events))
        catalogue_ID = self.catalogue() if kept else None
        if self.inputs.recipe.fits_ranking and self.fitted_X is None:
            self.use(None)
        neighbours = self.neighbours
        for batch, histories in self._batches(split):
            moved = batch.to(self.world.device)
            allowed = self._unseen(batch.user_S, histories) if settings.exclude_seen else None
            items_BW, scores_BW = decode(
                self.model, moved, catalogue_ID, self.trie, settings, allowed, neighbours, self.fitted_X
            )
            yield Ranked(batch.user_S, items_BW, scores_BW, moved.target_S)
        self.model.train(was_training)

    def _unseen(self, users: NDArray[np.int64], histories: Histories) -> Allowed:
        """Every item but those of the users' whole histories, not only of the window that the model reads, and of dropped events."""
        seen_BM, length_B = histories.before_targets(users)
        if (also := self.users.dropped(users, length_B)) is not None:
            longest = max(map(len, also), default=0)
            also_BM = np.full((len(users), longest), -1)
            for row, items in zip(also_BM, also, strict=True):
                row[: len(items)] = items
            seen_BM = np.concatenate([seen_BM, also_BM], axis=1)
        return self.leaves.allow(None, torch.from_numpy(seen_BM).to(self.world.device))

    @cached_property
    def leaves(self) -> Leaves:
        """Where items lie in the trie, for filters."""
        return Leaves.of(self.trie)

    @torch.no_grad()
    def catalogue(self) -> Tensor | Shard | None:
        """The token of every item, `[I, D]`: each rank makes its share, then all are gathered, or, of a large catalogue, each rank
        keeps its own; None for other models."""
        if self.model.token_width is None:
            return None
        n_items, world = self.inputs.dataset.n_items, self.world
        share = -(-n_items // world.size)
        own = torch.arange(world.rank * share, (world.rank + 1) * share).clamp(max=n_items - 1)
        own_RD: Tensor | None = None
        for first in range(0, share, CATALOGUE_CHUNK):
            ids_U = own[first : first + CATALOGUE_CHUNK]
            content_UV = self.inputs.content(ids_U, world.device)
            reader = self.inputs.feature_reader
            features = None if reader is None else reader.items(ids_U.numpy())
            with_features = () if features is None else (features.to(world.device),)
            made_UD = self.model.represent(ids_U.to(world.device), content_UV, *with_features)
            own_RD = made_UD.new_empty(share, made_UD.shape[1]) if own_RD is None else own_RD
            own_RD[first : first + len(ids_U)] = made_UD
        assert own_RD is not None
        if world.size == 1:
            return own_RD
        if n_items > GATHERED_ITEMS:
            first = world.rank * share
            return Shard(Rows(own_RD[: n_items - first]), first, world)
        return world.gather_rows(own_RD)[:n_items]


def most_popular(inputs: Inputs, ranks: TargetRanks) -> TargetRanks:
    """The ranks of the same targets where everyone is recommended the items most frequent in the training part."""
    order = falling_order(inputs.dataset.popularity())[: max(RECALL_AT)]
    top_BW = torch.from_numpy(order.copy()).expand(len(ranks.target_B), -1)
    return TargetRanks(ranks.users, ranks.target_B, target_rank(top_BW, ranks.target_B))
