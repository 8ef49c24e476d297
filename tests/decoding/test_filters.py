"""Filtered beams: as many items as are allowed, never another, with the scores they have without a filter."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.decoding.beam import beam_search
from intrr_rec.decoding.exhaustive import exhaustive_scores
from intrr_rec.decoding.filters import Leaves
from intrr_rec.models.ran_decoder import RanSteps
from tests.decoding.test_beam import N_ITEMS, USERS, make_case

CASE = make_case("previous")
with torch.no_grad():
    SCORES_BI = {how: exhaustive_scores(*CASE[:3], CASE[4], how) for how in ("trie", "global")}
items = st.integers(0, N_ITEMS - 1)


@settings(max_examples=60, deadline=None)
@given(
    allow=st.none() | st.sets(items),
    deny=st.lists(st.lists(items, max_size=N_ITEMS), min_size=USERS, max_size=USERS),
    beam=st.integers(1, N_ITEMS + 5),
    normalize=st.sampled_from(["trie", "global"]),
)
def test_a_filtered_beam_is_full_truthful_and_exact_at_full_width(allow, deny, beam, normalize):
    ran, codebooks, _, trie, x_BD = CASE
    leaves = Leaves.of(trie)
    mask_I = torch.ones(N_ITEMS, dtype=torch.bool)
    if allow is not None:
        mask_I = torch.tensor([item in allow for item in range(N_ITEMS)])
    longest = max(map(len, deny))
    denied_BM = torch.tensor([row + [-1] * (longest - len(row)) for row in deny], dtype=torch.int64).view(USERS, -1)
    allowed = leaves.allow(None if allow is None else leaves.before(mask_I), denied_BM)
    expected_BI = torch.stack([mask_I & ~torch.isin(torch.arange(N_ITEMS), torch.tensor(row)) for row in deny])
    assert torch.equal(allowed.between(0, len(leaves.place_I)).expand(USERS, -1), expected_BI)
    with torch.no_grad():
        items_BW, scores_BW = beam_search(RanSteps(ran, codebooks), trie, x_BD, beam, normalize, allowed)
    filtered_BI = SCORES_BI[normalize].masked_fill(~expected_BI, -torch.inf)
    for user in range(USERS):
        found = items_BW[user][items_BW[user] >= 0]
        assert len(found) == min(beam, int(expected_BI[user].sum()))
        assert len(found.unique()) == len(found)
        assert expected_BI[user, found].all()
        torch.testing.assert_close(scores_BW[user, : len(found)], filtered_BI[user, found], rtol=1e-5, atol=1e-5)
        assert torch.isneginf(scores_BW[user, len(found) :]).all()
        if beam >= N_ITEMS:
            assert torch.equal(found, filtered_BI[user].argsort(descending=True)[: len(found)])


def test_nothing_denied_and_everything_allowed_is_no_filter():
    ran, codebooks, _, trie, x_BD = CASE
    leaves = Leaves.of(trie)
    everything = leaves.allow(leaves.before(torch.ones(N_ITEMS, dtype=torch.bool)), None)
    with torch.no_grad():
        plain = beam_search(RanSteps(ran, codebooks), trie, x_BD, 7, "trie")
        filtered = beam_search(RanSteps(ran, codebooks), trie, x_BD, 7, "trie", everything)
    assert all(torch.equal(a, b) for a, b in zip(plain, filtered, strict=True))


@pytest.mark.parametrize("context", ["previous", "cumulative"])
def test_a_trace_ends_in_the_items_and_every_prefix_continues_one_before(context):
    ran, codebooks, codes_IL, trie, x_BD = make_case(context)
    trace: list[tuple[torch.Tensor, torch.Tensor]] = []
    with torch.no_grad():
        items_BW, scores_BW = beam_search(RanSteps(ran, codebooks), trie, x_BD, 5, "trie", trace=trace)
    assert torch.equal(trace[-1][0], codes_IL[items_BW]) and torch.equal(trace[-1][1], scores_BW)
    for (shorter_BWL, _), (longer_BWL, _) in pairwise(trace):
        for before, after in zip(shorter_BWL.tolist(), longer_BWL.tolist(), strict=True):
            assert all(codes[:-1] in before for codes in after)
