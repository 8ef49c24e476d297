"""Coverage, novelty and Gini against loops over the recommended lists."""

import math

import numpy as np
import pytest
import torch

from intrr_rec.evaluation.beyond_accuracy import beyond_accuracy, exposure


def by_loops(lists, popularity):
    shown = [item for row in lists for item in row[:10] if item >= 0]
    total = sum(popularity) + len(popularity)
    times = [shown.count(item) for item in range(len(popularity))]
    apart = sum(abs(a - b) for a in times for b in times)
    return {
        "coverage@10": len(set(shown)) / len(popularity),
        "novelty@10": sum(-math.log2((popularity[item] + 1) / total) for item in shown) / len(shown),
        "gini@10": apart / (2 * len(times) * sum(times)),
    }


@pytest.mark.parametrize("width", [4, 10, 20])
def test_figures_equal_loops(width):
    generator = torch.Generator().manual_seed(width)
    popularity_I = torch.randint(0, 30, (25,), generator=generator)
    popularity_I[:3] = 0
    items_BW = torch.stack([torch.randperm(22, generator=generator)[:width] for _ in range(9)])
    items_BW[0, -2:] = -1
    found = beyond_accuracy(*exposure(items_BW, 25), popularity_I.numpy())
    assert found == pytest.approx(by_loops(items_BW.tolist(), popularity_I.tolist()))
    shown = items_BW[1::2, :10]
    others = iter([torch.tensor([(shown >= 0).sum()]), torch.bincount(shown.clamp(min=0).flatten(), minlength=25)])
    parts = exposure(items_BW[::2], 25, lambda count_R: count_R + next(others))
    assert beyond_accuracy(*parts, popularity_I.numpy()) == found


def test_extremes():
    popularity_I = np.full(8, 3)
    even = beyond_accuracy(torch.arange(8), torch.full((8,), 5), popularity_I)
    assert even == pytest.approx({"coverage@10": 1.0, "novelty@10": 3.0, "gini@10": 0.0})
    one = beyond_accuracy(torch.tensor([0]), torch.tensor([9]), popularity_I)
    assert one == pytest.approx({"coverage@10": 1 / 8, "novelty@10": 3.0, "gini@10": 7 / 8})
