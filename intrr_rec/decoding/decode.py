"""The one decode: user states → the best items of the catalogue, for every kind of model.

Shape suffixes: B users, W places, I items, D width.
"""

from __future__ import annotations

from functools import singledispatch

from torch import Tensor

from intrr_rec.config import EvaluateConfig
from intrr_rec.decoding.beam import beam_search
from intrr_rec.decoding.trie import PrefixTrie
from intrr_rec.models.intrr import IntRR
from intrr_rec.models.recommender import Recommender
from intrr_rec.models.sasrec import SASRec


@singledispatch
def decode(
    model: Recommender, state_BD: Tensor, catalogue_ID: Tensor, trie: PrefixTrie, settings: EvaluateConfig
) -> tuple[Tensor, Tensor]:
    """The best `settings.beam` items of each state, best first.

    Args:
        model: in evaluation mode.
        state_BD: the state after each user's last item.
        catalogue_ID: `model.represent` of every item.
        trie: of the catalogue's Semantic IDs.
        settings: beam width and normalisation.

    Returns:
        `items_BW` dense item ids (-1 where a place is left empty) and `scores_BW`.
    """
    raise TypeError(f"no decode for {type(model).__name__}")


@decode.register
def _(
    model: IntRR, state_BD: Tensor, catalogue_ID: Tensor, trie: PrefixTrie, settings: EvaluateConfig
) -> tuple[Tensor, Tensor]:
    return beam_search(model.ran, model.codebooks(), trie, state_BD, settings.beam, settings.normalize)


@decode.register
def _(
    model: SASRec, state_BD: Tensor, catalogue_ID: Tensor, trie: PrefixTrie, settings: EvaluateConfig
) -> tuple[Tensor, Tensor]:
    scores_BI = model.score(state_BD, catalogue_ID)
    scores_BW, items_BW = scores_BI.topk(min(settings.beam, len(catalogue_ID)), dim=-1)
    return items_BW, scores_BW
