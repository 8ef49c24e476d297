"""A table of neighbours beside the similarities it is cut from, written as loops."""

from functools import partial

import numpy as np
import pytest
import torch

from intrr_rec.config import NeighboursConfig
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.windows import evaluation_windows
from intrr_rec.data.transitions import count_transitions, transition_matrix
from intrr_rec.models.neighbours import nearest as nearest_module
from intrr_rec.models.neighbours.nearest import Transitions, nearest, unit_vectors
from intrr_rec.models.neighbours.terms import NeighbourTable, rank_neighbours

N_ITEMS, WIDTH = 40, 6
RNG = np.random.default_rng(3)
LENGTHS = RNG.integers(4, 12, 30)
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])
ITEMS_E = RNG.integers(0, N_ITEMS, OFFSETS[-1])
HELD_OUT = np.full(30, 2)
UNIT_IV = torch.nn.functional.normalize(torch.from_numpy(RNG.normal(size=(N_ITEMS, WIDTH)).astype(np.float32)), dim=-1)
POPULAR_I = torch.arange(N_ITEMS, dtype=torch.int32).flip(0)


def make(config, vectors=True):
    counts = count_transitions(ITEMS_E, OFFSETS, HELD_OUT, N_ITEMS, config)
    transitions = Transitions(*map(torch.from_numpy, transition_matrix(*counts, N_ITEMS, config.damping)))
    tables = nearest(transitions, UNIT_IV if vectors else None, config, 0, N_ITEMS)
    return transitions, NeighbourTable(config, *tables, POPULAR_I)


def dense_terms(transitions, vectors=True):
    """Content, P and Q of every pair, `[I, I, F]`."""
    one_II = transitions.rows(0, N_ITEMS).to_dense()
    two_II = one_II @ one_II
    two_II.fill_diagonal_(0)
    two_II /= two_II.amax(1, keepdim=True).clamp(min=1e-30)
    content_II = UNIT_IV @ UNIT_IV.T if vectors else torch.zeros_like(one_II)
    return torch.stack([content_II, one_II, two_II], dim=-1)


def batch():
    return Collator(ITEMS_E, 8, None, "items")(evaluation_windows(OFFSETS, 8, 1))


def histories(batch):
    """The whole history of each scored slot's user, the newest item first."""
    return [ITEMS_E[OFFSETS[user] : OFFSETS[user + 1] - 1][::-1] for user in batch.user_S]


@pytest.mark.parametrize("vectors", [True, False])
def test_scores_are_sums_over_the_last_items_of_similarities_above_the_last_kept(vectors):
    config = NeighboursConfig(kept=12, last_items=3, decay=0.5, content=0.8, transitions=0.3, two_steps=0.6)
    transitions, table = make(config, vectors)
    score_II = dense_terms(transitions, vectors) @ table.weights()
    ordered_II = score_II.sort(dim=1, descending=True).values
    above_II = (score_II - (ordered_II[:, 12:13] if vectors else 0)).clamp(min=0)
    if not vectors:
        above_II[score_II <= ordered_II[:, 12:13]] = 0
    made = batch()
    around = table.around(made)
    everything = torch.arange(N_ITEMS).expand(len(made.user_S), -1)
    found_BI = around.at(everything) @ table.weights()
    for row, history in enumerate(histories(made)):
        expected_I = sum(above_II[item] * 0.5**age for age, item in enumerate(history[:3].tolist()))
        torch.testing.assert_close(found_BI[row], expected_I, rtol=0, atol=4e-3)  # terms are kept in half precision


def test_around_holds_each_neighbour_once_and_best_is_the_order_of_its_scores():
    _, table = make(NeighboursConfig(kept=12))
    made = batch()
    around = table.around(made)
    for row_N in around.item_BN:
        real = row_N[row_N < N_ITEMS]
        assert len(real.unique()) == len(real) and torch.equal(real, real.sort().values)
    denied_BI = torch.rand(len(made.user_S), N_ITEMS, generator=torch.Generator().manual_seed(0)) < 0.3
    item_BW, score_BW = around.best(table.weights(), 10, partial((~denied_BI).gather, 1))
    everything_BI = around.at(torch.arange(N_ITEMS).expand(len(made.user_S), -1)) @ table.weights()
    is_near_BI = torch.zeros_like(denied_BI)
    for row, row_N in enumerate(around.item_BN):
        is_near_BI[row, row_N[row_N < N_ITEMS]] = True
    expected_BW = everything_BI.masked_fill(denied_BI | ~is_near_BI, -torch.inf).topk(10, dim=1).values
    torch.testing.assert_close(score_BW, expected_BW)
    assert not denied_BI.gather(1, item_BW.clamp(min=0))[item_BW >= 0].any()
    assert torch.equal(item_BW < 0, score_BW == -torch.inf)
    assert (around.at(torch.full((len(made.user_S), 1), -1)) == 0).all()


class Mask:
    def __init__(self, allowed_BI):
        self.allowed_BI = allowed_BI

    def at(self, item):
        return self.allowed_BI[:, item] if item.ndim == 1 else self.allowed_BI.gather(1, item)

    def of(self, user_B):
        return Mask(self.allowed_BI[user_B])


