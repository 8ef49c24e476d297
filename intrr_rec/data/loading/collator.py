"""Windows → batches: a rank builds its own share of a step, and weighs it when the counts of the whole step are known.

Shape suffixes: M windows, U unique items, C blocks, N slots of a block, T = C·N slots, S scored slots, V width of content,
L levels of a Semantic ID, E events, X numbers of a spare event.
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

from intrr_rec.data.loading.batch import Batch, Layout, look_up_content, pack, positions_of
from intrr_rec.data.loading.counts import StepCounts, StepTotals, alone, distinct
from intrr_rec.data.loading.features import FeatureReader
from intrr_rec.data.loading.negatives import Candidates, CandidateSampler
from intrr_rec.data.loading.windows import IntArray, Windows


@dataclass(frozen=True)
class Share:
    """One replica's share of a step, not yet weighed by the whole step.

    Attributes:
        batch: of its windows; None where it has none.
        windows: of the share.
        step: its number.
        count_U: slots that hold each item of the batch.
    """

    batch: Batch | None
    windows: Windows
    step: int
    count_U: IntArray

    @property
    def target_weight(self) -> float:
        """What its targets count together."""
        if self.batch is None or self.batch.weight_S is None:
            return float(self.windows.n_targets)
        return float(self.batch.weight_S.sum(dtype=torch.float64))

    @property
    def items_U(self) -> IntArray:
        """Items of the batch."""
        return np.zeros(0, np.int64) if self.batch is None else self.batch.items_U.numpy()


class Collator:
    """Builds batches from windows over a flat event array.

    Args:
        items_E: dense item id of every event, users one after the other.
        window: N, the longest window.
        content_IV: content vectors by dense item id, float16 or float32, or None.
        align_average: "items" gives each distinct item of the step the same weight in L_aln, "positions" weighs it by
            how often it occurs (IntRR Eq. 8 sums over items).
        candidates: draws negatives for a model with a sampled softmax; None leaves them out.
        times_E: seconds of every event, for a model or ranking that reads times; None leaves them out of the layout.
        with_targets: also lay out the event after each window, in blocks of N + 1 slots: a model that reads the codes of
            a target to predict its next code is taught with them in place. Such a model reads no times.
        codes_IL: Semantic IDs by dense item id, for batches that go to another device than they lie on; None leaves them out.
        features: reads the features of events, items and users, for a model that reads some.
        weight_E: what each event counts as a target, 0 where it is none; None: all count the same.
        told: whether the moment of a prediction is that of its target; if not, it is that of the event before.
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
        told: bool = True,
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
        self.told = int(told)

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

    def __call__(self, windows: Windows, step: int = 0) -> Batch:
        """A step that one replica takes whole; `step` numbers it for what is drawn at random."""
        share = self.share(windows, step)
        own = self.counts([share])
        return self.weigh([share], alone(own), own)[0]

    def share(self, windows: Windows, step: int = 0) -> Share:
        """These windows as a batch, a share of a step whose other windows need not be known."""
        if not len(windows):
            return Share(None, windows, step, np.zeros(0, np.int64))
        event_T, owner_T, scored_T = self._lay_out(windows)
        scored_S, weight_S = np.flatnonzero(scored_T), None
        if self.weight_E is not None:
            scored_S = scored_S[self.weight_E[event_T[scored_S] + 1] > 0]
            weight_S = torch.from_numpy(self.weight_E[event_T[scored_S] + 1])
        target_S = self.items_E[event_T[scored_S] + 1]
        wanted = [self.items_E[event_T]]
        if self.candidates is not None:
            wanted += [target_S, self.candidates.draw(step)]
        items_U, inverse = distinct(np.concatenate(wanted))
        inverse_T = inverse[: len(event_T)]
        candidates = None
        if self.candidates is not None:
            places = torch.from_numpy(inverse[len(event_T) :])
            candidates = Candidates(places[: len(target_S)], places[len(target_S) :], len(windows))
        features = None
        if self.features is not None:
            features = self.features.batch(event_T, windows.user_M[owner_T.clip(min=0)], items_U, step)
        batch = Batch(
            items_U=torch.from_numpy(items_U),
            slot_T=torch.from_numpy(inverse_T),
            layout=self._layout(event_T, owner_T),
            scored_S=torch.from_numpy(scored_S),
            target_S=torch.from_numpy(target_S),
            target_weight=0.0,
            align_weight_U=torch.zeros(len(items_U)),
            content_UV=look_up_content(self.content_IV, items_U),
            user_S=windows.user_M[owner_T[scored_S]],
            candidates=candidates,
            codes_UL=None if self.codes_IL is None else self.codes_IL[torch.from_numpy(items_U)],
            target_codes_SL=None if self.codes_IL is None else self.codes_IL[torch.from_numpy(target_S)],
            features=features,
            weight_S=weight_S,
        )
        return Share(batch, windows, step, np.bincount(inverse_T[owner_T >= 0], minlength=len(items_U)))

    def counts(self, shares: Sequence[Share]) -> StepCounts:
        """What the shares of one rank, micro-batches of a step, hold together."""
        windows = [share.windows for share in shares if len(share.windows)]
        items_U = count_U = np.zeros(0, np.int64)
        if self.align_average == "items" and windows:
            found = [(share.items_U[share.count_U > 0], share.count_U[share.count_U > 0]) for share in shares]
            items_U, count_U = found[0]
            if len(found) > 1:
                items_U, place = np.unique(np.concatenate([items for items, _ in found]), return_inverse=True)
                counted = np.concatenate([counts for _, counts in found])
                count_U = np.bincount(place.reshape(-1), weights=counted).astype(np.int64)
        return StepCounts(
            windows=sum(map(len, windows)),
            target_weight=sum(share.target_weight for share in shares),
            positions=sum(int(share.count_U.sum()) for share in shares),
            items_U=items_U,
            count_U=count_U,
            spare_X=self._spare(windows[0] if windows else None),
        )

    def weigh(self, shares: Sequence[Share], totals: StepTotals, own: StepCounts, replicas: int = 1) -> list[Batch]:
        """The batches of one rank's shares, weighed by the whole step.

        A share without windows becomes a batch of a spare event that weighs nothing, without users and scored slots, so that
        every table is still asked for a row and every parameter gets a (zero) gradient to average with the other replicas'.

        Args:
            totals: of the whole step.
            own: what `counts` gave for these shares.
            replicas: shares of the whole step, those of all ranks.
        """
        return [self._weigh(share, totals, own, replicas) for share in shares]

    def _weigh(self, share: Share, totals: StepTotals, own: StepCounts, replicas: int) -> Batch:
        if share.batch is None:
            return self._of_spare(totals.spare_X, share.step)
        if self.align_average == "positions":
            weight_U = share.count_U * replicas / max(1, totals.positions)
        else:
            # An item seen by two replicas is shared between them in proportion to its occurrences: its weights add up to one.
            everywhere_U = np.ones(len(share.count_U))
            is_here_U = share.count_U > 0
            here = share.items_U[is_here_U]
            is_only = len(here) == len(own.items_U)  # one share holds all items of the rank, in their order
            everywhere_U[is_here_U] = totals.count_U[... if is_only else np.searchsorted(own.items_U, here)]
            weight_U = share.count_U / everywhere_U * replicas / max(1, totals.distinct_items)
        return replace(
            share.batch,
            target_weight=replicas / totals.target_weight if totals.target_weight else 0.0,
            align_weight_U=torch.from_numpy(weight_U.astype(np.float32)),
        )

    def _spare(self, windows: Windows | None) -> IntArray:
        """User, items, times and features of the first event of some windows and of the event after it; zeros if there are none."""
        columns: list[NDArray[np.integer]] = [self.items_E, *([] if self.times_E is None else [self.times_E])]
        columns += [] if self.features is None else self.features.event_FE
        if windows is None:
            return np.zeros(1 + 2 * len(columns), np.int64)
        first = int(windows.start_M[0])
        pairs = [values_E[first : first + 2].astype(np.int64) for values_E in columns]
        return np.concatenate([windows.user_M[:1], *pairs])

    def _of_spare(self, spare_X: IntArray, step: int) -> Batch:
        pairs = list(spare_X[1:].reshape(-1, 2))
        items_E, times_E = pairs.pop(0), None if self.times_E is None else pairs.pop(0)
        one, none = np.ones(1, np.int64), np.zeros(1, np.int64)
        share = self.over(items_E, times_E, pairs).share(Windows(spare_X[:1], none, one, one), step)
        assert share.batch is not None
        return share.batch

    def _lay_out(self, windows: Windows) -> tuple[IntArray, IntArray, NDArray[np.bool_]]:
        """Event, owner and whether scored, of every slot; a padding slot repeats the first event."""
        length_M = windows.length_M + self.beyond
        block_M, offset_M, n_blocks = pack(length_M, self.slots)
        owner = np.repeat(np.arange(len(windows)), length_M)
        position = positions_of(length_M)
        slot = block_M[owner] * self.slots + offset_M[owner] + position
        event_T = np.full(n_blocks * self.slots, windows.start_M[0])
        owner_T = np.full(len(event_T), -1)
        scored_T = np.zeros(len(event_T), dtype=np.bool_)
        event_T[slot] = windows.start_M[owner] + position
        owner_T[slot] = owner
        scored_T[slot] = (position >= windows.first_scored_M[owner]) & (position < windows.length_M[owner])
        return event_T, owner_T, scored_T

    def _layout(self, event_T: IntArray, owner_T: IntArray) -> Layout:
        per_slot = (
            [owner_T] if self.times_E is None else [owner_T, self.times_E[event_T], self.times_E[event_T + self.told]]
        )
        return Layout(*(torch.from_numpy(each_T.reshape(-1, self.slots)) for each_T in per_slot))
