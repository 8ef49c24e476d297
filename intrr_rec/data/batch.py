"""One step's input: jagged histories, unique items and their inverse index, computed where the data is read.

Histories are laid out as *segments*: users of similar length form one `[rows, length]` block, short rows padded at their
end. With causal attention a padding slot comes after every real one, so it changes nothing and needs no mask.

Shape suffixes: U unique items, T token slots (padding included), S scored slots, V width of content vectors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intrr_rec.data.windows import IntArray, Windows

Segments = tuple[tuple[int, int], ...]


@dataclass
class Batch:
    """Input of one forward pass.

    `target_weight` is the weight of each scored slot in L_rec and `align_weight_U` that of each item in L_aln. Both are
    computed over the whole step, all replicas included, and multiplied by their number: averaging the gradients of the
    replicas then gives the step's mean, however the users were dealt out.
    """

    items_U: Tensor
    slot_T: Tensor
    segments: Segments
    scored_S: Tensor
    target_S: Tensor
    target_weight: float
    align_weight_U: Tensor
    content_UV: Tensor | None
    users: NDArray[np.int64]

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return replace(
            self,
            items_U=move(self.items_U),
            slot_T=move(self.slot_T),
            scored_S=move(self.scored_S),
            target_S=move(self.target_S),
            align_weight_U=move(self.align_weight_U),
            content_UV=None if self.content_UV is None else move(self.content_UV),
        )


def segment_lengths(window: int) -> IntArray:
    """Padded lengths in use: every length up to 6, then steps of about a fifth, up to the window."""
    lengths = list(range(1, min(6, window) + 1))
    while lengths[-1] < window:
        lengths.append(min(window, -(-lengths[-1] * 6 // 5)))
    return np.array(lengths, dtype=np.int64)


class Collator:
    """Builds batches from windows over a flat event array.

    Args:
        items_E: dense item id of every event, users one after the other.
        window: N, the longest window.
        content_IV: content vectors by dense item id, or None.
        align_average: "items" gives each distinct item of the step the same weight in L_aln, "positions" weighs it by
            how often it occurs (IntRR Eq. 8 sums over items).
    """

    def __init__(
        self, items_E: IntArray, window: int, content_IV: NDArray[np.float32] | None, align_average: str
    ) -> None:
        self.items_E = items_E
        self.padded_length = np.zeros(window + 1, dtype=np.int64)
        edges = segment_lengths(window)
        self.padded_length[1:] = edges[np.searchsorted(edges, np.arange(1, window + 1))]
        self.content_IV = content_IV
        self.align_average = align_average

    def __call__(self, windows: Windows, rank: int = 0, replicas: int = 1) -> Batch:
        """The share of replica `rank` in the step made of `windows` (every `replicas`-th window).

        It may be empty: then it has no users and no scored slots, but one window of weight nothing, so that every table is
        still asked for a row and every parameter gets a (zero) gradient to average with the other replicas'.
        """
        own = np.arange(rank, len(windows), replicas)
        local = windows.take(own if len(own) else np.zeros(1, dtype=np.int64))
        local = local.take(np.argsort(local.length_M, kind="stable"))
        event_T, real_T, scored_T, segments = self._lay_out(local)
        if not len(own):
            real_T, scored_T = np.zeros_like(real_T), np.zeros_like(scored_T)
        items_U, inverse_T = np.unique(self.items_E[event_T], return_inverse=True)
        scored_S = np.flatnonzero(scored_T)
        return Batch(
            items_U=torch.from_numpy(items_U),
            slot_T=torch.from_numpy(inverse_T.reshape(-1)),
            segments=segments,
            scored_S=torch.from_numpy(scored_S),
            target_S=torch.from_numpy(self.items_E[event_T[scored_S] + 1]),
            target_weight=replicas / max(1, windows.n_targets),
            align_weight_U=torch.from_numpy(self._align_weights(windows, items_U, inverse_T[real_T], replicas)),
            content_UV=None if self.content_IV is None else torch.from_numpy(self.content_IV[items_U]),
            users=local.user_M[: len(own)],
        )

    def _lay_out(self, windows: Windows) -> tuple[IntArray, NDArray[np.bool_], NDArray[np.bool_], Segments]:
        events, real, scored, segments = [], [], [], []
        padded = self.padded_length[windows.length_M]
        for length in np.unique(padded):
            rows = np.flatnonzero(padded == length)
            position = np.arange(length)[None, :]
            own = windows.length_M[rows][:, None]
            is_real = position < own
            events.append((windows.start_M[rows][:, None] + np.minimum(position, own - 1)).reshape(-1))
            real.append(is_real.reshape(-1))
            scored.append((is_real & (position >= windows.first_scored_M[rows][:, None])).reshape(-1))
            segments.append((len(rows), int(length)))
        if not events:
            nothing = np.zeros(0, dtype=np.int64)
            return nothing, nothing.astype(bool), nothing.astype(bool), ()
        return np.concatenate(events), np.concatenate(real), np.concatenate(scored), tuple(segments)

    def _align_weights(
        self, windows: Windows, items_U: IntArray, real_inverse: IntArray, replicas: int
    ) -> NDArray[np.float32]:
        here_U = np.bincount(real_inverse, minlength=len(items_U)).astype(np.float64)
        if self.align_average == "positions":
            return (here_U * replicas / max(1, int(windows.length_M.sum()))).astype(np.float32)
        # An item seen by two replicas is shared between them in proportion to its occurrences: its weights add up to one.
        first = np.repeat(windows.start_M - np.cumsum(windows.length_M) + windows.length_M, windows.length_M)
        everywhere, counts = np.unique(self.items_E[first + np.arange(len(first))], return_counts=True)
        share_U = here_U / counts[np.searchsorted(everywhere, items_U)]
        return (share_U * replicas / max(1, len(everywhere))).astype(np.float32)
