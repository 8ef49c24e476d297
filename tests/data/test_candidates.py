"""The sampled softmax: draws, places of targets and negatives, and an unchanged rest of the step."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from intrr_rec.data.batch import Collator
from intrr_rec.data.candidates import Candidates, CandidateSampler
from intrr_rec.data.windows import training_windows
from intrr_rec.models.losses import sampled_softmax_nll

LENGTHS = (5, 8, 4, 12)
N_ITEMS, WINDOW = 40, 6


@pytest.fixture(scope="module")
def events():
    items_E = np.random.default_rng(0).integers(0, N_ITEMS, sum(LENGTHS))
    return items_E, np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)


def collators(items_E, negatives=7):
    sampler = CandidateSampler(N_ITEMS, negatives, seed=3)
    return (Collator(items_E, WINDOW, None, "items", candidates=each) for each in (None, sampler))


def test_draws_differ_by_step_and_rank_and_repeat_when_asked_again():
    sampler = CandidateSampler(1000, 50, seed=1)
    first = sampler.draw(4, 0).tolist()
    assert first == sampler.draw(4, 0).tolist()
    assert first != sampler.draw(5, 0).tolist() and first != sampler.draw(4, 1).tolist()


@pytest.mark.parametrize("replicas", [1, 3])
def test_candidates_hold_every_target_and_leave_the_step_as_it_was(events, replicas):
    items_E, offsets = events
    windows = training_windows(offsets, WINDOW)
    plain, sampling = collators(items_E)
    for rank in range(replicas):
        without, batch = plain(windows, rank, replicas), sampling(windows, rank, replicas, step=2)
        assert without.candidates is None
        assert batch.items_U[batch.candidates.target_S].tolist() == batch.target_S.tolist()
        assert set(batch.items_U.tolist()) >= set(without.items_U.tolist()) | set(batch.target_S.tolist())
        drawn = sampling.candidates.draw(2, rank)
        assert batch.items_U[batch.candidates.negative_M].tolist() == drawn.tolist()
        assert len(set(batch.items_U.tolist())) == len(batch.items_U)
        assert batch.items_U[batch.slot_T].tolist() == without.items_U[without.slot_T].tolist()
        weight = dict(zip(without.items_U.tolist(), without.align_weight_U.tolist(), strict=True))
        for item, found in zip(batch.items_U.tolist(), batch.align_weight_U.tolist(), strict=True):
            assert found == weight.get(item, 0.0)


def test_it_is_the_softmax_over_the_target_and_the_negatives_that_are_not_it():
    torch.manual_seed(0)
    score_SU = torch.randn(4, 8)
    candidates = Candidates(target_S=torch.tensor([1, 7, 0, 3]), negative_M=torch.tensor([3, 5, 3, 0]))
    expected = []
    for row_U, target in zip(score_SU, candidates.target_S.tolist(), strict=True):
        rivals = [row_U[item] for item in candidates.negative_M.tolist() if item != target]
        expected.append(-F.log_softmax(torch.stack([row_U[target], *rivals]), dim=0)[0])
    positive_S = score_SU[torch.arange(4), candidates.target_S]
    found_S = sampled_softmax_nll(positive_S, score_SU[:, candidates.negative_M], candidates)
    torch.testing.assert_close(found_S, torch.stack(expected))
