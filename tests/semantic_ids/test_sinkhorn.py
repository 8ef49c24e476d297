"""Prices of codes: the marginals of Sinkhorn's plan."""

import torch

from intrr_rec.semantic_ids.sinkhorn import sinkhorn_prices, squared_distances


def points(rows, width, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


def plan(cost_SK, price_K, temperature):
    unit = cost_SK.amin(1).mean()
    return torch.softmax(-(cost_SK + price_K) / (temperature * unit), 1)


def test_even_capacity_gives_the_marginals_of_balanced_transport():
    cost_SK = squared_distances(points(400, 3), points(8, 3, seed=1))
    before = plan(cost_SK, torch.zeros(8), 0.2).sum(0)
    after = plan(cost_SK, sinkhorn_prices(cost_SK, 0.2, 500, 50.0), 0.2).sum(0)
    assert before.max() > 75 and before.min() < 35, "unbalanced to begin with"
    torch.testing.assert_close(after, torch.full((8,), 50.0), rtol=0.03, atol=0)


def test_a_bound_charges_full_codes_only():
    cost_SK = squared_distances(points(400, 3), points(8, 3, seed=1))
    price_K = sinkhorn_prices(cost_SK, 0.2, 500, 65.0)
    mass_K = plan(cost_SK, price_K, 0.2).sum(0)
    assert mass_K.max() < 65 * 1.02
    charged = price_K > 0
    assert charged.any() and not charged.all() and (price_K >= 0).all()
    assert (mass_K[charged] > 65 * 0.9).all(), "complementary slackness: a price only where the bound binds"


def test_an_ample_bound_charges_nothing():
    cost_SK = squared_distances(points(50, 3), points(4, 3, seed=1))
    assert sinkhorn_prices(cost_SK, 0.1, 100, 50.0).count_nonzero() == 0


def test_points_that_lie_on_their_codes_have_a_scale():
    cost_SK = squared_distances(torch.zeros(6, 2), torch.zeros(3, 2))
    assert sinkhorn_prices(cost_SK, 0.1, 20, 2.0).isfinite().all()
