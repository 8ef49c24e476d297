"""Prices: the marginals of Sinkhorn's plan, and what they do to the codes."""

import pytest
import torch
from safetensors.torch import load, save

from intrr_rec.config import IndexConfig
from intrr_rec.semantic_ids.build import assign_all
from intrr_rec.semantic_ids.quality.metrics import level_quality
from intrr_rec.semantic_ids.quantizers.balanced import cheapest, sinkhorn_prices, squared_distances
from intrr_rec.semantic_ids.quantizers.methods import make_quantizer
from intrr_rec.semantic_ids.quantizers.quantizer import TensorSource


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


def test_cheapest_is_the_argmin_of_distance_plus_price():
    x, codes, price_K = points(100, 4), points(9, 4, seed=1), points(9, 1, seed=2).squeeze(1).abs()
    expected = (torch.cdist(x.double(), codes.double()).square() + price_K).argmin(1)
    assert torch.equal(cheapest(x, codes, price_K), expected)


def skewed():
    """600 points, most of them in one dense cloud."""
    return torch.cat([0.3 * points(480, 6) + 2, 2 * points(120, 6, seed=1)])


@pytest.mark.learns
@pytest.mark.parametrize("method", ["rk_means", "residual_vq", "rq_vae", "vq_vae"])
def test_balances_any_method_and_comes_back_from_its_state(method, learned):
    settings = {
        "method": method,
        "seed": learned.seed,
        "levels": 2,
        "codes": [8, 6],
        "normalize": False,
        "assignment": "balanced",
        "training": {"epochs": 15, "batch_items": 100},
        "autoencoder": {"latent": 6, "hidden": [16]},
        "balance": {"slack": 0.25, "rounds": 4},
    }
    source = TensorSource(skewed())
    config = IndexConfig.model_validate(settings)
    quantizer = make_quantizer(config, 6)
    quantizer.fit(source)
    codes_IL = assign_all(quantizer, source)
    for level, size in enumerate((8, 6)):  # by the nearest codes, the entropy ratio of the first level is about .6
        found = level_quality(codes_IL[:, level], size)
        learned.above(f"entropy ratio, level {level}", found["entropy_ratio"], 0.9)
        learned.below(f"largest code by the mean, level {level}", max(found["counts"]) * size / 600, 1.6)
    again = make_quantizer(config, 6)
    again.load_state(load(save(quantizer.state())))
    new = points(50, 6, seed=9)
    assert torch.equal(again.assign(new)[0], quantizer.assign(new)[0])


@pytest.mark.learns
def test_moving_codewords_pays_back_part_of_the_error(learned):
    errors = {}
    for rounds in (1, 6):
        settings = {"levels": 1, "codes": 8, "normalize": False, "assignment": "balanced", "seed": learned.seed}
        config = IndexConfig.model_validate(settings | {"balance": {"slack": 0.0, "rounds": rounds}})
        quantizer = make_quantizer(config, 6)
        quantizer.fit(TensorSource(skewed()))
        errors[rounds] = quantizer.relative_error[-1]
    learned.below("error of six rounds by that of one", errors[6] / errors[1], 0.97)
