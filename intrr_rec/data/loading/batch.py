"""One step's input: packed histories, unique items and their inverse index, computed where the data is read.

Histories are packed end to end into blocks of N slots, none cut in two, so that next to nothing is padding and attention
is one product over equal blocks. Attention is causal and stays within an owner: what shares a block changes nothing.

Shape suffixes: M windows, U unique items, C blocks, N slots of a block, T = C·N slots, S scored slots, V width of content,
L levels of a Semantic ID.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intrr_rec.data.features.space import Space
from intrr_rec.data.loading.features import BatchFeatures, HistoryFeatures
from intrr_rec.data.loading.negatives import Candidates
from intrr_rec.data.loading.windows import IntArray

UNTIMED = -(1 << 62)  # in place of the moment of a request whose history has no times
SHORT_BLOCK = 128  # slots of a block of short histories, where the window is longer


@dataclass
class Layout:
    """Where histories lie in the blocks, and when.

    Attributes:
        owner_CN: which of the batch's histories a slot belongs to; -1 is padding.
        event_time_CN: when the slot's event happened, int64 seconds; None where neither model nor ranking reads times.
        request_time_CN: when the event after it happened, the moment its prediction is asked for; where the model does not read
            times, when the slot's own event did; int64 seconds, or None.
    """

    owner_CN: Tensor
    event_time_CN: Tensor | None = None
    request_time_CN: Tensor | None = None

    def to(self, device: torch.device) -> Layout:
        """The same layout on a device."""
        owner_CN = self.owner_CN.to(device, non_blocking=True)
        if self.event_time_CN is None or self.request_time_CN is None:
            return Layout(owner_CN)
        times = (each.to(device, non_blocking=True) for each in (self.event_time_CN, self.request_time_CN))
        return Layout(owner_CN, *times)

    def together_CNN(self) -> Tensor:
        """Which slots are of the same history."""
        return self.owner_CN[:, :, None] == self.owner_CN[:, None, :]

    def visible_CNN(self) -> Tensor:
        """Where a slot may look: at slots of the same history, not after it."""
        return self.together_CNN().tril()

    def visible_from(self, at_S: Tensor) -> Tensor:
        """Where these slots, counted over all blocks, may look in their own block, `[S, N]`."""
        slots = self.owner_CN.shape[1]
        is_own_SN = self.owner_CN[at_S // slots] == self.owner_CN.flatten()[at_S][:, None]
        return is_own_SN & (torch.arange(slots, device=at_S.device) <= at_S[:, None] % slots)


@dataclass
class Batch:
    """Input of one forward pass.

    `slot_T` says which of `items_U` each slot holds (padding holds some item of the batch), `layout` whose history it
    belongs to. Items no slot holds are there as candidates only. `scored_S` are the slots to predict from, `target_S` and
    `user_S` what follows there and for whom. `target_weight` is the weight of each scored slot in L_rec and `align_weight_U` that of each item in L_aln. Both are
    computed over the whole step, all replicas included, and multiplied by their number: averaging the gradients of the
    replicas then gives the step's mean, however the users were dealt out.

    `weight_S` weighs the targets against one another; None where they count the same. Events that are no targets are not scored.

    `codes_UL` and `target_codes_SL` are the Semantic IDs of `items_U` and `target_S`, as narrow as they are stored; None where
    the model is to look them up itself.
    """

    items_U: Tensor
    slot_T: Tensor
    layout: Layout
    scored_S: Tensor
    target_S: Tensor
    target_weight: float
    align_weight_U: Tensor
    content_UV: Tensor | None
    user_S: IntArray
    candidates: Candidates | None = None
    codes_UL: Tensor | None = None
    target_codes_SL: Tensor | None = None
    features: BatchFeatures | None = None
    weight_S: Tensor | None = None

    @classmethod
    def from_histories(
        cls,
        histories: Sequence[Sequence[int]],
        window: int,
        times: Sequence[Sequence[int] | None] | None = None,
        features: tuple[Space, Sequence[HistoryFeatures]] | None = None,
        *,
        told: bool = True,
    ) -> Batch:
        """Histories to rank after, without targets: `scored_S` is the last slot of each, in the order given.

        Args:
            histories: dense item ids, the oldest first, none empty; of a longer one than N the newest are read.
            window: N.
            times: seconds of each event, and last those of the request; for a model or ranking that reads times. None of a history
                whose times are not known.
            features: the columns that a model reads, and the numbers of each history; None of a model that reads none.
            told: whether the moment of the request is read; if not, it counts as that of the newest event.
        """
        newest = [np.asarray(history[-window:], dtype=np.int64) for history in histories]
        length_B = np.array([len(items) for items in newest])
        slots = min(window, max(SHORT_BLOCK, int(length_B.max())))
        block_B, offset_B, n_blocks = pack(length_B, slots)
        first_B = block_B * slots + offset_B
        slot_E = np.repeat(first_B, length_B) + positions_of(length_B)
        item_T, owner_T = np.full(n_blocks * slots, newest[0][0]), np.full(n_blocks * slots, -1)
        item_T[slot_E] = np.concatenate(newest)
        owner_T[slot_E] = np.repeat(np.arange(len(newest)), length_B)
        per_slot = [owner_T]
        if times is not None:
            spans = [
                np.full(len(items) + 1, UNTIMED) if moments is None else np.array(moments)[-len(items) - 1 :]
                for moments, items in zip(times, newest, strict=True)
            ]
            event_time_T, request_time_T = (np.full(len(item_T), spans[0][each]) for each in (0, 1))
            event_time_T[slot_E] = np.concatenate([span[:-1] for span in spans])
            request_time_T[slot_E] = np.concatenate([span[1:] if told else span[:-1] for span in spans])
            per_slot += [event_time_T, request_time_T]
        items_U, slot_T = np.unique(item_T, return_inverse=True)
        return cls(
            items_U=torch.from_numpy(items_U),
            slot_T=torch.from_numpy(slot_T.reshape(-1)),
            layout=Layout(*(torch.from_numpy(each_T.reshape(-1, slots)) for each_T in per_slot)),
            scored_S=torch.from_numpy(first_B + length_B - 1),
            target_S=torch.empty(0, dtype=torch.int64),
            target_weight=0.0,
            align_weight_U=torch.zeros(len(items_U)),
            content_UV=None,
            user_S=np.arange(len(newest)),
            features=None if features is None else BatchFeatures.of_histories(*features, length_B, slot_E, len(item_T)),
        )

    def over_targets(self, nll: Tensor) -> Tensor:
        """What scored slots add to L_rec, from what each has, `[S]` or `[S, L]`: summed over the slots."""
        if self.weight_S is not None:
            nll = nll * (self.weight_S if nll.dim() == 1 else self.weight_S[:, None])
        return nll.sum(0) * self.target_weight

    def seen_items(self) -> tuple[Tensor, Tensor]:
        """What lies in each scored slot's block `[S, N]`, and which of it is history up to that slot."""
        slots = self.layout.owner_CN.shape[1]
        item_CN = self.items_U[self.slot_T].view(-1, slots)
        return item_CN[self.scored_S // slots], self.layout.visible_from(self.scored_S)

    def last_items(self, count: int) -> tuple[Tensor, Tensor]:
        """The last items up to each scored slot, the newest first, `[S, count]`, and which places hold one."""
        slots = self.layout.owner_CN.shape[1]
        back_H = torch.arange(count, device=self.scored_S.device)
        slot_SH = self.scored_S[:, None] - back_H
        is_there_SH = back_H <= self.scored_S[:, None] % slots
        slot_SH = torch.where(is_there_SH, slot_SH, self.scored_S[:, None])
        owner_T = self.layout.owner_CN.flatten()
        is_there_SH = is_there_SH & (owner_T[slot_SH] == owner_T[self.scored_S][:, None])
        return self.items_U[self.slot_T[slot_SH]], is_there_SH

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            items_U=move(self.items_U),
            slot_T=move(self.slot_T),
            layout=self.layout.to(device),
            scored_S=move(self.scored_S),
            target_S=move(self.target_S),
            align_weight_U=move(self.align_weight_U),
            content_UV=None if self.content_UV is None else move(self.content_UV),
            candidates=None if self.candidates is None else self.candidates.to(device),
            codes_UL=None if self.codes_UL is None else move(self.codes_UL),
            target_codes_SL=None if self.target_codes_SL is None else move(self.target_codes_SL),
            features=None if self.features is None else self.features.to(device),
            weight_S=None if self.weight_S is None else move(self.weight_S),
        )


