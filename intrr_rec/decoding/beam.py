"""Trie-constrained beam search inside the RAN: one backbone pass a user, then L small steps for all users and beams.

Shape suffixes: B users, W beams, P = B·W, C most children of a trie node, K codes, D width, R beams whose next code is open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.decoding.filters import Allowed
from intrr_rec.models.ran_decoder import Steps
from intrr_rec.semantic_ids.trie import PrefixTrie

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
    logits_RK, signal = ran.begin(x_BD)
    for level in range(ran.levels):
        row_R = None
        if level:
            row_R = beams.open(trie, level, normalize)
            signal_RF = F.embedding(row_R // beams.node_BW.shape[1], signal[level - 1])
            logits_RK = ran.step(level, signal_RF, [code_BW.flatten()[row_R] for code_BW in chosen])
        beams = beams.extend(trie, level, logits_RK, beam, normalize, allowed, row_R)
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

    def open(self, trie: PrefixTrie, level: int, normalize: Normalize) -> Tensor:
        """Beams whose next code needs logits, counted over all users: an only child is certain among the children."""
        _, count_P = trie.children(level, self.node_BW.flatten())
        return (count_P > 1 if normalize == "trie" else count_P > 0).nonzero().squeeze(1)

    def extend(
        self,
        trie: PrefixTrie,
        level: int,
        logits_RK: Tensor,
        beam: int,
        normalize: Normalize,
        allowed: Allowed | None = None,
        row_R: Tensor | None = None,
    ) -> Beams:
        """The `beam` best prefixes that are longer by one code.

        Args:
            trie: of the catalogue.
            level: of the code to add.
            logits_RK: of the codes after the prefixes, user after user.
            beam: W, prefixes to keep.
            normalize, allowed: as in `beam_search`.
            row_R: the prefixes that the logits are of, as `open` gives them; None is all.
        """
        width, last = trie.max_children[level], trie.nodes(level + 1) - 1
        first_P, count_P = trie.children(level, self.node_BW.flatten())
        if row_R is None or len(row_R) == len(first_P):
            log_p_PC = _log_p(logits_RK, *trie.codes(level, first_P, count_P), normalize)
        else:
            log_p_PC = logits_RK.new_full((len(first_P), width), -torch.inf)
            log_p_PC[:, 0] = 0
            codes_RC = trie.codes(level, first_P[row_R], count_P[row_R])
            log_p_PC.index_copy_(0, row_R, _log_p(logits_RK, *codes_RC, normalize))
        score_BWC = log_p_PC.view(*self.node_BW.shape, width).add_(self.score_BW[..., None])
        first_BW = first_P.view(self.node_BW.shape)
        if allowed is not None:
            allowed.close(level + 1, first_BW, self.score_BW > -torch.inf, score_BWC)
        score_BW, best_BW = score_BWC.flatten(1).topk(min(beam, score_BWC.shape[1] * width), dim=-1)
        parent_BW = best_BW // width
        # A place left empty may lie past the last node; it must name one all the same.
        node_BW = (first_BW.gather(1, parent_BW) + best_BW % width).clamp_(max=last)
        return Beams(node_BW, score_BW, trie.child_codes[level][node_BW].long(), parent_BW)

    def items(self, trie: PrefixTrie) -> Tensor:
        """Dense item ids of prefixes of full length; -1 where a place is left empty."""
        return trie.leaf_items[self.node_BW].long().masked_fill(self.score_BW == -torch.inf, -1)


def _log_p(logits_RK: Tensor, code_RC: Tensor, closed_RC: Tensor, normalize: Normalize) -> Tensor:
    if normalize == "global":
        logits_RK = F.log_softmax(logits_RK, dim=-1)
    child_RC = logits_RK.gather(1, code_RC).add_(closed_RC)
    return child_RC if normalize == "global" else F.log_softmax(child_RC, dim=-1)
