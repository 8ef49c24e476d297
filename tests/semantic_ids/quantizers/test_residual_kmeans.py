"""RK-Means: residuals, normalisation and the error it reports, recomputed from the definition."""

import pytest
import torch

from intrr_rec.semantic_ids.quantizers import residual_kmeans
from intrr_rec.semantic_ids.quantizers.quantizer import TensorSource
from intrr_rec.semantic_ids.quantizers.residual_kmeans import ResidualKMeans

VECTORS = torch.randn(400, 12, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.5, 3, 400)[:, None]


def fitted(normalize, levels=3, seed=0, vectors=VECTORS):
    quantizer = ResidualKMeans((8,) * levels, normalize=normalize, iterations=30, tolerance=1e-4, seed=seed)
    quantizer.fit(TensorSource(vectors))
    return quantizer


def test_plain_distance_is_that_of_the_sum_of_centroids():
    quantizer = fitted(normalize=False)
    codes_IL, distances_I = quantizer.assign(VECTORS)
    rebuilt = sum(codebook[codes_IL[:, level]] for level, codebook in enumerate(quantizer.codebooks))
    torch.testing.assert_close(distances_I, (VECTORS - rebuilt).square().sum(1), atol=1e-4, rtol=1e-4)
    error = float(distances_I.sum() / VECTORS.square().sum())
    assert quantizer.relative_error[-1] == pytest.approx(error, rel=1e-4)


def test_normalised_distance_puts_centroids_back_at_the_length_of_their_residual():
    quantizer = fitted(normalize=True)
    codes_IL, distances_I = quantizer.assign(VECTORS)
    for item in (0, 17, 399):
        x = VECTORS[item] / VECTORS[item].norm()
        left, rebuilt = x, torch.zeros_like(x)
        for level, codebook in enumerate(quantizer.codebooks):
            length = left.norm()
            nearest = (codebook - left / length).square().sum(1).argmin()
            assert codes_IL[item, level] == nearest
            rebuilt = rebuilt + length * codebook[nearest]
            left = x - rebuilt
        torch.testing.assert_close(distances_I[item], left.square().sum(), atol=1e-5, rtol=1e-4)
    assert quantizer.relative_error[-1] == pytest.approx(float(distances_I.mean()), rel=1e-4)


def test_normalised_codes_ignore_the_length_of_the_input():
    quantizer = fitted(normalize=True)
    assert torch.equal(quantizer.assign(VECTORS)[0], quantizer.assign(4 * VECTORS)[0])
    plain = fitted(normalize=False)
    assert not torch.equal(plain.assign(VECTORS)[0], plain.assign(4 * VECTORS)[0])


@pytest.mark.parametrize("normalize", [True, False])
def test_each_level_lowers_the_error(normalize):
    errors = fitted(normalize).relative_error
    assert len(errors) == 3
    assert 1 > errors[0] > errors[1] > errors[2] > 0


@pytest.mark.parametrize("normalize", [True, False])
def test_same_seed_same_bits(normalize):
    first, second = fitted(normalize), fitted(normalize)
    assert all(torch.equal(a, b) for a, b in zip(first.codebooks, second.codebooks, strict=True))
    assert not torch.equal(first.codebooks[0], fitted(normalize, seed=1).codebooks[0])


def test_more_levels_leave_the_first_ones_as_they_are():
    short, long = fitted(True, levels=2), fitted(True, levels=3)
    assert torch.equal(short.assign(VECTORS)[0], long.assign(VECTORS)[0][:, :2])


def test_zero_vector_stays_finite():
    quantizer = fitted(True, vectors=torch.cat([VECTORS, torch.zeros(1, 12)]))
    _, distances_I = quantizer.assign(torch.zeros(1, 12))
    assert distances_I.isfinite().all()
    assert all(codebook.isfinite().all() for codebook in quantizer.codebooks)


def test_progress_hears_every_level_in_turn():
    heard = []
    quantizer = ResidualKMeans((8,) * 3, normalize=True, iterations=5, tolerance=0.0, seed=0)
    quantizer.fit(TensorSource(VECTORS), lambda what, step, steps, inertia: heard.append((what, step)))
    assert [what for what, step in heard if step == 1] == [f"RK-Means level {level}/3" for level in (1, 2, 3)]
    assert max(step for _, step in heard) <= 5


def test_levels_may_differ_in_size():
    quantizer = ResidualKMeans((16, 4), normalize=True, iterations=5, tolerance=0.0, seed=0)
    quantizer.fit(TensorSource(VECTORS))
    assert [len(codebook) for codebook in quantizer.codebooks] == [16, 4]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("batch", [None, 100])
def test_inputs_kept_in_memory_or_computed_anew_are_the_same_bits(monkeypatch, normalize, batch):
    def fit():
        quantizer = ResidualKMeans((8, 8, 8), normalize=normalize, iterations=5, tolerance=0.0, seed=0, batch=batch)
        quantizer.fit(TensorSource(VECTORS))
        return quantizer

    kept = fit()
    monkeypatch.setattr(residual_kmeans, "KEPT_BYTES", 0)
    streamed = fit()
    assert all(torch.equal(a, b) for a, b in zip(kept.codebooks, streamed.codebooks, strict=True))
    assert kept.relative_error == streamed.relative_error
