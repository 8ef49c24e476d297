"""K-means against exhaustive assignment, planted clusters and its own fixed-point property."""

import itertools

import pytest
import torch

from intrr_rec.errors import ConfigError
from intrr_rec.indexing import kmeans
from intrr_rec.indexing.kmeans import assign, fit_kmeans


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def fit(x_ID, n_codes, seed=0, **settings):
    return fit_kmeans(x_ID, n_codes, **({"iterations": 50, "tolerance": 0.0} | settings), generator=seeded(seed))


def test_assign_is_the_nearest_centroid_whatever_the_block():
    x_ID, centroids_KD = torch.randn(101, 7, generator=seeded(1)), torch.randn(13, 7, generator=seeded(2))
    exact_IK = (x_ID.double()[:, None] - centroids_KD.double()[None]).square().sum(2)
    for block in (1, 10, 101, 1000):
        codes_I, distances_I = assign(x_ID, centroids_KD, block=block)
        assert torch.equal(codes_I, exact_IK.argmin(1))
        torch.testing.assert_close(distances_I, exact_IK.min(1).values.float())


def test_distances_stay_exact_far_from_the_origin():
    x_ID = torch.tensor([[1000.0, 1000.0], [1000.25, 1000.0]])
    _, distances_I = assign(x_ID, torch.tensor([[1000.0, 1000.0], [0.0, 0.0]]))
    assert distances_I.tolist() == [0.0, 0.0625]


def test_planted_clusters_are_recovered():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    truth_I = torch.arange(4).repeat_interleave(50)
    x_ID = centres[truth_I] + 0.1 * torch.randn(200, 2, generator=seeded(3))
    result = fit(x_ID, 4)
    assert len({(int(a), int(b)) for a, b in zip(truth_I, result.codes_I, strict=True)}) == 4
    means = torch.stack([x_ID[truth_I == k].mean(0) for k in range(4)])
    found = result.centroids_KD[result.codes_I[[0, 50, 100, 150]]]
    torch.testing.assert_close(found, means)


def test_converged_fit_is_a_fixed_point_of_lloyd():
    x_ID = torch.randn(300, 5, generator=seeded(4))
    result = fit(x_ID, 12, iterations=300)
    assert result.iterations < 300
    for k in range(12):
        torch.testing.assert_close(result.centroids_KD[k], x_ID[result.codes_I == k].mean(0), atol=1e-6, rtol=1e-5)
    codes_I, distances_I = assign(x_ID, result.centroids_KD)
    assert torch.equal(codes_I, result.codes_I)
    assert result.inertia == pytest.approx(float(distances_I.sum()), rel=1e-6)


def test_inertia_never_rises():
    heard = []
    x_ID = torch.randn(400, 6, generator=seeded(5))
    fit_kmeans(x_ID, 20, iterations=30, tolerance=0.0, generator=seeded(), on_iteration=heard.append)
    assert len(heard) > 3
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(heard))


def test_tolerance_stops_early():
    x_ID = torch.randn(400, 6, generator=seeded(5))
    assert fit(x_ID, 20, tolerance=0.05).iterations < fit(x_ID, 20).iterations


def test_same_seed_same_bits_other_seed_other_fit():
    x_ID = torch.randn(500, 8, generator=seeded(6))
    first, second, other = fit(x_ID, 16), fit(x_ID, 16), fit(x_ID, 16, seed=1)
    assert torch.equal(first.centroids_KD, second.centroids_KD) and torch.equal(first.codes_I, second.codes_I)
    assert not torch.equal(first.centroids_KD, other.centroids_KD)


def test_as_many_codes_as_distinct_points_puts_one_on_each():
    distinct = torch.randn(9, 3, generator=seeded(7))
    result = fit(distinct.repeat(20, 1), 9)
    assert result.inertia == pytest.approx(0, abs=1e-9)
    assert len(result.codes_I[:9].unique()) == 9


def test_fewer_distinct_points_than_codes_is_refused():
    with pytest.raises(ConfigError, match=r"index\.codes: 9 codes .* the 60 vectors .* only 6 distinct points"):
        fit(torch.randn(6, 3, generator=seeded(7)).repeat(10, 1), 9)


def test_seeding_sample_with_too_few_distinct_points_falls_back_to_all(monkeypatch):
    monkeypatch.setattr(kmeans, "SAMPLE_PER_CODE", 1)
    x_ID = torch.cat([torch.zeros(500, 2), torch.eye(2), 2 * torch.eye(2)])
    result = fit(x_ID, 5)
    assert result.inertia == 0
    assert len(result.codes_I.unique()) == 5


def test_empty_clusters_are_reseeded_at_the_farthest_points(monkeypatch):
    x_ID = torch.cat([0.01 * torch.randn(50, 2, generator=seeded(8)), torch.tensor([[9.0, 9.0], [-9.0, 5.0]])])
    dead = torch.tensor([[0.0, 0.0], [500.0, 500.0], [-500.0, 500.0]])
    monkeypatch.setattr(kmeans, "_seed", lambda *_: dead)
    result = fit(x_ID, 3)
    assert torch.bincount(result.codes_I, minlength=3).tolist()[0] == 50
    assert {tuple(row) for row in result.centroids_KD[1:].tolist()} == {(9.0, 9.0), (-9.0, 5.0)}