def pack(length_M: IntArray, capacity: int) -> tuple[IntArray, IntArray, int]:
    """Best-fit decreasing bin packing.

    Args:
        length_M: each at most `capacity`.

    Returns:
        Block and offset in it of each window, and the number of blocks.
    """
    block_M, offset_M = np.zeros_like(length_M), np.zeros_like(length_M)
    with_room: dict[int, list[int]] = {}  # free slots → blocks
    rooms: list[int] = []  # its keys, in order
    n_blocks = 0
    for window in np.argsort(-length_M, kind="stable").tolist():
        length = int(length_M[window])
        place = bisect_left(rooms, length)
        if place == len(rooms):
            room, block, n_blocks = capacity, n_blocks, n_blocks + 1
        else:
            room = rooms[place]
            block = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[place]
        block_M[window], offset_M[window] = block, capacity - room
        if room - length not in with_room:
            with_room[room - length] = []
            insort(rooms, room - length)
        with_room[room - length].append(block)
    return block_M, offset_M, n_blocks


def look_up_content(content_IV: NDArray[np.floating[Any]] | None, items_U: Tensor | IntArray) -> Tensor | None:
    """The vectors of some items, float32 `[U, V]`; None where there are none."""
    return None if content_IV is None else torch.from_numpy(content_IV[items_U].astype(np.float32, copy=False))


def positions_of(length_M: IntArray) -> IntArray:
    """0, 1, … within each of the stretches of these lengths, one after the other."""
    return np.arange(int(length_M.sum())) - np.repeat(np.cumsum(length_M) - length_M, length_M)
