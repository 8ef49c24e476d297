"""Do people go back to items they had? What the training part of a log says.

Shape suffixes: U users, E events.
"""

from __future__ import annotations

import numpy as np

from intrr_rec.data.dataset import Dataset

EVENTS = 4_000_000  # looked at, about


def share_of_repeats(dataset: Dataset) -> float:
    """The share of training events whose user had the item before, in an event that was dropped too; 0 where there are none.

    Of a larger dataset, that of row groups at even distances: every rank reads a few million events, whatever the size.
    """
    store, held_out_U = dataset.events, dataset.held_out("train")
    step = max(1, -(-len(store) // EVENTS))
    events = repeats = 0
    for group in range(0, len(store.groups), step):
        users = slice(store.groups[group].first_user, store.groups[group].end_user)
        length_U = np.diff(dataset.offsets)[users]
        kept_U = np.maximum(length_U - held_out_U[users], 0)
        owner_E = np.repeat(np.arange(len(length_U)), length_U)
        place_E = np.arange(len(owner_E)) - np.repeat(np.cumsum(length_U) - length_U, length_U)
        is_kept_E = place_E < kept_U[owner_E]
        items_E = store.read(group, "items")[is_kept_E]
        key_E = owner_E[is_kept_E] * np.int64(dataset.n_items) + items_E
        _, first = np.unique(key_E, return_index=True)
        is_new_E = np.zeros(len(key_E), np.bool_)
        is_new_E[first] = True
        if dataset.seen is not None:
            had = dataset.seen.had_before(users, owner_E[is_kept_E], items_E, place_E[is_kept_E], dataset.n_items)
            is_new_E &= ~had
        events += len(key_E)
        repeats += int((~is_new_E).sum())
    return repeats / max(1, events)
