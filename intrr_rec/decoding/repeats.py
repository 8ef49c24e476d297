"""What a history says of an item it holds: how often, and how long ago, in events and in seconds.

One number for all repeats cannot say "again, soon" or "never again". These columns can: weighed, they are the log-odds of an item of the
history against anything that is new to it, and the weights are fitted on the training part alone (`evaluation/fit_returns.py`). Steps of
ages and gaps are cumulative, so that the ridge of the fit draws neighbouring ones together.

Without times (the log has none, or a request names none) the columns of seconds are 0, and other weights hold.

Shape suffixes: B users, N slots of a block, W candidates, R = 26 columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intrr_rec.data.loading.batch import UNTIMED, Batch

MINUTE, HOUR, DAY = 60, 3_600, 86_400
AGES = (1, 2, 3, 5, 10, 20)  # events since
SECONDS = (MINUTE, HOUR, 6 * HOUR, DAY, 3 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 90 * DAY, 365 * DAY)  # since
PERIODS = (0.2, 0.5, 0.75, 1.0, 1.35, 2.0, 5.0)  # seconds since, over the mean time between the item's own events
RETURNS = (
    *("seen", "log_count"),
    *(f"{age}_events_ago" for age in AGES),
    *(f"{seconds}_seconds_ago" for seconds in SECONDS),
    *("twice", *(f"{period}_periods_ago" for period in PERIODS)),
)
FITS = 2  # sets of weights: without times, with times


@dataclass(frozen=True)
class SeenItems:
    """The items of each history that the model reads, sorted.

    Attributes:
        item_BN: dense ids, rising; equal ones in the order of their events. Slots of other histories have the id `BEYOND`.
        age_BN: events since, 0 for the newest.
        since_BN: seconds since; None where the batch has no times.
        is_timed_B: whose times are known.
    """

    item_BN: Tensor
    age_BN: Tensor
    since_BN: Tensor | None
    is_timed_B: Tensor

    BEYOND = torch.iinfo(torch.int64).max

    @classmethod
    def of(cls, batch: Batch) -> SeenItems:
        """Those before each scored slot."""
        item_BN, is_seen_BN = batch.seen_items()
        item_BN, order_BN = item_BN.masked_fill(~is_seen_BN, cls.BEYOND).sort(dim=1, stable=True)
        slots, layout = item_BN.shape[1], batch.layout
        age_BN = batch.scored_S[:, None] % slots - order_BN
        if layout.event_time_CN is None or layout.request_time_CN is None:
            return cls(item_BN, age_BN, None, torch.zeros_like(batch.scored_S, dtype=torch.bool))
        time_BN = layout.event_time_CN[batch.scored_S // slots].gather(1, order_BN)
        now_B = layout.request_time_CN.flatten()[batch.scored_S]
        return cls(item_BN, age_BN, (now_B[:, None] - time_BN).clamp(min=0), now_B != UNTIMED)

    def at(self, item_BW: Tensor) -> Tensor:
        """The columns of given items, `[B, W, R]`, all 0 for an item that the history does not hold."""
        item_BW = item_BW.contiguous()
        first_BW = torch.searchsorted(self.item_BN, item_BW)
        end_BW = torch.searchsorted(self.item_BN, item_BW, right=True)
        count_BW = end_BW - first_BW
        first_BW, last_BW = first_BW.clamp(max=self.item_BN.shape[1] - 1), (end_BW - 1).clamp(min=0)
        is_in_BW1 = (count_BW > 0)[..., None]
        columns = [torch.ones_like(is_in_BW1), count_BW.clamp(min=1).float().log()[..., None]]
        columns.append(_from(self.age_BN.gather(1, last_BW), AGES))
        if self.since_BN is None:
            columns.append(torch.zeros(*item_BW.shape, len(RETURNS) - 2 - len(AGES), device=item_BW.device))
        else:
            since_BW, longest_BW = (self.since_BN.gather(1, each_BW).clamp(min=0) for each_BW in (last_BW, first_BW))
            gap_BW = ((longest_BW - since_BW).double() / (count_BW - 1).clamp(min=1)).clamp(min=MINUTE)
            periods_BW = since_BW.clamp(min=MINUTE).double() / gap_BW
            timed = [_from(since_BW, SECONDS), (count_BW > 1)[..., None] * _from(periods_BW, (0, *PERIODS))]
            columns.append(torch.cat(timed, dim=-1) * self.is_timed_B[:, None, None])
        return torch.cat([column.float() for column in columns], dim=-1) * is_in_BW1

    def scores(self, item_BW: Tensor, weight_2R: Tensor) -> Tensor:
        """Of given items `[B, W, 2]`: their log-odds against a new item, and 1; both 0 for an item that the history does not hold."""
        column_BWR = self.at(item_BW)
        odds_BW2 = column_BWR @ weight_2R.T
        odds_BW = torch.where(self.is_timed_B[:, None], odds_BW2[..., 1], odds_BW2[..., 0])
        return torch.stack([odds_BW, column_BWR[..., 0]], dim=-1)

    def without_times(self) -> SeenItems:
        """The same as if no times were known."""
        return SeenItems(self.item_BN, self.age_BN, None, torch.zeros_like(self.is_timed_B))

    def newest(self, places: int, allowed: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """The distinct items of each history, the newest first: `[B, W]` dense ids, -1 where there are no more.

        Args:
            places: W, at most.
            allowed: which of these items `[B, N]` the users may get; None is everything.
        """
        is_last_BN = self.item_BN != self.BEYOND
        is_last_BN[:, :-1] &= self.item_BN[:, 1:] != self.item_BN[:, :-1]
        if allowed is not None:
            is_last_BN &= allowed(self.item_BN.masked_fill(self.item_BN == self.BEYOND, 0))
        age_BN = self.age_BN.masked_fill(~is_last_BN, self.BEYOND)
        age_BW, place_BW = age_BN.topk(min(places, age_BN.shape[1]), dim=1, largest=False)
        return self.item_BN.gather(1, place_BW).masked_fill(age_BW == self.BEYOND, -1)


def _from(value_BW: Tensor, edges: Sequence[float]) -> Tensor:
    """Whether a value has reached each of the edges, `[B, W, edges]`."""
    return value_BW[..., None] >= torch.tensor(edges, dtype=value_BW.dtype, device=value_BW.device)
