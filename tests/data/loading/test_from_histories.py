"""Histories to rank after are laid out as evaluation lays them out, without an event that does not exist."""

import numpy as np
import pytest
import torch

from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.windows import Windows

WINDOW = 6
RNG = np.random.default_rng(0)
HISTORIES = [RNG.integers(0, 40, length).tolist() for length in (3, 9, 1, 6, 2, 4, 12)]
TIMES = [np.cumsum(RNG.integers(1, 50, len(history) + 1)).tolist() for history in HISTORIES]


@pytest.mark.parametrize("timed", [False, True])
def test_each_history_lies_as_the_collator_lays_it_with_an_event_after_it(timed):
    batch = Batch.from_histories(HISTORIES, WINDOW, TIMES if timed else None)
    for user, (history, times) in enumerate(zip(HISTORIES, TIMES, strict=True)):
        used = min(len(history), WINDOW)
        window = Windows(*(np.array([value]) for value in (0, len(history) - used, used, used - 1)))
        collate = Collator(np.array([*history, 0]), WINDOW, None, "items", np.array(times) if timed else None)
        alone, last = collate(window), int(batch.scored_S[user])
        block, end = last // WINDOW, last % WINDOW + 1
        own = slice(block * WINDOW + end - used, block * WINDOW + end)
        assert batch.items_U[batch.slot_T[own]].tolist() == alone.items_U[alone.slot_T[:used]].tolist()
        assert (batch.layout.owner_CN.flatten()[own] == user).all()
        assert int((batch.layout.owner_CN == user).sum()) == used
        if timed:
            for name in ("event_time_CN", "request_time_CN"):
                found, expected = (getattr(each.layout, name).flatten() for each in (batch, alone))
                assert torch.equal(found[own], expected[:used])
    assert batch.user_S.tolist() == list(range(len(HISTORIES)))


@pytest.mark.parametrize(("longest", "slots"), [(3, 128), (300, 300), (2000, 1000)])
def test_a_block_is_as_long_as_the_longest_history_where_the_window_is_longer(longest, slots):
    batch = Batch.from_histories([[1, 2], list(range(longest))], 1000)
    assert batch.layout.owner_CN.shape[1] == slots
    item_T = batch.items_U[batch.slot_T]
    assert item_T[batch.scored_S].tolist() == [2, longest - 1]
    assert int((batch.layout.owner_CN == 1).sum()) == min(longest, 1000)
