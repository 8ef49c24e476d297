"""Trie-constrained beam search inside the RAN: one backbone pass a user, then L small steps for all users and beams.

Shape suffixes: B users, W beams, C most children of a trie node, K codes, D width, R beams whose next code is open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.decoding.allowed import Allowed
from intrr_rec.decoding.trie import PrefixTrie
from intrr_rec.models.ran_steps import Steps

Normalize = Literal["trie", "global"]


def beam_search(
    ran: Steps,
    trie: PrefixTrie,
    x_BD: Tensor,
    beam: int,
    normalize: Normalize,
    allowed: Allowed | None = None,
    trace: list[tuple[Tensor, Tensor]] | None = None,
) -> tuple[Tensor, Tensor]:
    """The `beam` best items of each user state by log P(c | x) (Eq. 1), best first.

    Args:
        ran: with its codebooks.
        trie: of the catalogue, on the device of `x_BD`.
        x_BD: user states h_u.
        beam: W, prefixes kept at each level and items returned (fewer where the catalogue is smaller).
        normalize: "trie" takes each level's softmax over the valid children of the prefix, so the probabilities of the
            catalogue's items add up to one; "global" takes it over all K codes, as in training.
        allowed: what the users may get; None is everything. It leaves the scores of the others as they are.
        trace: where given, each level's prefixes (codes `[B, W, level + 1]`) and their scores `[B, W]` are appended.

    Returns:
        `items_BW` dense item ids and `scores_BW` log-probabilities; a place left empty has item -1 and score -inf.
    """
    users = torch.arange(len(x_BD), device=x_BD.device)[:, None]
    beams = Beams.at_root(len(x_BD), x_BD.device)
    chosen: list[Tensor] = []
    first_BK, signal = ran.begin(x_BD)
    for level in range(ran.levels):
        logits_BWK = first_BK[:, None]
        if level:
            # An only child is certain where the softmax is over the children: its logits need not be computed.
            is_open_BW = trie.forks(level, beams.node_BW) if normalize == "trie" else beams.node_BW >= 0
            row_R = is_open_BW.flatten().nonzero().squeeze(1)
            signal_RF = F.embedding(row_R // is_open_BW.shape[1], signal[level - 1])
            logits_RK = ran.step(level, signal_RF, [code_BW.flatten()[row_R] for code_BW in chosen])
            codes = logits_RK.shape[-1]
            logits_BWK = logits_RK.new_zeros(is_open_BW.numel(), codes).index_copy_(0, row_R, logits_RK)
            logits_BWK = logits_BWK.view(*is_open_BW.shape, codes)
        beams = beams.extend(trie, level, logits_BWK, beam, normalize, allowed)
        chosen = [code[users, beams.parent_BW] for code in chosen] + [beams.code_BW]
        if trace is not None:
            trace.append((torch.stack(chosen, dim=-1), beams.score_BW))
    return beams.items(trie), beams.score_BW


@dataclass(frozen=True)
class Beams:
    """The best prefixes of each user, best first.

    Attributes:
        node_BW: the trie node each stands for.
        score_BW: its log-probability; -inf where there are fewer prefixes than places.
        code_BW: its last code.
        parent_BW: the place, among the beams one code shorter, of what it continues.
    """

    node_BW: Tensor
    score_BW: Tensor
    code_BW: Tensor
    parent_BW: Tensor

    @classmethod
    def at_root(cls, users: int, device: torch.device) -> Beams:
        """One beam a user, the empty prefix."""
        nothing_B1 = torch.zeros(users, 1, dtype=torch.int64, device=device)
        return cls(nothing_B1, torch.zeros(users, 1, device=device), nothing_B1, nothing_B1)

    def extend(
        self,
        trie: PrefixTrie,
        level: int,
        logits_BWK: Tensor,
        beam: int,
        normalize: Normalize,
        allowed: Allowed | None = None,
    ) -> Beams:
        """The `beam` best prefixes that are longer by one code.

        Args:
            trie: of the catalogue.
            level: of the code to add.
            logits_BWK: of the codes after each prefix.
            beam: W, prefixes to keep.
            normalize, allowed: as in `beam_search`.
        """
        code_BWC, child_BWC, valid_BWC = trie.children(level, self.node_BW)
        score_BWC = self.score_BW[..., None] + _log_p(logits_BWK, code_BWC, valid_BWC, normalize)
        if allowed is not None:
            score_BWC = score_BWC.masked_fill(~allowed.lives(level + 1, child_BWC), -torch.inf)
        width = score_BWC.shape[-1]
        score_BW, best_BW = score_BWC.flatten(1).topk(min(beam, score_BWC.shape[1] * width), dim=-1)
        node_BW, code_BW = (of_BWC.flatten(1).gather(1, best_BW) for of_BWC in (child_BWC, code_BWC))
        return Beams(node_BW, score_BW, code_BW, best_BW // width)

    def items(self, trie: PrefixTrie) -> Tensor:
        """Dense item ids of prefixes of full length; -1 where a place is left empty."""
        # Past the last valid child `children` repeats existing nodes, which must not be taken for recommendations.
        return trie.leaf_items[self.node_BW].long().masked_fill(self.score_BW == -torch.inf, -1)


def _log_p(logits_BWK: Tensor, code_BWC: Tensor, valid_BWC: Tensor, normalize: Normalize) -> Tensor:
    if normalize == "global":
        logits_BWK = F.log_softmax(logits_BWK, dim=-1)
    child_BWC = logits_BWK.expand(*code_BWC.shape[:2], -1).gather(-1, code_BWC).masked_fill(~valid_BWC, -torch.inf)
    return child_BWC if normalize == "global" else F.log_softmax(child_BWC, dim=-1)
