"""Every indexer behind the one interface: it learns clusters, agrees with itself, repeats itself and comes back from disk."""

import pytest
import torch
from safetensors.torch import load, save

from intrr_rec.config import IndexConfig
from intrr_rec.errors import ConfigError
from intrr_rec.semantic_ids.build import assign_all
from intrr_rec.semantic_ids.quality.metrics import level_quality
from intrr_rec.semantic_ids.quantizers.methods import make_quantizer
from intrr_rec.semantic_ids.quantizers.quantizer import TensorSource, relative_error

UNUSED = 1
METHODS = ["rk_means", "residual_vq", "vq_vae", "rq_vae"]
SMALL = {
    "levels": 2,
    "codes": [6, 5],
    "training": {"epochs": 60, "batch_items": 60, "learning_rate": 1e-2},
    "autoencoder": {"latent": 8, "hidden": [32]},
}


def clusters():
    """300 unit-length points about 6 centres, 5 places about each."""
    generator = torch.Generator().manual_seed(0)
    centres, places = torch.randn(6, 1, 1, 12, generator=generator), torch.randn(6, 5, 1, 12, generator=generator)
    points = centres + 0.4 * places + 0.05 * torch.randn(6, 5, 10, 12, generator=generator)
    return torch.nn.functional.normalize(points.reshape(-1, 12), dim=1)


VECTORS = clusters()


def fitted(method, heard=None, **changes):
    config = IndexConfig.model_validate(SMALL | {"method": method} | changes)
    quantizer = make_quantizer(config, 12)
    quantizer.fit(TensorSource(VECTORS), heard)
    return quantizer


@pytest.fixture(scope="module", params=METHODS)
def quantizer(request):
    return request.param, fitted(request.param)


@pytest.mark.learns
@pytest.mark.parametrize("method", METHODS)
def test_uses_its_codes_and_explains_the_vectors(method, learned):
    quantizer = fitted(method, seed=learned.seed)
    codes_IL = assign_all(quantizer, TensorSource(VECTORS))
    for level, size in enumerate((6, 5)):
        quality = level_quality(codes_IL[:, level], size)
        learned.below(f"unused codes, level {level}", size - quality["used"], UNUSED)
        learned.above(f"entropy ratio, level {level}", quality["entropy_ratio"], 0.7)
    learned.below("relative error", quantizer.relative_error[-1], 0.45)
    assert quantizer.sizes == (6, 5) and [len(table) for table in quantizer.codebooks] == [6, 5]


def test_agrees_with_itself(quantizer):
    _, quantizer = quantizer
    codes_IL, distances_I = quantizer.assign(VECTORS)
    torch.testing.assert_close(quantizer.distances(VECTORS, codes_IL)[:, -1], distances_I, atol=1e-5, rtol=1e-4)
    for level, table in enumerate(quantizer.codebooks):
        given = quantizer.level_input(VECTORS, codes_IL[:, :level])
        nearest = torch.cdist(given.double(), table.double()).argmin(1)
        assert (nearest == codes_IL[:, level]).double().mean() > 0.99, "ties apart, the codes are the nearest"
    assert quantizer.relative_error == pytest.approx(relative_error(quantizer, TensorSource(VECTORS)), rel=1e-5)
    assert torch.equal(quantizer.assign(VECTORS[:7])[0], codes_IL[:7]), "an item's codes hang on nothing but its vector"


def test_comes_back_from_its_state(quantizer):
    method, quantizer = quantizer
    again = make_quantizer(IndexConfig.model_validate(SMALL | {"method": method}), 12)
    again.load_state(load(save(quantizer.state())))
    for ours, theirs in zip(quantizer.assign(VECTORS), again.assign(VECTORS), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("method", METHODS[1:])
def test_same_seed_same_codes_other_seed_other_tables(method):
    short = {"training": {"epochs": 2, "batch_items": 64}}
    one, two, other = fitted(method, **short), fitted(method, **short), fitted(method, seed=1, **short)
    assert all(torch.equal(a, b) for a, b in zip(one.codebooks, two.codebooks, strict=True))
    assert not torch.equal(one.codebooks[0], other.codebooks[0])


def test_training_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    fitted("rq_vae", training={"epochs": 1})
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.learns
@pytest.mark.parametrize("method", METHODS[1:])
@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_error_falls_with_either_update(method, update, learned):
    figures = []
    # Residual VQ starts near its optimum; by gradients it needs a larger rate to leave a mark in twelve epochs.
    rate = 3e-2 if (method, update) == ("residual_vq", "gradient") else 3e-3
    fitted(
        method,
        lambda what, step, steps, figure: None if "warm-up" in what else figures.append((step, steps, figure)),
        training={"epochs": 12, "batch_items": 60, "learning_rate": rate, "update": update, "ema_decay": 0.9},
        seed=learned.seed,
    )
    assert [figure[:2] for figure in figures] == [(step, 12) for step in range(1, 13)]
    learned.below("last error by the first", figures[-1][2] / figures[0][2], 1)


@pytest.mark.learns
@pytest.mark.parametrize("change", [{"normalize_levels": True}, {"warmup_epochs": 5}, {"batch_norm": False}])
def test_switches_of_the_autoencoder_learn_too(change, learned):
    quantizer = fitted("rq_vae", autoencoder=SMALL["autoencoder"] | change, seed=learned.seed)
    learned.below("relative error", quantizer.relative_error[-1], 0.45)


@pytest.mark.learns
def test_restart_revives_codes_that_lie_far_off(monkeypatch, learned):
    def far_off(codebooks, latents, generator):
        with torch.no_grad():
            for table in codebooks.tables:
                table.fill_(100.0)
                table[0] = 0

    monkeypatch.setattr("intrr_rec.semantic_ids.quantizers.autoencoder.Codebooks.initialise", far_off)
    used = {}
    for restart in (False, True):
        training = {"epochs": 12, "batch_items": 60, "restart": restart}
        codes_IL = assign_all(fitted("rq_vae", training=training, seed=learned.seed), TensorSource(VECTORS))
        used[restart] = len(codes_IL[:, 0].unique())
    assert used[False] == 1
    learned.above("codes revived", used[True], 4)


@pytest.mark.parametrize("method", METHODS)
def test_more_codes_than_points_is_refused(method):
    config = IndexConfig(method=method, levels=1, codes=301)
    with pytest.raises(ConfigError, match=r"index\.codes"):
        make_quantizer(config, 12).fit(TensorSource(VECTORS))


class Share(TensorSource):
    """What one of two ranks holds."""

    def blocks(self):
        for ids, x in super().blocks():
            yield ids[::2], x[::2]


@pytest.mark.parametrize("method", METHODS[1:])
def test_a_share_of_the_items_is_refused_not_taken_for_all(method):
    with pytest.raises(ConfigError, match="run on one rank"):
        make_quantizer(IndexConfig.model_validate(SMALL | {"method": method}), 12).fit(Share(VECTORS))
