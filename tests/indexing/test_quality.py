"""Quality figures against values worked out by hand."""

import json
import math

import pytest
import torch

from intrr_rec.indexing.quality import collision_quality, level_quality, measure_quality


def test_level_with_two_of_four_codes_in_use():
    quality = level_quality(torch.tensor([0, 0, 0, 2]), 4)
    assert quality["counts"] == [3, 0, 1, 0]
    assert (quality["used"], quality["dead"], quality["usage"]) == (2, 2, 0.5)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert quality["entropy"] == pytest.approx(entropy)
    assert quality["entropy_ratio"] == pytest.approx(entropy / math.log(4))
    assert quality["perplexity"] == pytest.approx(math.exp(entropy))
    # Mean absolute difference over all ordered pairs of (3, 0, 1, 0), over twice the mean: (2·(3+2+3+1+0+1)/16) / 2.
    assert quality["gini"] == pytest.approx(0.625)


@pytest.mark.parametrize(("codes", "gini", "perplexity"), [([0, 1, 2, 3, 4], 0, 5), ([2] * 7, 0.8, 1)])
def test_extremes_of_use(codes, gini, perplexity):
    quality = level_quality(torch.tensor(codes), 5)
    assert quality["gini"] == pytest.approx(gini)
    assert quality["perplexity"] == pytest.approx(perplexity)


def test_collisions_by_hand():
    codes_IL = torch.tensor([[0, 1], [2, 2], [0, 1], [1, 0], [2, 2], [0, 1], [3, 3]])
    assert collision_quality(codes_IL) == {
        "distinct_paths": 4,
        "distinct_rate": pytest.approx(4 / 7),
        "rate": pytest.approx(5 / 7),
        "largest": 3,
        "histogram": {"1": 2, "2": 1, "3": 1},
    }


def test_whole_report_is_json_and_keeps_the_errors():
    codes_IL = torch.tensor([[0, 1], [1, 2], [0, 1]])
    quality = measure_quality(codes_IL, (2, 3), [0.5, 0.25])
    assert json.loads(json.dumps(quality)) == quality
    assert [level["codes"] for level in quality["levels"]] == [2, 3]
    assert [level["relative_error"] for level in quality["levels"]] == [0.5, 0.25]
    assert quality["relative_error"] == 0.25
    assert quality["items"] == 3
