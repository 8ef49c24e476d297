"""Trie-constrained beam search inside the RAN: one backbone pass a user, then L small steps for all users and beams.

Shape suffixes: B users, W beams, C most children of a trie node, K codes, D width, F hidden width of the RAN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.decoding.trie import PrefixTrie
from intrr_rec.models.ran import Ran

Normalize = Literal["trie", "global"]


def beam_search(
    ran: Ran, codebooks: Sequence[Tensor], trie: PrefixTrie, x_BD: Tensor, beam: int, normalize: Normalize
) -> tuple[Tensor, Tensor]:
    """The `beam` best items of each user state by log P(c | x) (Eq. 1), best first.

    Args:
        ran: in evaluation mode.
        codebooks: L tensors `[K_l, D]`.
        trie: of the catalogue, on the device of `x_BD`.
        x_BD: user states h_u.
        beam: W, prefixes kept at each level and items returned (fewer where the catalogue is smaller).
        normalize: "trie" takes each level's softmax over the valid children of the prefix, so the probabilities of the
            catalogue's items add up to one; "global" takes it over all K codes, as in training.

    Returns:
        `items_BW` dense item ids and `scores_BW` log-probabilities; a place left empty has item -1 and score -inf.
    """
    signal, tables = ran.project_signal(x_BD), ran.context_tables(codebooks)
    users = torch.arange(len(x_BD), device=x_BD.device)[:, None]
    node_BW = torch.zeros(len(x_BD), 1, dtype=torch.int64, device=x_BD.device)
    score_BW = torch.zeros(len(x_BD), 1, device=x_BD.device)
    chosen: list[Tensor] = []
    for level, codebook_KD in enumerate(codebooks):
        if level == 0:
            logits_BWK = ran.first_logits(x_BD, codebook_KD)[:, None]
        else:
            seen = chosen if ran.cumulative else chosen[-1:]
            context = sum(F.embedding(code, table) for code, table in zip(seen, tables[level - 1], strict=True))
            logits_BWK = ran.level_logits(level, signal[level - 1][:, None] + context, codebook_KD)
        code_BWC, child_BWC, valid_BWC = trie.children(level, node_BW)
        score_BWC = score_BW[..., None] + _log_p(logits_BWK, code_BWC, valid_BWC, normalize)
        width = score_BWC.shape[-1]
        score_BW, best_BW = score_BWC.flatten(1).topk(min(beam, score_BWC.shape[1] * width), dim=-1)
        node_BW = child_BWC.flatten(1).gather(1, best_BW)
        parent_BW = best_BW // width
        chosen = [code[users, parent_BW] for code in chosen] + [code_BWC.flatten(1).gather(1, best_BW)]
    # Past the last valid child `children` repeats existing nodes, which must not be taken for recommendations.
    return trie.leaf_items[node_BW].long().masked_fill(score_BW == -torch.inf, -1), score_BW


def _log_p(logits_BWK: Tensor, code_BWC: Tensor, valid_BWC: Tensor, normalize: Normalize) -> Tensor:
    if normalize == "global":
        logits_BWK = F.log_softmax(logits_BWK, dim=-1)
    child_BWC = logits_BWK.expand(*code_BWC.shape[:2], -1).gather(-1, code_BWC).masked_fill(~valid_BWC, -torch.inf)
    return child_BWC if normalize == "global" else F.log_softmax(child_BWC, dim=-1)
