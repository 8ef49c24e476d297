"""Weights of the log-odds that a user returns to an item of the history (`decoding/repeats.py`), fitted on the training part.

One choice a user and pass: at an event of the later half of the training events, the next item is one of the history, or something new,
which has log-odds of 0. There are far more such events than users whose items are held back for the weights of the ranking, and no model
is needed. So the ranking fits but two numbers for repeats: what these log-odds weigh beside the rest, and what being of the history does.

Shape suffixes: U users, M windows, B users of a batch, W candidates, R columns.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.data.loading.own_users import OwnUsers
from intrr_rec.data.loading.windows import evaluation_windows
from intrr_rec.decoding.repeats import FITS, RETURNS, SeenItems
from intrr_rec.distributed.world import World
from intrr_rec.evaluation.fit_ranking import fit_weights
from intrr_rec.runs.inputs import Inputs

CHOICES = 1 << 14  # looked at, about
PASSES = 8  # choices a user, at most
PLACES = 128  # items of the history that are candidates, the newest


def fit_returns(inputs: Inputs, world: World) -> Tensor:
    """The weights without and with times, float32 `[2, R]`, the same on every rank; every rank calls this."""
    dataset, window = inputs.dataset, inputs.recipe.model.window
    if not inputs.recipe.evaluate.ranks_returns:
        return torch.zeros(FITS, len(RETURNS))
    collate = inputs.history_collator()
    found: list[list[tuple[Tensor, Tensor, Tensor]]] = [[], []]
    held_out_U, length_U = dataset.held_out("train"), np.diff(dataset.offsets)
    kept_U = length_U - held_out_U
    user_U = np.flatnonzero(kept_U > 1)
    user_U = user_U[:: max(1, len(user_U) // CHOICES)]
    for number in range(min(PASSES, max(1, CHOICES // max(1, len(user_U))))):
        # The choice is event `place` of the training part, which depends on nothing but user and pass.
        half_U = kept_U[user_U] // 2
        mixed_U = (user_U + 1) * (2 * number + 1) * 2654435761 % 2**32
        place_U = np.maximum(1, half_U + mixed_U % np.maximum(1, kept_U[user_U] - half_U))
        asked_U = np.zeros_like(length_U)
        asked_U[user_U] = length_U[user_U] - np.minimum(place_U, kept_U[user_U] - 1)
        windows = evaluation_windows(dataset.offsets, window, asked_U)
        if dataset.is_target_E is not None:
            windows = windows.take(np.flatnonzero(dataset.is_target_E[windows.start_M + windows.length_M]))
        own = OwnUsers(dataset, windows, collate, 256, rank=world.rank, ranks=world.size, times=True)
        _choices(own, found)
    fitted = [fit_weights(parts, len(RETURNS), world) for parts in found]
    return torch.stack(fitted)


def _choices(own: OwnUsers, found: list[list[tuple[Tensor, Tensor, Tensor]]]) -> None:
    """Add candidates, columns and targets of a pass, without and with times."""
    for batch, _ in own.batches(lambda: None):
        seen = SeenItems.of(batch)
        item_BW = seen.newest(PLACES)
        is_target_BW = item_BW == batch.target_S[:, None]
        new = SeenItems.BEYOND
        target_B = torch.where(is_target_BW.any(1), batch.target_S, new)
        with_new_BW = F.pad(item_BW, (0, 1), value=new)
        for parts, known in zip(found, (seen.without_times(), seen), strict=True):
            parts.append((with_new_BW, F.pad(known.at(item_BW), (0, 0, 0, 1)), target_B))
