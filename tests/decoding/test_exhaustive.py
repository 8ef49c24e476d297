"""The oracle itself against Eq. 1 item by item, and its probabilities."""

import pytest
import torch

from intrr_rec.decoding.exhaustive import exhaustive_scores
from tests.decoding.test_beam import CODES, N_ITEMS, USERS, make_case


@pytest.mark.parametrize("context", ["previous", "cumulative"])
@pytest.mark.parametrize("normalize", ["trie", "global"])
def test_scores_are_products_of_level_probabilities(context, normalize):
    ran, codebooks, codes_IL, _, x_BD = make_case(context)
    with torch.no_grad():
        scores_BI = exhaustive_scores(ran, codebooks, codes_IL, x_BD, normalize)
        for item in range(0, N_ITEMS, 7):
            logits = ran.teacher_forced(x_BD, codes_IL[item].expand(USERS, -1), codebooks)
            p_B = torch.ones(USERS)
            for level, code in enumerate(codes_IL[item].tolist()):
                siblings = codes_IL[(codes_IL[:, :level] == codes_IL[item, :level]).all(1), level].unique()
                within = siblings if normalize == "trie" else torch.arange(CODES[level])
                p_B *= logits[level][:, code].exp() / logits[level][:, within].exp().sum(1)
            torch.testing.assert_close(scores_BI[:, item].exp(), p_B, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("context", ["previous", "cumulative"])
def test_trie_probabilities_of_all_items_add_up_to_one(context):
    ran, codebooks, codes_IL, _, x_BD = make_case(context)
    with torch.no_grad():
        trie_BI = exhaustive_scores(ran, codebooks, codes_IL, x_BD, "trie")
        global_BI = exhaustive_scores(ran, codebooks, codes_IL, x_BD, "global")
    torch.testing.assert_close(trie_BI.exp().sum(1), torch.ones(USERS), rtol=1e-5, atol=1e-5)
    assert (global_BI.exp().sum(1) < 1).all()  # some mass lies on paths that no item has
