"""Slices against masks and loops: every user is in one band, and the bands add up to the whole."""

import numpy as np
import pytest
import torch

from intrr_rec.evaluation.metrics import NAMES, as_means, metrics_by_user
from intrr_rec.evaluation.slices import HISTORY_FROM, POPULARITY_FROM, as_slices, band_name, slice_sums


def drawn(users=500, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 80, users), torch.from_numpy(rng.integers(0, 30, users))


@pytest.mark.parametrize("bands", [POPULARITY_FROM, (0, 3)])
def test_slices_equal_masks(bands):
    value_B, rank_B = drawn()
    found = as_slices(slice_sums(value_B, rank_B, bands), bands)
    for record in found:
        highest = np.inf if record["to"] is None else record["to"]
        inside = torch.from_numpy((value_B >= record["from"]) & (value_B <= highest))
        assert record["users"] == int(inside.sum()) > 0
        assert record["share"] == pytest.approx(record["users"] / 500)
        assert record["metrics"]["recall@10"] == pytest.approx(
            sum(1 <= rank <= 10 for rank in rank_B[inside].tolist()) / record["users"]
        )
        expected = as_means(metrics_by_user(rank_B[inside]).sum(0), record["users"])
        assert record["metrics"] == pytest.approx(expected)


def test_slices_weighed_by_their_share_give_the_whole_and_parts_of_users_add_up():
    value_B, rank_B = drawn()
    sums = slice_sums(value_B, rank_B, POPULARITY_FROM)
    by_ranks = sum(slice_sums(value_B[r::3], rank_B[r::3], POPULARITY_FROM) for r in range(3))
    torch.testing.assert_close(by_ranks, sums)
    found = as_slices(sums, POPULARITY_FROM)
    whole = as_means(metrics_by_user(rank_B).sum(0), len(rank_B))
    for name in NAMES:
        assert sum(record["share"] * record["metrics"][name] for record in found) == pytest.approx(whole[name])


def test_a_band_without_users_has_no_metrics():
    first, *rest = as_slices(slice_sums(np.array([7, 60]), torch.tensor([1, 0]), POPULARITY_FROM), POPULARITY_FROM)
    assert first == {"from": 0, "to": 0, "users": 0, "share": 0.0, "metrics": None}
    assert [record["users"] for record in rest] == [0, 1, 0, 0, 1]


def test_names_of_bands():
    bounds = zip(HISTORY_FROM, [4, 9, 19, 49, None], strict=True)
    assert [band_name(0, 0), *(band_name(*bound) for bound in bounds)] == ["0", "1–4", "5–9", "10–19", "20–49", "50+"]
