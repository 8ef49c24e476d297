"""One step's input: packed histories, unique items and their inverse index, computed where the data is read.

Histories are packed end to end into blocks of N slots, none cut in two, so that next to nothing is padding and attention
is one product over equal blocks. Attention is causal and stays within an owner: what shares a block changes nothing.

Shape suffixes: M windows, U unique items, C blocks, N slots of a block, T = C·N slots, S scored slots, V width of content,
L levels of a Semantic ID.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intrr_rec.data.features.space import Space
from intrr_rec.data.loading.features import BatchFeatures, FeatureReader, HistoryFeatures
from intrr_rec.data.loading.negatives import Candidates, CandidateSampler
from intrr_rec.data.loading.windows import IntArray, Windows

SHORT_BLOCK = 128  # slots of a block of short histories, where the window is longer


@dataclass
class Layout:
    """Where histories lie in the blocks, and when.

    Attributes:
        owner_CN: which of the batch's histories a slot belongs to; -1 is padding.
        event_time_CN: when the slot's event happened, int64 seconds; None where the model does not read times.
        request_time_CN: when the event after it happened, the moment its prediction is asked for; int64 seconds, or None.
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
        times: Sequence[Sequence[int]] | None = None,
        features: tuple[Space, Sequence[HistoryFeatures]] | None = None,
    ) -> Batch:
        """Histories to rank after, without targets: `scored_S` is the last slot of each, in the order given.

        Args:
            histories: dense item ids, the oldest first, none empty; of a longer one than N the newest are read.
            window: N.
            times: seconds of each event, and last those of the request; for a model that reads times.
            features: the columns that a model reads, and the numbers of each history; None of a model that reads none.
        """
        newest = [np.asarray(history[-window:], dtype=np.int64) for history in histories]
        length_B = np.array([len(items) for items in newest])
        slots = min(window, max(SHORT_BLOCK, int(length_B.max())))
        block_B, offset_B, n_blocks = pack(length_B, slots)
        first_B = block_B * slots + offset_B
        slot_E = np.repeat(first_B, length_B) + _positions(length_B)
        item_T, owner_T = np.full(n_blocks * slots, newest[0][0]), np.full(n_blocks * slots, -1)
        item_T[slot_E] = np.concatenate(newest)
        owner_T[slot_E] = np.repeat(np.arange(len(newest)), length_B)
        per_slot = [owner_T]
        if times is not None:
            spans = [
                np.asarray(moments, dtype=np.int64)[-len(items) - 1 :]
                for moments, items in zip(times, newest, strict=True)
            ]
            event_time_T, request_time_T = (np.full(len(item_T), spans[0][each]) for each in (0, 1))
            event_time_T[slot_E] = np.concatenate([span[:-1] for span in spans])
            request_time_T[slot_E] = np.concatenate([span[1:] for span in spans])
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
    with_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    n_blocks = 0
    for window in np.argsort(-length_M, kind="stable").tolist():
        length = int(length_M[window])
        room = next((free for free in range(length, capacity + 1) if with_room[free]), None)
        if room is None:
            room, block, n_blocks = capacity, n_blocks, n_blocks + 1
        else:
            block = with_room[room].pop()
        block_M[window], offset_M[window] = block, capacity - room
        with_room[room - length].append(block)
    return block_M, offset_M, n_blocks


def look_up_content(content_IV: NDArray[np.floating[Any]] | None, items_U: Tensor | IntArray) -> Tensor | None:
    """The vectors of some items, float32 `[U, V]`; None where there are none."""
    return None if content_IV is None else torch.from_numpy(content_IV[items_U].astype(np.float32, copy=False))


def _positions(length_M: IntArray) -> IntArray:
    """0, 1, … within each of the stretches of these lengths, one after the other."""
    return np.arange(int(length_M.sum())) - np.repeat(np.cumsum(length_M) - length_M, length_M)


def _targets(windows: Windows) -> IntArray:
    """The number of the event after each scored position of some windows."""
    count_M = windows.length_M - windows.first_scored_M
    return np.repeat(windows.start_M + windows.first_scored_M + 1, count_M) + _positions(count_M)


