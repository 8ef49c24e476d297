"""Recall and NDCG against loops."""

import math

import pytest
import torch

from intrr_rec.evaluation.metrics import NAMES, NDCG_AT, RECALL_AT, as_means, metrics_by_user, target_rank


def sums(items_BW, target_B):
    return metrics_by_user(target_rank(items_BW, target_B)).sum(0)


def by_loops(items, targets):
    total = dict.fromkeys(NAMES, 0.0)
    for row, target in zip(items, targets, strict=True):
        if target in row:
            place = row.index(target) + 1
            for k in RECALL_AT:
                total[f"recall@{k}"] += place <= k
            for k in NDCG_AT:
                total[f"ndcg@{k}"] += (place <= k) / math.log2(place + 1)
    return total


@pytest.mark.parametrize("width", [1, 3, 10, 20, 50])
def test_sums_equal_loops(width):
    generator = torch.Generator().manual_seed(width)
    items_BW = torch.stack([torch.randperm(60, generator=generator)[:width] for _ in range(200)])
    target_B = torch.randint(60, (200,), generator=generator)
    expected = by_loops(items_BW.tolist(), target_B.tolist())
    found = sums(items_BW, target_B)
    assert expected["recall@20"] > 0
    torch.testing.assert_close(found, torch.tensor([expected[n] for n in NAMES], dtype=torch.float64))
    assert as_means(found, 200) == pytest.approx({name: value / 200 for name, value in expected.items()})


def test_first_place_counts_one_everywhere_and_an_absent_target_nothing():
    assert sums(torch.tensor([[4, 2]]), torch.tensor([4])).tolist() == [1.0] * len(NAMES)
    assert sums(torch.tensor([[4, 2]]), torch.tensor([3])).tolist() == [0.0] * len(NAMES)


def test_no_users_no_means():
    means = as_means(sums(torch.zeros(0, 5), torch.zeros(0)), 0)
    assert list(means) == list(NAMES) and all(math.isnan(value) for value in means.values())
