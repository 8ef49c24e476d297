"""Long histories whose keys and values are kept: the same answers, for the price of the events that were added."""

import numpy as np
import pytest
import torch

from intrr_rec.models.backbones.hstu import Hstu
from intrr_rec.serving import history_cache
from intrr_rec.serving.recommender import Recommender


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Slots that the backbone has read, call by call; histories of three events and more are kept."""
    slots: list[int] = []
    prefill, extend = Hstu.prefill, Hstu.extend
    monkeypatch.setattr(Hstu, "prefill", lambda self, x, *rest: slots.append(len(x)) or prefill(self, x, *rest))
    monkeypatch.setattr(Hstu, "extend", lambda self, x, *rest: slots.append(len(x)) or extend(self, x, *rest))
    for name, value in (("SHORTEST", 3), ("FIRST", 2), ("MOST_NEW", 4), ("ROOM", 2)):
        monkeypatch.setattr(history_cache, name, value)
    return slots


@pytest.mark.parametrize("kind", ["path", "best_with_times"])
def test_a_history_that_grows_is_ranked_after_as_if_it_were_new_and_pays_for_what_was_added(bundles, read, kind):
    bundle = bundles[kind]
    window = bundle.settings.model.window
    rng = np.random.default_rng(0)
    items = rng.integers(0, bundle.n_items, window + 3).tolist()
    moments = (1_600_000_000 + rng.integers(1, 10**6, window + 4).cumsum()).tolist()
    kept, plain = Recommender(bundle, cache_bytes=1 << 20), Recommender(bundle)
    other = rng.integers(0, bundle.n_items, 2).tolist()  # a short one, in the same batch
    lengths = [3, 4, 6, 6, 5, window - 1, window, window + 2]
    paid = []
    for length in lengths:
        asked = [*moments[:length], moments[length] + 7]  # a request before the next event
        histories, times = [other, items[:length]], [moments[:3], asked]
        before = len(read)
        found = kept.rank(histories, 10, times=times)
        paid.append(read[before:])
        wanted = plain.rank(histories, 10, times=times)
        assert torch.equal(found[0], wanted[0])
        torch.testing.assert_close(found[1], wanted[1], rtol=1e-5, atol=1e-5)
    assert [each[0] for each in paid[1:5]] == [2, 3, 1, 1]  # the newest event known before is read again
    assert paid[0][0] == 3 and paid[-1][0] > window  # too long to have a known start


def test_another_history_with_the_same_start_is_read_from_where_they_part(bundles, read):
    bundle = bundles["path"]
    kept, plain = Recommender(bundle, cache_bytes=1 << 20), Recommender(bundle)
    kept.rank([[1, 2, 3, 4, 5]], 10)
    history = [1, 2, 3, 9, 5, 6]
    found = kept.rank([history], 10)
    assert read[-1] == 3
    assert torch.equal(found[0], plain.rank([history], 10)[0])


def test_a_history_is_known_after_items_were_withdrawn(bundles, read):
    bundle = bundles["path"]
    kept = Recommender(bundle, cache_bytes=1 << 20)
    best = kept.rank([[1, 2, 3, 4, 5]], 10)[0][0].tolist()
    left = kept.without(best[:3]).rank([[1, 2, 3, 4, 5]], 10)[0][0].tolist()
    assert read[-1] == 1 and left[:7] == best[3:]


def test_what_is_kept_stays_within_its_bytes(bundles, read, monkeypatch):
    monkeypatch.setattr(history_cache, "ROOM", 0)
    bundle = bundles["path"]
    backbone = bundle.trained.backbone
    a_slot = len(backbone.layers) * 2 * 4 * bundle.settings.model.width
    kept = Recommender(bundle, cache_bytes=9 * a_slot)  # two histories of five, whose newest events are not kept
    for first in (1, 2, 3):
        kept.rank([[first, 7, 8, 9, 4]], 10)
    assert kept._cache._bytes == 8 * a_slot
    for first, slots in ((3, 1), (2, 1), (1, 5)):
        kept.rank([[first, 7, 8, 9, 4]], 10)
        assert read[-1] == slots
