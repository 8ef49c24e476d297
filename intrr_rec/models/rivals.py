"""What a scored slot's target competes with, found without a place for each slot and item of the step.

A slot's history is what lies in its block from its owner's first slot up to itself. Whether it holds an item follows from the
first slot at which the owner has it: one number for each owner and item.

Shape suffixes: T token slots, S scored slots, U items, M negatives, O owners (histories), C blocks, N slots of a block; of one
piece, G blocks, Q queries and K keys.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.data.loading.batch import Batch
from intrr_rec.models.backbones.hstu_attention import WHOLE_BLOCKS
from intrr_rec.models.backbones.hstu_attention_tiles import spans
from intrr_rec.models.log_sums import Piece, Visible, parts

CHUNK = 1 << 27  # bytes of scores that a piece of whole blocks, or of negatives, holds at a time, about


class Rivals:
    """Which negatives and which slots of its own history each scored slot's target competes with.

    Args:
        batch: with candidates.
    """

    def __init__(self, batch: Batch) -> None:
        assert batch.candidates is not None
        self.batch, self.candidates = batch, batch.candidates
        self.owner_T = batch.layout.owner_CN.flatten()
        self.items = len(batch.items_U)
        # Every owner's items in order, each item's slots rising.
        self.sorted_T, self.slot_T = (self.owner_T * self.items + batch.slot_T).sort(stable=True)

    def is_repeat(self) -> Tensor:
        """Whether each target is in the history of its slot, bool `[S]`."""
        wanted_S = self.owner_T[self.batch.scored_S] * self.items + self.candidates.target_S
        place_S = torch.searchsorted(self.sorted_T, wanted_S).clamp(max=len(self.sorted_T) - 1)
        return (self.sorted_T[place_S] == wanted_S) & (self.slot_T[place_S] <= self.batch.scored_S)

    def negative_pieces(self) -> list[Piece]:
        """Some scored slots at a time, and all negatives."""
        rows = max(1, CHUNK // (16 * len(self.candidates.negative_M)))
        return [Piece(slice(0, 1), part, slice(None)) for part in parts(len(self.batch.scored_S), rows)]

    def negatives(self) -> Visible:
        """Of a piece, the negatives that are neither the target nor in the history: such a rival has its place there."""
        negative_M = self.candidates.negative_M
        place_U = torch.full((self.items,), len(negative_M), device=negative_M.device)
        place_U[negative_M] = torch.arange(len(negative_M), device=negative_M.device)
        is_first_T = F.pad(self.sorted_T[1:] != self.sorted_T[:-1], (1, 0), value=True)
        owner_T = self.owner_T[self.slot_T]
        place_T = place_U[self.batch.slot_T[self.slot_T]].masked_fill(~is_first_T | (owner_T < 0), len(negative_M))
        # The last column takes what is no negative's first slot.
        first_OM = self.slot_T.new_full((self.candidates.histories, len(negative_M) + 1), len(self.slot_T))
        first_OM = first_OM.int()
        first_OM.view(-1)[owner_T.clamp(min=0) * first_OM.shape[1] + place_T] = self.slot_T.int()
        first_OM = first_OM[:, place_U[negative_M]]
        owner_S, slot_S, target_S = (
            self.owner_T[self.batch.scored_S],
            self.batch.scored_S.int(),
            self.candidates.target_S,
        )

        def visible(piece: Piece) -> Tensor:
            part = piece.queries
            is_seen_QM = first_OM[owner_S[part]] <= slot_S[part, None]
            return ~(is_seen_QM | (negative_M == target_S[part, None]))[None]

        return visible

    def own_pieces(self) -> list[Piece]:
        """Whole blocks while they are short; of long ones, pieces of a history where a slot is scored."""
        blocks, slots = self.batch.layout.owner_CN.shape
        whole = slice(0, slots)
        if slots <= WHOLE_BLOCKS:
            return [Piece(part, whole, whole) for part in parts(blocks, max(1, CHUNK // (16 * slots**2)))]
        scored_S, found = self.batch.scored_S.cpu().numpy(), []
        for key, first, end in spans(self.owner_T.cpu(), slots):
            before, until = np.searchsorted(scored_S, (first, end))
            block = first // slots * slots
            if before < until:
                at = slice(block // slots, block // slots + 1)
                found.append(Piece(at, slice(first - block, end - block), slice(key - block, end - block)))
        return found

    def own(self) -> Visible:
        """Of a piece, the slots of the history that hold other items than the target."""
        owner_CN, target_S = self.batch.layout.owner_CN, self.candidates.target_S
        place_CN = self.batch.slot_T.view(owner_CN.shape)
        target_CN = target_S.new_zeros(self.batch.slot_T.shape).scatter(0, self.batch.scored_S, target_S)
        target_CN = target_CN.view(owner_CN.shape)

        def visible(piece: Piece) -> Tensor:
            queries, keys = (piece.blocks, piece.queries), (piece.blocks, piece.keys)
            is_own_GQK = owner_CN[queries][:, :, None] == owner_CN[keys][:, None]
            is_own_GQK &= target_CN[queries][:, :, None] != place_CN[keys][:, None]
            return is_own_GQK.tril_(piece.queries.start - piece.keys.start)

        return visible
