"""The one decode: histories → the best items of the catalogue, for every kind of model.

Shape suffixes: B users, W places, I items, D width, V width of content vectors.
"""

from __future__ import annotations

from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.config import EvaluateConfig
from intrr_rec.data.batch import Batch
from intrr_rec.decoding.beam import beam_search
from intrr_rec.decoding.cached import cached_beam_search
from intrr_rec.decoding.trie import PrefixTrie
from intrr_rec.models.dense import DenseHead
from intrr_rec.models.intrr import IntRR
from intrr_rec.models.recommender import CodeRecommender, ItemRecommender, Recommender
from intrr_rec.models.sasrec import SASRec


@singledispatch
def decode(
    model: Recommender, batch: Batch, catalogue_ID: Tensor | None, trie: PrefixTrie, settings: EvaluateConfig
) -> tuple[Tensor, Tensor]:
    """The best `settings.beam` items after each scored slot of the batch, best first.

    Args:
        model: in evaluation mode.
        batch: histories, on the model's device.
        catalogue_ID: `model.represent` of every item, for an `ItemRecommender`; None for any other model, or to have the
            tokens of the histories made from the batch.
        trie: of the catalogue's Semantic IDs.
        settings: beam width and normalisation.

    Returns:
        `items_BW` dense item ids (-1 where a place is left empty) and `scores_BW`.
    """
    raise TypeError(f"no decode for {type(model).__name__}")


@decode.register
def _(
    model: IntRR, batch: Batch, catalogue_ID: Tensor | None, trie: PrefixTrie, settings: EvaluateConfig
) -> tuple[Tensor, Tensor]:
    state_BD = scored_states(model, batch, catalogue_ID)
    items_BW, log_p_BW = beam_search(model.ran, model.codebooks(), trie, state_BD, settings.beam, settings.normalize)
    if settings.rank_by == "path":
        return items_BW, log_p_BW
    assert model.dense is not None and catalogue_ID is not None
    if settings.pool == "beam_and_dense":
        items_BW, log_p_BW = _widen(model.dense, state_BD, catalogue_ID, items_BW, log_p_BW, batch)
    candidate_BWD = F.embedding(items_BW.clamp(min=0), catalogue_ID)
    dense_BW = model.dense.score(state_BD, candidate_BWD, items_BW, batch)
    score_BW = (dense_BW + settings.path_weight * log_p_BW).masked_fill(log_p_BW == -torch.inf, -torch.inf)
    scores_BW, order_BW = score_BW.sort(dim=-1, descending=True)
    return items_BW.gather(1, order_BW)[:, : settings.beam], scores_BW[:, : settings.beam]


@decode.register
def _(
    model: SASRec, batch: Batch, catalogue_ID: Tensor, trie: PrefixTrie, settings: EvaluateConfig
) -> tuple[Tensor, Tensor]:
    return model.dense.best(scored_states(model, batch, catalogue_ID), catalogue_ID, settings.beam, batch)


@decode.register
def _(
    model: CodeRecommender, batch: Batch, catalogue_ID: None, trie: PrefixTrie, settings: EvaluateConfig
) -> tuple[Tensor, Tensor]:
    return cached_beam_search(model, batch, trie, settings.beam, settings.normalize)


def scored_states(model: ItemRecommender, batch: Batch, catalogue_ID: Tensor | None) -> Tensor:
    """The state at each scored slot, `[B, D]`."""
    if catalogue_ID is None:
        history_TD = F.embedding(batch.slot_T, model.represent(batch.items_U, batch.content_UV))
    else:
        history_TD = F.embedding(batch.items_U[batch.slot_T], catalogue_ID)
    return model.states(history_TD, batch.layout)[batch.scored_S]


def _widen(
    head: DenseHead, state_BD: Tensor, catalogue_ID: Tensor, items_BW: Tensor, log_p_BW: Tensor, batch: Batch
) -> tuple[Tensor, Tensor]:
    """The beam, then as many items by dense score alone.

    An item the beam let go counts as likely as the beam's last; one that is in the beam already has score -inf the second
    time.
    """
    found_BW, _ = head.best(state_BD, catalogue_ID, items_BW.shape[1], batch)
    again_BW = (found_BW[:, :, None] == items_BW[:, None]).any(-1)
    last_B1 = log_p_BW.masked_fill(log_p_BW == -torch.inf, torch.inf).amin(dim=1, keepdim=True)
    floor_BW = last_B1.expand_as(found_BW).masked_fill(again_BW, -torch.inf)
    return torch.cat([items_BW, found_BW], dim=1), torch.cat([log_p_BW, floor_BW], dim=1)
