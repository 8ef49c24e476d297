"""What a sampled softmax reads: draws, places of targets and negatives, own histories, and an unchanged rest of the step."""

import numpy as np
import pytest

from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.negatives import CandidateSampler
from intrr_rec.data.loading.windows import evaluation_windows, training_windows
from tests.data.loading.deal import deal

LENGTHS = (5, 8, 4, 12)
N_ITEMS, WINDOW = 40, 6


@pytest.fixture(scope="module")
def events():
    items_E = np.random.default_rng(0).integers(0, N_ITEMS, sum(LENGTHS))
    return items_E, np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)


def collators(items_E, negatives=7):
    sampler = CandidateSampler(N_ITEMS, negatives, seed=3)
    return (Collator(items_E, WINDOW, None, "items", candidates=each) for each in (None, sampler))


def test_draws_differ_by_step_and_repeat_when_asked_again():
    sampler = CandidateSampler(1000, 50, seed=1)
    first = sampler.draw(4).tolist()
    assert first == sampler.draw(4).tolist() and first != sampler.draw(5).tolist()


@pytest.mark.parametrize("replicas", [1, 3])
def test_candidates_hold_every_target_and_leave_the_step_as_it_was(events, replicas):
    items_E, offsets = events
    windows = training_windows(offsets, WINDOW)
    plain, sampling = collators(items_E)
    for rank in range(replicas):
        without, batch = (deal(each, windows, rank, replicas, step=2) for each in (plain, sampling))
        assert without.candidates is None
        assert batch.items_U[batch.candidates.target_S].tolist() == batch.target_S.tolist()
        assert set(batch.items_U.tolist()) >= set(without.items_U.tolist()) | set(batch.target_S.tolist())
        drawn = sampling.candidates.draw(2)
        assert batch.items_U[batch.candidates.negative_M].tolist() == drawn.tolist()
        assert len(set(batch.items_U.tolist())) == len(batch.items_U)
        assert batch.items_U[batch.slot_T].tolist() == without.items_U[without.slot_T].tolist()
        weight = dict(zip(without.items_U.tolist(), without.align_weight_U.tolist(), strict=True))
        for item, found in zip(batch.items_U.tolist(), batch.align_weight_U.tolist(), strict=True):
            assert found == weight.get(item, 0.0)


def test_seen_items_are_the_history_up_to_each_scored_slot(events):
    items_E, offsets = events
    batch = Collator(items_E, WINDOW, None, "items")(evaluation_windows(offsets, WINDOW, 1))
    seen_SN, is_seen_SN = batch.seen_items()
    for user, items_N, mask_N in zip(batch.user_S.tolist(), seen_SN, is_seen_SN, strict=True):
        history = items_E[offsets[user] : offsets[user + 1] - 1][-WINDOW:]
        assert items_N[mask_N].tolist() == history.tolist()
