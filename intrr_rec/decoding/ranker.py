"""IntRR's ranking of a catalogue for given user states: the beam, and the dense head over it where the recipe asks for one.

It needs no tables, so evaluation and a bundle that left them behind rank by the same lines.

Shape suffixes: B users, W places, I items, D width, F features, R columns of repeats, X = F + 2·R fitted numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from intrr_rec.config import EvaluateConfig
from intrr_rec.data.loading.batch import Batch
from intrr_rec.decoding.beam import beam_search
from intrr_rec.decoding.filters import Allowed
from intrr_rec.decoding.repeats import FITS, RETURNS, SeenItems
from intrr_rec.decoding.shard import Shard
from intrr_rec.models.dense_head import DenseHead
from intrr_rec.models.embeddings.item_embeddings import Rows
from intrr_rec.models.neighbours.terms import TERMS, NeighbourTable
from intrr_rec.models.ran_decoder import Steps
from intrr_rec.semantic_ids.trie import PrefixTrie

FEATURES = ("dense", "sid", *TERMS, "returns", "seen")
FITTED = len(FEATURES) + FITS * len(RETURNS)  # numbers that the ranking is fitted with


@dataclass(frozen=True)
class Ranker:
    """What ranks the catalogue.

    Attributes:
        ran: with its codebooks.
        trie: of the catalogue.
        dense: the dense head of a model that has one.
        rows: item representations, or this rank's share of them, needed by the dense head.
        neighbours: of the catalogue, where they are part of the ranking.
        fitted_X: weights of the features that `candidates` gives, then those of repeats without and with times; where they are fitted.
    """

    ran: Steps
    trie: PrefixTrie
    dense: DenseHead | None
    rows: Rows | Shard | None
    neighbours: NeighbourTable | None = None
    fitted_X: Tensor | None = None

    def rank(
        self, state_BD: Tensor, batch: Batch, settings: EvaluateConfig, allowed: Allowed | None = None
    ) -> tuple[Tensor, Tensor]:
        """The best `settings.beam` items of each user state, best first.

        Args:
            state_BD: h_u at the scored slots of `batch`.
            batch: histories.
            settings: beam width, normalisation, what ranks.
            allowed: what the users may get; None is everything.

        Returns:
            `items_BW` dense item ids (-1 where a place is left empty) and `scores_BW`.
        """
        beam = settings.beam
        items_BW, log_p_BW = beam_search(self.ran, self.trie, state_BD, beam, settings.normalize, allowed)
        if settings.rank_by == "sid":
            return items_BW, log_p_BW
        items_BW, feature_BWF = self._features(state_BD, items_BW, log_p_BW, batch, settings, allowed)
        score_BW = (feature_BWF @ self._weights(settings)).masked_fill(items_BW < 0, -torch.inf)
        scores_BW, order_BW = score_BW.sort(dim=-1, descending=True)
        scores_BW, order_BW = scores_BW[:, :beam], order_BW[:, :beam]
        return items_BW.gather(1, order_BW).masked_fill(scores_BW == -torch.inf, -1), scores_BW

    def candidates(
        self, state_BD: Tensor, batch: Batch, settings: EvaluateConfig, allowed: Allowed | None = None
    ) -> tuple[Tensor, Tensor]:
        """What `rank` orders: distinct items `[B, W]` (-1 where a place is left empty) and their features `[B, W, F]`.

        The features are the dense score and log P; then, with neighbours, their terms (`models/neighbours/terms.py`: `TERMS`), and of items
        of the history the log-odds of a return (`decoding/repeats.py`) and 1.
        """
        beam = beam_search(self.ran, self.trie, state_BD, settings.beam, settings.normalize, allowed)
        return self._features(state_BD, *beam, batch, settings, allowed)

    def _weights(self, settings: EvaluateConfig) -> Tensor:
        if settings.rank_by == "sid_and_dense":
            return self.trie.leaf_items.new_tensor([1.0, settings.sid_weight], dtype=torch.float32)
        assert self.fitted_X is not None
        return self.fitted_X[: len(FEATURES)]

    def _features(
        self,
        state_BD: Tensor,
        items_BW: Tensor,
        log_p_BW: Tensor,
        batch: Batch,
        settings: EvaluateConfig,
        allowed: Allowed | None,
    ) -> tuple[Tensor, Tensor]:
        """The pool: the beam, what the settings join to it, and the features of all."""
        assert self.dense is not None and self.rows is not None
        floor_B1 = log_p_BW.masked_fill(log_p_BW == -torch.inf, torch.inf).amin(dim=1, keepdim=True)
        pool = [items_BW.masked_fill(log_p_BW == -torch.inf, -1)]
        if settings.pool == "beam_and_dense":
            found_BW, found_score_BW = dense_best(self.dense, self.rows, state_BD, settings.beam, batch, allowed)
            pool.append(found_BW.masked_fill(found_score_BW == -torch.inf, -1))
        around = seen = None
        if settings.rank_by == "sid_dense_and_neighbours":
            assert self.neighbours is not None
            around = self.neighbours.around(batch)
            pool.append(
                around.best(self.neighbours.weights(), settings.beam, None if allowed is None else allowed.at)[0]
            )
            seen = SeenItems.of(batch)
            if not settings.exclude_seen:
                pool.append(seen.newest(settings.beam, None if allowed is None else allowed.at))
        for place in range(1, len(pool)):  # an item stands where it was found first
            for earlier in pool[:place]:
                pool[place] = pool[place].masked_fill((pool[place][:, :, None] == earlier[:, None]).any(-1), -1)
        # An item the beam let go counts as likely as the beam's last.
        rest = sum(part.shape[1] for part in pool[1:])
        log_p_BW = torch.cat([log_p_BW, floor_B1.expand(-1, rest)], dim=1) if rest else log_p_BW
        items_BW = torch.cat(pool, dim=1)
        candidate_BWD = self.rows.take(items_BW.clamp(min=0))
        features = [self.dense.score(state_BD, candidate_BWD, items_BW, batch)[..., None]]
        features.append(log_p_BW.masked_fill(items_BW < 0, 0)[..., None])
        if around is not None and seen is not None:
            assert self.fitted_X is not None
            weight_2R = self.fitted_X[len(FEATURES) :].view(FITS, -1)
            features += [around.at(items_BW), seen.scores(items_BW, weight_2R)]
        return items_BW, torch.cat(features, dim=-1)


def dense_best(
    dense: DenseHead, rows: Rows | Shard, state_BD: Tensor, places: int, batch: Batch, allowed: Allowed | None
) -> tuple[Tensor, Tensor]:
    """`DenseHead.best` of all items, whether this rank holds the embeddings of all or of a share."""
    if isinstance(rows, Shard):
        return rows.best(dense, state_BD, places, batch, allowed)
    return dense.best(state_BD, rows, places, batch, None if allowed is None else allowed.between)
