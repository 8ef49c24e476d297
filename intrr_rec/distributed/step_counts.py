"""Adds a step's counts up over ranks: a few numbers of each rank, and each item's occurrences by way of its owner.

Shape suffixes: R ranks, U distinct items of a share, K rows that an owner receives, H numbers of a head.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from intrr_rec.data.loading.counts import StepCounts, StepTotals, add_up, by_owner
from intrr_rec.data.loading.windows import IntArray
from intrr_rec.distributed.world import World

_FIXED = 3  # windows, bits of the target weight, positions


class CountExchange:
    """The exchange of a loader (`data/loading/counts.py`), by a group of ranks of its own, so that it runs beside training.

    Args:
        world: this rank among its peers; every rank makes its exchange at the same point.
    """

    def __init__(self, world: World) -> None:
        self.world = world.aside()

    def __call__(self, own: StepCounts) -> StepTotals:
        """The totals of a step; every rank calls this once for each step, in the order of steps."""
        ranks, spare = self.world.size, len(own.spare_X)
        order_U, sent_R, row_U = by_owner(own.items_U, own.count_U, ranks)
        weight = np.array([own.target_weight]).view(np.int64)  # its 64 bits, to travel with whole numbers
        head = np.concatenate([[own.windows], weight, [own.positions], own.spare_X, sent_R])
        head_RH = self.world.gather_rows(torch.from_numpy(head)[None]).numpy()
        windows_R, weight_R, positions_R = (head_RH[:, each].copy() for each in range(_FIXED))
        count_U, distinct = own.count_U, 0
        if head_RH[:, _FIXED + spare :].any():
            received_R = head_RH[:, _FIXED + spare + self.world.rank]
            count_U, distinct = self._items(row_U, order_U, sent_R, received_R)
        first = int(np.argmax(windows_R > 0))
        spare_X = head_RH[first, _FIXED : _FIXED + spare]
        target_weight = float(weight_R.view(np.float64).sum())
        return StepTotals(target_weight, int(positions_R.sum()), distinct, count_U, spare_X)

    def _items(
        self, row_U: IntArray, order_U: IntArray, sent_R: IntArray, received_R: IntArray
    ) -> tuple[IntArray, int]:
        row_K = self._all_to_all(torch.from_numpy(row_U), sent_R, received_R).numpy()
        total_K, distinct = add_up(row_K, self.world.size)
        answer_U = self._all_to_all(torch.from_numpy(total_K), received_R, sent_R).numpy()
        count_U = np.empty(len(answer_U), np.int64)
        count_U[order_U] = answer_U
        return count_U, int(self.world.sum(torch.tensor(distinct)))

    def _all_to_all(self, rows: Tensor, sent_R: IntArray, received_R: IntArray) -> Tensor:
        received = rows.new_empty(int(received_R.sum()), *rows.shape[1:])
        dist.all_to_all_single(received, rows, received_R.tolist(), sent_R.tolist(), group=self.world.group)
        return received
