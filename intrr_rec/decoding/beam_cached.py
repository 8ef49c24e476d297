"""Trie-constrained beam search through the backbone, its keys and values cached: for models that read an item as L tokens.

Shape suffixes: B users, W beams, K codes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from intrr_rec.data.loading.batch import Batch
from intrr_rec.decoding.beam import Beams, Normalize
from intrr_rec.decoding.filters import Allowed
from intrr_rec.models.base import CodeRecommender
from intrr_rec.semantic_ids.trie import PrefixTrie

# Users of like history length are decoded together: little of their prompts is padding, and what a step touches is small
# enough for a processor's cache.
USERS_TOGETHER = 32


def cached_beam_search(
    model: CodeRecommender,
    batch: Batch,
    trie: PrefixTrie,
    beam: int,
    normalize: Normalize,
    allowed: Allowed | None = None,
) -> tuple[Tensor, Tensor]:
    """The `beam` best items after each scored slot by log P(c | history), best first.

    The history is read once, and each of the L - 1 steps after it reads one token a beam.

    Args:
        model: in evaluation mode.
        batch: histories, on the device of the model.
        trie: of the catalogue, on the same device.
        beam: W, prefixes kept at each level and items returned (fewer where the catalogue is smaller).
        normalize: "trie" takes each level's softmax over the valid children of the prefix; "global" takes it over all K
            codes, as in training.
        allowed: what the users may get; None is everything.

    Returns:
        `items_BW` dense item ids and `scores_BW` log-probabilities; a place left empty has item -1 and score -inf.
    """
    codebooks = model.codebooks()
    logits_BK, prompts = model.begin(batch, codebooks)
    by_length_B = prompts.length_B.argsort()
    items, scores = [], []
    for user_B in by_length_B.split(USERS_TOGETHER):
        beams = Beams.at_root(len(user_B), logits_BK.device)
        theirs = None if allowed is None else allowed.of(user_B)
        beams = beams.extend(trie, 0, logits_BK[user_B], beam, normalize, theirs)
        cache = prompts.cache(user_B)
        for level in range(1, trie.levels):
            cache.select(beams.parent_BW)
            logits_BWK = model.step(level - 1, beams.code_BW, cache, codebooks)
            beams = beams.extend(trie, level, logits_BWK.flatten(0, 1), beam, normalize, theirs)
        items.append(beams.items(trie))
        scores.append(beams.score_BW)
    order_B = by_length_B.argsort()
    return torch.cat(items)[order_B], torch.cat(scores)[order_B]