class Collator:
    """Builds batches from windows over a flat event array.

    Args:
        items_E: dense item id of every event, users one after the other.
        window: N, the longest window.
        content_IV: content vectors by dense item id, float16 or float32, or None.
        align_average: "items" gives each distinct item of the step the same weight in L_aln, "positions" weighs it by
            how often it occurs (IntRR Eq. 8 sums over items).
        candidates: draws negatives for a model with a sampled softmax; None leaves them out.
        times_E: seconds of every event, for a model that reads times; None leaves them out of the layout.
        with_targets: also lay out the event after each window, in blocks of N + 1 slots: a model that reads the codes of
            a target to predict its next code is taught with them in place. Such a model reads no times.
        codes_IL: Semantic IDs by dense item id, for batches that go to another device than they lie on; None leaves them out.
        features: reads the features of events, items and users, for a model that reads some.
        weight_E: what each event counts as a target, 0 where it is none; None: all count the same.
    """

    def __init__(
        self,
        items_E: IntArray,
        window: int,
        content_IV: NDArray[np.floating[Any]] | None,
        align_average: str,
        times_E: IntArray | None = None,
        candidates: CandidateSampler | None = None,
        *,
        with_targets: bool = False,
        codes_IL: Tensor | None = None,
        features: FeatureReader | None = None,
        weight_E: NDArray[np.float32] | None = None,
    ) -> None:
        assert not with_targets or times_E is None, "what follows a target may be another user's"
        self.items_E = items_E
        self.slots = window + with_targets
        self.beyond = int(with_targets)
        self.content_IV = content_IV
        self.align_average = align_average
        self.times_E = times_E
        self.candidates = candidates
        self.codes_IL = codes_IL
        self.features = features
        self.weight_E = weight_E

    def over(
        self,
        items_E: IntArray,
        times_E: IntArray | None,
        event_FE: Sequence[NDArray[np.integer]] = (),
        weight_E: NDArray[np.float32] | None = None,
    ) -> Collator:
        """The same over other events."""
        other = copy(self)
        other.items_E, other.times_E, other.weight_E = items_E, times_E, weight_E
        other.features = None if self.features is None else self.features.over(event_FE)
        return other

    def __call__(self, windows: Windows, rank: int = 0, replicas: int = 1, step: int = 0) -> Batch:
        """The share of replica `rank` in the step made of `windows` (every `replicas`-th window).

        `step` numbers it for what is drawn at random.

        It may be empty: then it has no users and no scored slots, but one window of weight nothing, so that every table is
        still asked for a row and every parameter gets a (zero) gradient to average with the other replicas'.
        """
        own = np.arange(rank, len(windows), replicas)
        local = windows.take(own if len(own) else np.zeros(1, dtype=np.int64))
        event_T, owner_T, scored_T = self._lay_out(local)
        counted_T = owner_T >= 0
        if not len(own):
            scored_T[:] = counted_T[:] = False
        scored_S = np.flatnonzero(scored_T)
        weight_S, total = None, float(windows.n_targets)
        if self.weight_E is not None:
            target_M = _targets(windows)
            total = float(self.weight_E[target_M].sum(dtype=np.float64))
            scored_S = scored_S[self.weight_E[event_T[scored_S] + 1] > 0]
            weight_S = torch.from_numpy(self.weight_E[event_T[scored_S] + 1])
        target_S = self.items_E[event_T[scored_S] + 1]
        wanted = [self.items_E[event_T]]
        if self.candidates is not None:
            wanted += [target_S, self.candidates.draw(step)]
        items_U, inverse = np.unique(np.concatenate(wanted), return_inverse=True)
        inverse = inverse.reshape(-1)
        inverse_T = inverse[: len(event_T)]
        candidates = None
        if self.candidates is not None:
            places = torch.from_numpy(inverse[len(event_T) :])
            candidates = Candidates(*places.split([len(target_S), self.candidates.negatives]))
        features = None
        if self.features is not None:
            features = self.features.batch(event_T, local.user_M[owner_T.clip(min=0)], items_U, step)
        return Batch(
            items_U=torch.from_numpy(items_U),
            slot_T=torch.from_numpy(inverse_T),
            layout=self._layout(event_T, owner_T),
            scored_S=torch.from_numpy(scored_S),
            target_S=torch.from_numpy(target_S),
            target_weight=replicas / total if total else 0.0,
            align_weight_U=torch.from_numpy(self._align_weights(windows, items_U, inverse_T[counted_T], replicas)),
            content_UV=look_up_content(self.content_IV, items_U),
            user_S=local.user_M[owner_T[scored_S]],
            candidates=candidates,
            codes_UL=None if self.codes_IL is None else self.codes_IL[torch.from_numpy(items_U)],
            target_codes_SL=None if self.codes_IL is None else self.codes_IL[torch.from_numpy(target_S)],
            features=features,
            weight_S=weight_S,
        )

    def _lay_out(self, windows: Windows) -> tuple[IntArray, IntArray, NDArray[np.bool_]]:
        """Event, owner and whether scored, of every slot; a padding slot repeats the first event."""
        length_M = windows.length_M + self.beyond
        block_M, offset_M, n_blocks = pack(length_M, self.slots)
        owner = np.repeat(np.arange(len(windows)), length_M)
        position = _positions(length_M)
        slot = block_M[owner] * self.slots + offset_M[owner] + position
        event_T = np.full(n_blocks * self.slots, windows.start_M[0])
        owner_T = np.full(len(event_T), -1)
        scored_T = np.zeros(len(event_T), dtype=np.bool_)
        event_T[slot] = windows.start_M[owner] + position
        owner_T[slot] = owner
        scored_T[slot] = (position >= windows.first_scored_M[owner]) & (position < windows.length_M[owner])
        return event_T, owner_T, scored_T

    def _layout(self, event_T: IntArray, owner_T: IntArray) -> Layout:
        per_slot = [owner_T] if self.times_E is None else [owner_T, self.times_E[event_T], self.times_E[event_T + 1]]
        return Layout(*(torch.from_numpy(each_T.reshape(-1, self.slots)) for each_T in per_slot))

    def _align_weights(
        self, windows: Windows, items_U: IntArray, real_inverse: IntArray, replicas: int
    ) -> NDArray[np.float32]:
        length_M = windows.length_M + self.beyond
        here_U = np.bincount(real_inverse, minlength=len(items_U)).astype(np.float64)
        if self.align_average == "positions":
            return (here_U * replicas / max(1, int(length_M.sum()))).astype(np.float32)
        # An item seen by two replicas is shared between them in proportion to its occurrences: its weights add up to one.
        first = np.repeat(windows.start_M - np.cumsum(length_M) + length_M, length_M)
        everywhere, counts = np.unique(self.items_E[first + np.arange(len(first))], return_counts=True)
        place_U = np.searchsorted(everywhere, items_U).clip(max=len(everywhere) - 1)  # candidates only: none here
        share_U = here_U / counts[place_U]
        return (share_U * replicas / max(1, len(everywhere))).astype(np.float32)
