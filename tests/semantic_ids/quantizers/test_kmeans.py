"""K-means against exhaustive assignment, planted clusters and its own fixed-point property."""

import itertools
from threading import Barrier, Thread

import pytest
import torch

from intrr_rec.errors import ConfigError
from intrr_rec.semantic_ids.quantizers import kmeans
from intrr_rec.semantic_ids.quantizers.kmeans import Nearest, assign, fit_kmeans
from intrr_rec.semantic_ids.quantizers.quantizer import TensorSource
from intrr_rec.semantic_ids.source import RowsSource


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def fit(x_ID, n_codes, seed=0, **settings):
    return fit_source(TensorSource(x_ID), n_codes, seed, **settings)


def fit_source(source, n_codes, seed=0, **settings):
    return fit_kmeans(source, n_codes, **({"iterations": 50, "tolerance": 0.0} | settings), seed=seed)


def codes_of(result, x_ID):
    return assign(x_ID, result.centroids_KD)[0]


class Group:
    """Ranks as threads of one process: what `World` does, without its processes."""

    def __init__(self, size):
        self.barrier, self.parts = Barrier(size), [None] * size

    def run(self, work):
        results = [None] * self.barrier.parties

        def one(rank):
            try:
                results[rank] = work(Member(self, rank))
            except BaseException:
                self.barrier.abort()
                raise

        threads = [Thread(target=one, args=(rank,)) for rank in range(len(results))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


class Member:
    def __init__(self, group, rank):
        self.group, self.rank, self.size = group, rank, group.barrier.parties

    def gather_rows(self, rows_ND):
        self.group.parts[self.rank] = rows_ND.clone()
        self.group.barrier.wait()
        gathered = torch.cat(self.group.parts)
        self.group.barrier.wait()
        return gathered

    def sum(self, values):
        return self.gather_rows(values.unsqueeze(0)).sum(0)


def test_assign_is_the_nearest_centroid_whatever_the_block(monkeypatch):
    x_ID, centroids_KD = torch.randn(101, 7, generator=seeded(1)), torch.randn(13, 7, generator=seeded(2))
    exact_IK = (x_ID.double()[:, None] - centroids_KD.double()[None]).square().sum(2)
    for block in (1, 10, 101, 1000):
        monkeypatch.setattr(kmeans, "BLOCK", block)
        codes_I, distances_I = assign(x_ID, centroids_KD)
        assert torch.equal(codes_I, exact_IK.argmin(1))
        torch.testing.assert_close(distances_I, exact_IK.min(1).values.float())


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_near_ties_are_decided_exactly_and_alike_in_every_block(monkeypatch, offset):
    """Centroids a few roundings apart, far from the origin, where a product of float32 cannot tell them apart."""
    centre = torch.randn(1, 48, generator=seeded(3)) + offset
    centroids_KD = centre * (1 + 1e-6 * torch.randn(40, 48, generator=seeded(4)))
    x_ID = centre * (1 + 1e-6 * torch.randn(257, 48, generator=seeded(5)))
    exact_IK = (x_ID.double()[:, None] - centroids_KD.double()[None]).square().sum(2)
    products_I = (centroids_KD.square().sum(1) - 2 * x_ID @ centroids_KD.T).argmin(1)
    assert (products_I != exact_IK.argmin(1)).any(), "the case is meant to be hard"
    for block in (16, 100, 257):
        monkeypatch.setattr(kmeans, "BLOCK", block)
        assert torch.equal(assign(x_ID, centroids_KD)[0], exact_IK.argmin(1))


def test_ties_take_the_lowest_code():
    centroids_KD = torch.tensor([[5.0, 5.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert Nearest(centroids_KD)(torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.5, 0.5]])).tolist() == [1, 1, 1]


def shares(x_ID, size, cut):
    """`size` ranks' rows, cut into blocks of `cut`, dealt in turn, in an order of their own."""
    ids_I = torch.randperm(len(x_ID), generator=seeded(size))
    blocks = ids_I.split(cut)
    empty = torch.empty(0, dtype=torch.int64)
    mine = [torch.cat([empty, *blocks[rank::size]]) for rank in range(size)]
    return [RowsSource(ids_R, x_ID[ids_R], len(x_ID)) for ids_R in mine]


@pytest.mark.parametrize("batch", [None, 200])
@pytest.mark.parametrize(("size", "cut"), [(1, 64), (2, 100), (3, 17), (4, 1000)])
def test_bits_do_not_depend_on_ranks_nor_on_who_holds_what(monkeypatch, size, cut, batch):
    """With copies of a point, empty clusters to repair and, at the last case, ranks without a single row."""
    x_ID = torch.randn(900, 6, generator=seeded(9)).round(decimals=1)
    x_ID[300:800] = x_ID[0]
    settings = {"iterations": 6, "batch": batch}
    monkeypatch.setattr(kmeans, "SAMPLE_PER_CODE", 3)
    alone = fit(x_ID, 40, **settings)
    parts = shares(x_ID, size, cut)
    results = Group(size).run(lambda peers: fit_source(parts[peers.rank], 40, peers=peers, **settings))
    for result in results:
        assert torch.equal(result.centroids_KD, alone.centroids_KD)
        assert (result.inertia, result.iterations) == (alone.inertia, alone.iterations)


@pytest.mark.parametrize("block", [7, 100, 4096])
def test_bits_do_not_depend_on_blocks_or_threads(monkeypatch, block):
    x_ID = torch.randn(3000, 33, generator=seeded(10))
    whole = fit(x_ID[:700], 24, iterations=2)
    monkeypatch.setattr(kmeans, "BLOCK", block)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        again = fit(x_ID[:700], 24, iterations=2)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(whole.centroids_KD, again.centroids_KD) and whole.inertia == again.inertia


@pytest.mark.learns
def test_minibatches_come_close_to_all_points_at_once(learned):
    centres = 4 * torch.randn(12, 5, generator=seeded(11))
    x_ID = centres.repeat(500, 1) + torch.randn(6000, 5, generator=seeded(12))
    full = fit(x_ID, 12, iterations=30, seed=learned.seed)
    batched = fit(x_ID, 12, iterations=30, batch=600, seed=learned.seed)
    assert batched.iterations == 31
    learned.below("inertia by that of all points", batched.inertia / full.inertia, 1.1)


@pytest.mark.learns
def test_minibatches_drawn_in_several_passes(monkeypatch, learned):
    x_ID = torch.randn(2000, 5, generator=seeded(13))
    monkeypatch.setattr(kmeans, "DRAW_BYTES", 1)
    result = fit(x_ID, 6, iterations=5, batch=700, seed=learned.seed)
    learned.below("inertia by that of all points", result.inertia / fit(x_ID, 6, seed=learned.seed).inertia, 1.2)


def test_distances_stay_exact_far_from_the_origin():
    x_ID = torch.tensor([[1000.0, 1000.0], [1000.25, 1000.0]])
    _, distances_I = assign(x_ID, torch.tensor([[1000.0, 1000.0], [0.0, 0.0]]))
    assert distances_I.tolist() == [0.0, 0.0625]


def test_planted_clusters_are_recovered():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    truth_I = torch.arange(4).repeat_interleave(50)
    x_ID = centres[truth_I] + 0.1 * torch.randn(200, 2, generator=seeded(3))
    result = fit(x_ID, 4)
    assert len({(int(a), int(b)) for a, b in zip(truth_I, codes_of(result, x_ID), strict=True)}) == 4
    means = torch.stack([x_ID[truth_I == k].mean(0) for k in range(4)])
    found = result.centroids_KD[codes_of(result, x_ID)[[0, 50, 100, 150]]]
    torch.testing.assert_close(found, means)


def test_converged_fit_is_a_fixed_point_of_lloyd():
    x_ID = torch.randn(300, 5, generator=seeded(4))
    result = fit(x_ID, 12, iterations=300)
    assert result.iterations < 300
    codes_I, distances_I = assign(x_ID, result.centroids_KD)
    for k in range(12):
        torch.testing.assert_close(result.centroids_KD[k], x_ID[codes_I == k].mean(0), atol=1e-6, rtol=1e-5)
    assert result.inertia == pytest.approx(float(distances_I.sum()), rel=1e-6)


def test_inertia_never_rises():
    heard = []
    x_ID = torch.randn(400, 6, generator=seeded(5))
    fit(x_ID, 20, iterations=30, on_iteration=heard.append)
    assert len(heard) > 3
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(heard))


