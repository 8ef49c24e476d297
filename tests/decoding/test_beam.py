"""Beam search is exact at full width, and truthful at any width."""

import pytest
import torch

from intrr_rec.config import RanConfig
from intrr_rec.decoding.beam import beam_search
from intrr_rec.decoding.exhaustive import exhaustive_scores
from intrr_rec.models.ran import Ran
from intrr_rec.models.ran_decoder import RanSteps
from intrr_rec.semantic_ids.trie import PrefixTrie

CODES, WIDTH, USERS, N_ITEMS = (6, 5, 4), 8, 7, 40


def make_case(context, n_items=N_ITEMS, seed=0):
    torch.manual_seed(seed)
    ran = Ran(len(CODES), WIDTH, RanConfig(hidden=12, context=context, dropout=0.3)).eval()
    codebooks = [torch.randn(k, WIDTH) for k in CODES]
    paths = torch.cartesian_prod(*(torch.arange(k) for k in CODES))
    codes_IL = paths[torch.randperm(len(paths))[:n_items]]
    return ran, codebooks, codes_IL, PrefixTrie.build(codes_IL, CODES), torch.randn(USERS, WIDTH)


@pytest.fixture(params=["previous", "cumulative"])
def case(request):
    return make_case(request.param)


@pytest.mark.parametrize("normalize", ["trie", "global"])
def test_full_width_is_the_exhaustive_ranking(case, normalize):
    ran, codebooks, codes_IL, trie, x_BD = case
    with torch.no_grad():
        items_BW, scores_BW = beam_search(RanSteps(ran, codebooks), trie, x_BD, N_ITEMS, normalize)
        expected_BI = exhaustive_scores(ran, codebooks, codes_IL, x_BD, normalize)
    best_BI, order_BI = expected_BI.sort(descending=True)
    assert items_BW.shape == (USERS, N_ITEMS)
    assert torch.equal(items_BW, order_BI)
    torch.testing.assert_close(scores_BW, best_BI, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalize", ["trie", "global"])
@pytest.mark.parametrize("beam", [1, 2, 5, 13])
def test_narrow_beams_are_truthful(case, normalize, beam):
    """Distinct items of the catalogue, best first, each with its exact score."""
    ran, codebooks, codes_IL, trie, x_BD = case
    with torch.no_grad():
        items_BW, scores_BW = beam_search(RanSteps(ran, codebooks), trie, x_BD, beam, normalize)
        expected_BI = exhaustive_scores(ran, codebooks, codes_IL, x_BD, normalize)
    assert items_BW.shape == (USERS, beam)
    assert ((items_BW >= 0) & (items_BW < N_ITEMS)).all()
    assert all(len(set(row)) == beam for row in items_BW.tolist())
    torch.testing.assert_close(scores_BW, expected_BI.gather(1, items_BW), rtol=1e-5, atol=1e-5)
    assert (scores_BW.diff(dim=1) <= 0).all()


def test_one_beam_is_the_greedy_path(case):
    ran, codebooks, codes_IL, trie, x_BD = case
    with torch.no_grad():
        items_BW, _ = beam_search(RanSteps(ran, codebooks), trie, x_BD, 1, "trie")
        for x_D, item in zip(x_BD, items_BW[:, 0].tolist(), strict=True):
            left = torch.ones(N_ITEMS, dtype=torch.bool)
            for level, path_L in enumerate(codes_IL[item]):
                logits = ran.teacher_forced(x_D[None], codes_IL[item][None], codebooks)[level][0]
                allowed = codes_IL[left, level].unique()
                assert allowed[logits[allowed].argmax()] == path_L
                left &= codes_IL[:, level] == path_L


@pytest.mark.parametrize("normalize", ["trie", "global"])
@pytest.mark.parametrize("n_items", [1, 3, 9])
def test_places_beyond_the_catalogue_stay_empty(normalize, n_items):
    """Wherever items run out, the score is -inf and the place names no item: no target can be hit there."""
    ran, codebooks, codes_IL, trie, x_BD = make_case("previous", n_items)
    with torch.no_grad():
        items_BW, scores_BW = beam_search(RanSteps(ran, codebooks), trie, x_BD, 50, normalize)
        expected_BI = exhaustive_scores(ran, codebooks, codes_IL, x_BD, normalize)
    assert items_BW.shape[1] >= n_items
    assert torch.equal(items_BW[:, :n_items], expected_BI.argsort(descending=True))
    assert torch.isneginf(scores_BW[:, n_items:]).all()
    assert (items_BW[:, n_items:] == -1).all()


def test_users_are_decoded_independently(case):
    ran, codebooks, _, trie, x_BD = case
    with torch.no_grad():
        together, _ = beam_search(RanSteps(ran, codebooks), trie, x_BD, 9, "trie")
        alone = [beam_search(RanSteps(ran, codebooks), trie, x_D[None], 9, "trie")[0] for x_D in x_BD]
        nobody, _ = beam_search(RanSteps(ran, codebooks), trie, x_BD[:0], 9, "trie")
    assert torch.equal(together, torch.cat(alone))
    assert len(nobody) == 0
