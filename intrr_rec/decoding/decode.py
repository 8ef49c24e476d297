"""The one decode: histories → the best items of the catalogue, for every kind of model.

Shape suffixes: B users, W places, I items, D width, V width of content vectors, X fitted numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.config import EvaluateConfig
from intrr_rec.data.loading.batch import Batch
from intrr_rec.decoding.beam_cached import cached_beam_search
from intrr_rec.decoding.filters import Allowed
from intrr_rec.decoding.ranker import Ranker, dense_best
from intrr_rec.decoding.shard import Shard
from intrr_rec.models.base import CodeRecommender, ItemRecommender, Recommender
from intrr_rec.models.embeddings.item_embeddings import Rows
from intrr_rec.models.intrr import IntRR
from intrr_rec.models.neighbours.terms import NeighbourTable
from intrr_rec.models.ran_decoder import RanSteps
from intrr_rec.models.sasrec import SASRec
from intrr_rec.semantic_ids.trie import PrefixTrie


def decode(
    model: Recommender,
    batch: Batch,
    catalogue_ID: Tensor | Shard | None,
    trie: PrefixTrie,
    settings: EvaluateConfig,
    allowed: Allowed | None = None,
    neighbours: NeighbourTable | None = None,
    fitted_X: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The best `settings.beam` items after each scored slot of the batch, best first.

    Args:
        model: in evaluation mode; it states its decoder.
        batch: histories, on the model's device.
        catalogue_ID: `model.represent` of every item, or this rank's share of them, for a model with a `token_width`; None for any
            other model, or to have the item embeddings of the histories made from the batch.
        trie: of the catalogue's Semantic IDs.
        settings: beam width and normalisation.
        allowed: what the users of the scored slots may get; None is everything.
        neighbours: where they are part of the ranking of an IntRR.
        fitted_X: what `Ranker` is fitted with, where the settings ask for it.

    Returns:
        `items_BW` dense item ids (-1 where a place is left empty) and `scores_BW`.
    """
    if model.decoded_by == "ran":
        ranker, state_BD = ranking(cast(IntRR, model), batch, catalogue_ID, trie, neighbours, fitted_X)
        return ranker.rank(state_BD, batch, settings, allowed)
    return DECODERS[model.decoded_by](model, batch, catalogue_ID, trie, settings, allowed)


def ranking(
    model: IntRR,
    batch: Batch,
    catalogue_ID: Tensor | Shard | None,
    trie: PrefixTrie,
    neighbours: NeighbourTable | None = None,
    fitted_X: Tensor | None = None,
) -> tuple[Ranker, Tensor]:
    """What ranks the catalogue for an IntRR, and the user states of a batch that it ranks for."""
    rows = Rows(catalogue_ID) if isinstance(catalogue_ID, Tensor) else catalogue_ID
    ranker = Ranker(RanSteps(model.ran, model.codebooks()), trie, model.dense, rows, neighbours, fitted_X)
    return ranker, scored_states(model, batch, catalogue_ID)


def _dense(
    model: SASRec,
    batch: Batch,
    catalogue_ID: Tensor | Shard,
    trie: PrefixTrie,
    settings: EvaluateConfig,
    allowed: Allowed | None,
) -> tuple[Tensor, Tensor]:
    state_BD = scored_states(model, batch, catalogue_ID)
    rows = Rows(catalogue_ID) if isinstance(catalogue_ID, Tensor) else catalogue_ID
    item_BW, score_BW = dense_best(model.dense, rows, state_BD, settings.beam, batch, allowed)
    return item_BW.masked_fill(score_BW == -torch.inf, -1), score_BW


def _codes(
    model: CodeRecommender,
    batch: Batch,
    catalogue_ID: None,
    trie: PrefixTrie,
    settings: EvaluateConfig,
    allowed: Allowed | None,
) -> tuple[Tensor, Tensor]:
    return cached_beam_search(model, batch, trie, settings.beam, settings.normalize, allowed)


def _own(
    model: Recommender,
    batch: Batch,
    catalogue_ID: Tensor | Shard | None,
    trie: PrefixTrie,
    settings: EvaluateConfig,
    allowed: Allowed | None,
) -> tuple[Tensor, Tensor]:
    return model.rank(batch, settings) if allowed is None else model.rank(batch, settings, allowed)


DECODERS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "dense": _dense,
    "codes": _codes,
    "own": _own,
}


def scored_states(model: ItemRecommender, batch: Batch, catalogue_ID: Tensor | Shard | None) -> Tensor:
    """The state at each scored slot, `[B, D]`."""
    if catalogue_ID is None:
        with_features = () if batch.features is None else (batch.features,)
        represented_UD = model.represent(batch.items_U, batch.content_UV, *with_features)
        history_TD = F.embedding(batch.slot_T, represented_UD)
    elif isinstance(catalogue_ID, Shard):
        history_TD = F.embedding(batch.slot_T, catalogue_ID.take(batch.items_U))
    else:
        history_TD = F.embedding(batch.items_U[batch.slot_T], catalogue_ID)
    slot_TD = model.slot_features(batch)
    if slot_TD is not None:
        history_TD = history_TD + slot_TD
    return model.states(history_TD, batch.layout, batch.scored_S)
