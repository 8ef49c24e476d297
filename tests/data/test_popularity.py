"""The order of items by popularity equals a stable sort, whatever the chunks; large arrays lie in a file."""

import numpy as np
import pytest

from intrr_rec.data import popularity
from intrr_rec.data.popularity import falling_order
from intrr_rec.io.formats import mapped


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 18])
@pytest.mark.parametrize("in_memory", [0, 1 << 20])
def test_falling_order_is_a_stable_sort(monkeypatch, chunk, in_memory):
    monkeypatch.setattr(popularity, "CHUNK", chunk)
    monkeypatch.setattr(mapped, "IN_MEMORY", in_memory)
    count_I = np.random.default_rng(0).geometric(0.3, 200) - 1
    order_I = falling_order(count_I)
    assert isinstance(order_I, np.memmap) == (not in_memory)
    assert order_I.tolist() == np.argsort(-count_I, kind="stable").tolist()