@pytest.mark.parametrize("places", [1, 3, 15])
def test_popular_items_fill_what_neighbours_leave_empty_and_nothing_denied_comes_back(places):
    _, table = make(NeighboursConfig(kept=2, last_items=1, content=0))
    made = batch()
    allowed_BI = torch.ones(len(made.user_S), N_ITEMS, dtype=torch.bool)
    allowed_BI[:, 20:] = False
    allowed_BI[0] = False
    allowed_BI[0, 5] = True
    item_BW, score_BW = rank_neighbours(table, made, places, Mask(allowed_BI))
    assert item_BW[0].tolist() == [5, *[-1] * (places - 1)]
    for row_W, scores_W in zip(item_BW[1:], score_BW[1:], strict=True):
        assert len(row_W.unique()) == places and row_W.min() >= 0 and row_W.max() < 20
        assert (scores_W.diff() <= 0).all()
        filled_W = row_W[scores_W < 0]
        assert (
            len(filled_W) >= places - 2 and (filled_W.diff() < 0).all()
        )  # the most popular is the highest number here


def test_rows_do_not_depend_on_the_block_they_are_compared_in(monkeypatch):
    config = NeighboursConfig(kept=7)
    transitions, table = make(config)
    monkeypatch.setattr("intrr_rec.models.neighbours.nearest.BLOCK", 3 * N_ITEMS)
    items, terms = nearest(transitions, UNIT_IV, config, 5, 23)
    assert torch.equal(items, table.item_IM[5:23])
    torch.testing.assert_close(terms, table.term_IMF[5:23], rtol=0, atol=1e-3)  # products round by the shape of a block


def test_a_catalogue_smaller_than_the_table_is_padded():
    _, table = make(NeighboursConfig(kept=50))
    assert table.item_IM.shape == (N_ITEMS, 50) and (table.item_IM[:, N_ITEMS:] == -1).all()
    assert (table.item_IM[:, :N_ITEMS].sort(dim=1).values == torch.arange(N_ITEMS)).all()


def test_whitened_vectors_spread_over_their_axes_and_keep_clear_of_the_mean():
    generator = torch.Generator().manual_seed(0)
    scale_V = torch.tensor([9.0, 1.0, 1.0, 0.0])
    vectors_IV = torch.randn(4000, 4, generator=generator) * scale_V + torch.tensor([50.0, 0, 0, 0])
    plain_IV, white_IV = unit_vectors(vectors_IV, whiten=False), unit_vectors(vectors_IV, whiten=True)
    for unit in (plain_IV, white_IV):
        torch.testing.assert_close(unit.norm(dim=1), torch.ones(4000))
    assert white_IV.shape == (4000, 3)  # the axis without variance is left out
    assert float((plain_IV @ plain_IV.T).mean()) > 0.9 and abs(float((white_IV @ white_IV.T).mean())) < 0.05
    # An axis of 9 times the deviation weighs sqrt(9) = 3 times as much, not 9 times.
    centred_IV = vectors_IV - vectors_IV.mean(0)
    expected_IV = torch.nn.functional.normalize(centred_IV[:, :3] / torch.tensor([3.0, 1.0, 1.0]), dim=1)
    torch.testing.assert_close(white_IV @ white_IV[:50].T, expected_IV @ expected_IV[:50].T, rtol=0, atol=0.05)


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("two_steps", [0.6, 0.0])
def test_in_lists_that_are_all_compared_the_table_is_the_exact_one(vectors, two_steps, monkeypatch):
    config = NeighboursConfig(kept=12, content=0.8, transitions=0.3, two_steps=two_steps)
    _, exact = make(config, vectors)
    monkeypatch.setattr(nearest_module, "EXACT", 0)
    _, found = make(config, vectors)
    assert (exact.item_IM >= 0).any(1).sum() >= N_ITEMS - 2  # some items may be in no training part
    for row in range(N_ITEMS):  # a tie at the end of a row may be cut either way
        expected = dict(zip(exact.item_IM[row].tolist(), exact.term_IMF[row].float(), strict=True))
        got = dict(zip(found.item_IM[row].tolist(), found.term_IMF[row].float(), strict=True))
        assert set(expected) == set(got)
        for item, term_F in expected.items():
            torch.testing.assert_close(got[item], term_F, rtol=0, atol=2e-3)


def test_of_many_items_nearly_all_neighbours_by_content_are_found(monkeypatch):
    """16 of 63 lists are compared; vectors lie in clusters, as those of texts do."""
    n_items, config = 4000, NeighboursConfig(kept=20, transitions=0.0, two_steps=0.0)
    rng = np.random.default_rng(0)
    vectors_IV = rng.normal(size=(200, 16))[rng.integers(0, 200, n_items)] + 0.4 * rng.normal(size=(n_items, 16))
    unit_IV = torch.nn.functional.normalize(torch.from_numpy(vectors_IV.astype(np.float32)), dim=-1)
    nothing = Transitions(torch.zeros(n_items + 1, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0))
    exact_IM, _ = nearest(nothing, unit_IV, config, 0, n_items)
    monkeypatch.setattr(nearest_module, "EXACT", 0)
    found_IM, _ = nearest(nothing, unit_IV, config, 0, n_items)
    shared = [len(set(a) & set(b)) for a, b in zip(exact_IM.tolist(), found_IM.tolist(), strict=True)]
    assert sum(shared) / (20 * n_items) > 0.95
    part_RM, _ = nearest(nothing, unit_IV, config, 1000, 1500)
    assert torch.equal(part_RM, found_IM[1000:1500]), "a rank's share is its part of the whole"