def test_tolerance_stops_early():
    x_ID = torch.randn(400, 6, generator=seeded(5))
    assert fit(x_ID, 20, tolerance=0.05).iterations < fit(x_ID, 20).iterations


def test_same_seed_same_bits_other_seed_other_fit():
    x_ID = torch.randn(500, 8, generator=seeded(6))
    first, second, other = fit(x_ID, 16), fit(x_ID, 16), fit(x_ID, 16, seed=1)
    assert torch.equal(first.centroids_KD, second.centroids_KD)
    assert not torch.equal(first.centroids_KD, other.centroids_KD)


def test_as_many_codes_as_distinct_points_puts_one_on_each():
    distinct = torch.randn(9, 3, generator=seeded(7))
    result = fit(distinct.repeat(20, 1), 9)
    assert result.inertia == pytest.approx(0, abs=1e-9)
    assert len(codes_of(result, distinct).unique()) == 9


def test_fewer_distinct_points_than_codes_is_refused():
    with pytest.raises(ConfigError, match=r"index\.codes: 9 codes .* the 60 vectors .* only 6 distinct points"):
        fit(torch.randn(6, 3, generator=seeded(7)).repeat(10, 1), 9)


def test_equal_points_are_called_so():
    with pytest.raises(ConfigError, match="the 60 vectors of this level are all equal"):
        fit(torch.ones(60, 3), 9)


def test_seeding_sample_with_too_few_distinct_points_falls_back_to_all(monkeypatch):
    monkeypatch.setattr(kmeans, "SAMPLE_PER_CODE", 1)
    x_ID = torch.cat([torch.zeros(500, 2), torch.eye(2), 2 * torch.eye(2)])
    result = fit(x_ID, 5)
    assert result.inertia == 0
    assert len(codes_of(result, x_ID).unique()) == 5


def test_empty_clusters_are_reseeded_at_the_farthest_points(monkeypatch):
    x_ID = torch.cat([0.01 * torch.randn(50, 2, generator=seeded(8)), torch.tensor([[9.0, 9.0], [-9.0, 5.0]])])
    dead = torch.tensor([[0.0, 0.0], [500.0, 500.0], [-500.0, 500.0]])
    monkeypatch.setattr(kmeans, "_seed", lambda *_: dead)
    result = fit(x_ID, 3)
    assert torch.bincount(codes_of(result, x_ID), minlength=3).tolist()[0] == 50
    assert {tuple(row) for row in result.centroids_KD[1:].tolist()} == {(9.0, 9.0), (-9.0, 5.0)}
