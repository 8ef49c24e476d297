"""Filters at decode time: a prefix is followed only while an item that the user may get lies below it.

Leaves lie in the trie's order, so the items below a node are a stretch of leaves, and counting those allowed in it is a
difference of two sums. A beam that keeps only prefixes with such an item never dies out: it returns min(W, allowed items).

Shape legend: I items, L levels, N nodes of a depth, B users, W beams, C children, M items denied to a user.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from intrr_rec.semantic_ids.trie import PrefixTrie

FEW = 8  # children of a user's beams per denied item, from which on the denied ones are looked up among the beams


@dataclass(frozen=True)
class Allowed:
    """Who may get what.

    Attributes:
        leaves: of the trie.
        before_I1: how many leaves that all users may get lie before each place; None where they may get every item.
        denied_BM: places of the leaves that one user may not get beyond that, rising, without repetition, padded with I;
            None where there are none.
        denied_item_BM: dense ids that one user may not get, -1 is padding.
    """

    leaves: Leaves
    before_I1: Tensor | None
    denied_BM: Tensor | None
    denied_item_BM: Tensor | None = None

    def close(self, depth: int, first_BW: Tensor, is_beam_BW: Tensor, score_BWC: Tensor) -> None:
        """Set the scores of children without an allowed item below them to -inf, in place.

        Args:
            depth: of the children.
            first_BW: the node of each beam's first child; the others follow it.
            is_beam_BW: which places hold a beam.
            score_BWC: of the children; -inf already where a beam has fewer than C, or a place holds none.
        """
        width, nodes, denied_BM = score_BWC.shape[2], self.leaves.nodes(depth), self.denied_BM
        # Few denied items: the dead nodes are found from them, and each one's beam. Many: each child is looked up among them.
        few = denied_BM is not None and denied_BM.shape[1] * FEW <= first_BW.shape[1] * width
        if self.before_I1 is not None or not few:
            child_BWC = first_BW[..., None] + torch.arange(width, device=first_BW.device)
            alive_BWC = self._lives(depth, child_BWC.clamp_(max=nodes - 1), None if few else denied_BM)
            score_BWC.masked_fill_(~alive_BWC, -torch.inf)
        if denied_BM is None or not few:
            return
        node_BM = self.leaves.above(depth, denied_BM)
        alive_BM = self._lives(depth, node_BM.clamp(max=nodes - 1), denied_BM)
        dead_BM = node_BM.masked_fill(alive_BM, nodes)
        # The children of beams are stretches apart: a node's beam is the last whose children begin at or before it.
        start_BW, beam_BW = first_BW.masked_fill(~is_beam_BW, nodes).sort(dim=1)
        at_BM = torch.searchsorted(start_BW, dead_BM, right=True) - 1
        child_BM = dead_BM - start_BW.gather(1, at_BM.clamp(min=0))
        is_child_BM = (at_BM >= 0) & (child_BM < width) & (dead_BM < nodes)
        # The least of the score and of -inf or inf: which they are is not read from the device.
        place_BM = (beam_BW.gather(1, at_BM.clamp(min=0)) * width + child_BM).masked_fill(~is_child_BM, 0)
        closed_BM = torch.where(is_child_BM, -torch.inf, torch.inf).to(score_BWC.dtype)
        score_BWC.view(len(score_BWC), first_BW.shape[1] * width).scatter_reduce_(1, place_BM, closed_BM, "amin")

    def _lives(self, depth: int, node: Tensor, denied_BM: Tensor | None) -> Tensor:
        """Whether an item that all may get, and that is not denied to the user of its row, lies below each node of this depth."""
        start, end = self.leaves.below(depth, node)
        count = end - start if self.before_I1 is None else self.before_I1[end] - self.before_I1[start]
        if denied_BM is not None:
            edges_B2 = torch.stack([start, end], dim=1)
            counted_B2 = torch.searchsorted(denied_BM, edges_B2.flatten(1)).view(edges_B2.shape)
            count = count - (counted_B2[:, 1] - counted_B2[:, 0])
        return count > 0

    def of(self, user_B: Tensor) -> Allowed:
        """The filters of some of the users, given by their rows."""
        if self.denied_BM is None or self.denied_item_BM is None:
            return self
        return replace(self, denied_BM=self.denied_BM[user_B], denied_item_BM=self.denied_item_BM[user_B])

    def between(self, first: int, end: int) -> Tensor:
        """Whether the users may get items `first … end - 1`, `[B, R]`; `[1, R]` where it is the same for all."""
        place_R = self.leaves.place_I[first:end].long()
        is_open_BR = torch.ones(1, end - first, dtype=torch.bool, device=place_R.device)
        if self.before_I1 is not None:
            is_open_BR = (self.before_I1[place_R + 1] > self.before_I1[place_R])[None]
        if self.denied_item_BM is not None:
            is_open_BR = is_open_BR.repeat(len(self.denied_item_BM), 1)
            user_H, slot_H = ((self.denied_item_BM >= first) & (self.denied_item_BM < end)).nonzero(as_tuple=True)
            is_open_BR[user_H, self.denied_item_BM[user_H, slot_H] - first] = False
        return is_open_BR

    def at(self, item: Tensor) -> Tensor:
        """Whether the users may get these items: `[R]`, the same for all, or each user's own, `[B, R]`; -1 is none.

        Returns:
            bool `[B, R]`; `[1, R]` where items and filters are the same for all.
        """
        place_BR = self.leaves.place_I[item.clamp(min=0)].long()
        is_open_BR = item >= 0
        if self.before_I1 is not None:
            is_open_BR = is_open_BR & (self.before_I1[place_BR + 1] > self.before_I1[place_BR])
        if item.ndim == 1:
            place_BR, is_open_BR = place_BR[None], is_open_BR[None]
        if self.denied_BM is not None:
            place_BR = place_BR.expand(len(self.denied_BM), -1).contiguous()
            found_BR = torch.searchsorted(self.denied_BM, place_BR).clamp(max=self.denied_BM.shape[1] - 1)
            is_open_BR = is_open_BR & (self.denied_BM.gather(1, found_BR) != place_BR)
        return is_open_BR


@dataclass(frozen=True)
class Leaves:
    """Where the items of a trie lie among its leaves.

    Attributes:
        place_I: the leaf of each item, as narrow as it fits.
        first: for depths 0 … L-1, the first leaf below each node, `[N + 1]`: the last entry is I.
    """

    place_I: Tensor
    first: tuple[Tensor, ...]

    @classmethod
    def of(cls, trie: PrefixTrie) -> Leaves:
        """Those of a trie, on its device."""
        device = trie.leaf_items.device
        first = [first_N.to(device) for first_N in trie.first_leaves]
        return cls(trie.leaf_of_item.to(device), (*first, trie.child_offsets[-1]))

    def below(self, depth: int, node: Tensor) -> tuple[Tensor, Tensor]:
        """The first leaf below each node and the one after its last, int64."""
        if depth == len(self.first):
            return node, node + 1
        return self.first[depth][node].long(), self.first[depth][node + 1].long()

    def nodes(self, depth: int) -> int:
        """N, how many nodes there are at a depth."""
        return len(self.place_I) if depth == len(self.first) else len(self.first[depth]) - 1

    def above(self, depth: int, leaf: Tensor) -> Tensor:
        """The node of a depth that each leaf lies below, int64; N for the leaf I, which there is not."""
        if depth == len(self.first):
            return leaf
        first_N = self.first[depth]
        return torch.searchsorted(first_N, leaf.to(first_N.dtype), right=True) - 1

    def before(self, allowed_I: Tensor) -> Tensor:
        """`Allowed.before_I1` of a mask over items."""
        allowed_in_order_I = torch.empty_like(allowed_I)
        allowed_in_order_I[self.place_I.long()] = allowed_I
        before_I = allowed_in_order_I.cumsum(0, dtype=torch.int32)
        return torch.cat([before_I.new_zeros(1), before_I])

    def allow(self, before_I1: Tensor | None, denied_BM: Tensor | None) -> Allowed:
        """Filters of a batch.

        Args:
            before_I1: what `before` gave for the items that everyone may get.
            denied_BM: dense ids that one user may not get, in any order; -1 is padding.
        """
        if denied_BM is None or not denied_BM.shape[1]:
            return Allowed(self, before_I1, None)
        end = len(self.place_I)
        place_BM = self.place_I[denied_BM.clamp(min=0)].long().masked_fill(denied_BM < 0, end)
        if before_I1 is not None:  # what nobody may get must not be counted twice
            open_BM = before_I1[(place_BM + 1).clamp(max=end)] > before_I1[place_BM]
            place_BM = place_BM.masked_fill(~open_BM, end)
        place_BM = place_BM.sort(dim=1).values
        repeated_BM = torch.zeros_like(place_BM, dtype=torch.bool)
        repeated_BM[:, 1:] = place_BM[:, 1:] == place_BM[:, :-1]
        place_BM = place_BM.masked_fill(repeated_BM, end).sort(dim=1).values
        return Allowed(self, before_I1, place_BM, denied_BM)
