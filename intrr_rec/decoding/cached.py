"""Trie-constrained beam search through the backbone, its keys and values cached: for models that read an item as L tokens.

Shape suffixes: B users, W beams, K codes.
"""

from __future__ import annotations

from torch import Tensor

from intrr_rec.data.batch import Batch
from intrr_rec.decoding.beam import Beams, Normalize
from intrr_rec.decoding.trie import PrefixTrie
from intrr_rec.models.recommender import CodeRecommender


def cached_beam_search(
    model: CodeRecommender, batch: Batch, trie: PrefixTrie, beam: int, normalize: Normalize
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

    Returns:
        `items_BW` dense item ids and `scores_BW` log-probabilities; a place left empty has item -1 and score -inf.
    """
    codebooks = model.codebooks()
    logits_BK, cache = model.begin(batch, codebooks)
    beams = Beams.at_root(len(logits_BK), logits_BK.device)
    beams = beams.extend(trie, 0, logits_BK[:, None], beam, normalize)
    for level in range(1, trie.levels):
        cache.select(beams.parent_BW)
        logits_BWK = model.step(level - 1, beams.code_BW, cache, codebooks)
        beams = beams.extend(trie, level, logits_BWK, beam, normalize)
    return beams.items(trie), beams.score_BW
