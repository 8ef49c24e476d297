"""Quality figures against values worked out by hand."""

import json
import math

import pytest
import torch

from intrr_rec.config import IndexConfig
from intrr_rec.semantic_ids.quality import metrics as quality_module
from intrr_rec.semantic_ids.quality.categories import Categories
from intrr_rec.semantic_ids.quality.metrics import (
    assess,
    category_purity,
    collision_quality,
    level_quality,
    measure_quality,
    nearest_neighbours,
    neighbour_purity,
    vector_spread,
)
from intrr_rec.semantic_ids.quantizers.methods import make_quantizer
from intrr_rec.semantic_ids.quantizers.quantizer import TensorSource


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
        "distinct_sids": 4,
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


@pytest.mark.parametrize("block", [3, 1000])
def test_nearest_neighbours_are_those_of_all_cosines(monkeypatch, block):
    monkeypatch.setattr(quality_module, "SCORE_ROWS", block)
    x_ID = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    query_Q = torch.tensor([0, 7, 49])
    cosine_II = torch.nn.functional.cosine_similarity(x_ID.unsqueeze(1), x_ID.unsqueeze(0), dim=2)
    cosine_II.fill_diagonal_(-2)
    expected_QN = cosine_II[query_Q].topk(4).indices
    assert torch.equal(nearest_neighbours(TensorSource(x_ID), query_Q, 4), expected_QN)
    assert nearest_neighbours(TensorSource(x_ID[:3]), query_Q[:1], 10).sort().values.tolist() == [[1, 2]]


def test_neighbour_purity_by_hand():
    codes_IL = torch.tensor([[0, 0], [0, 1], [0, 0], [1, 0]])
    found = neighbour_purity(codes_IL, torch.tensor([0, 3]), torch.tensor([[1, 2], [0, 1]]))
    assert found == [
        {"share": 0.5, "chance": pytest.approx(3 * 2 / 12)},
        {"share": 0.25, "chance": pytest.approx(2 / 12)},
    ]


def test_category_purity_by_hand_and_against_chance():
    codes_IL = torch.tensor([[0], [0], [0], [1], [1], [2]])
    categories = Categories(("a", "b"), torch.tensor([0, 0, 1, 1, 1, -1]))
    [found] = category_purity(codes_IL, categories, torch.Generator().manual_seed(0))
    assert found["share"] == pytest.approx(4 / 5)
    label_I = torch.arange(4000) % 4
    random_IL = torch.randint(0, 2000, (4000, 1), generator=torch.Generator().manual_seed(0))
    names = tuple("abcd")
    [unrelated] = category_purity(random_IL, Categories(names, label_I), torch.Generator().manual_seed(1))
    assert unrelated["share"] > 0.5, "small prefixes are pure whatever they hold"
    assert unrelated["share"] == pytest.approx(unrelated["chance"], abs=0.03)
    [related] = category_purity(label_I.unsqueeze(1), Categories(names, label_I), torch.Generator().manual_seed(1))
    assert related["share"] == 1 and related["chance"] < 0.3


def test_spread_of_vectors():
    assert vector_spread(TensorSource(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))) == 0
    assert vector_spread(TensorSource(torch.tensor([[1.0, 0.0], [-5.0, 0.0]]))) == 1
    assert vector_spread(TensorSource(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))) == pytest.approx(0.5)


@pytest.mark.learns
def test_paths_made_from_the_vectors_beat_chance_and_shuffled_ones_do_not(learned):
    generator = torch.Generator().manual_seed(learned.seed)
    source = TensorSource(torch.randn(600, 8, generator=generator))
    quantizer = make_quantizer(IndexConfig(levels=2, codes=8, iterations=10, seed=learned.seed), 8)
    quantizer.fit(source)
    codes_IL, _ = quantizer.assign(source.x_ID)
    made, found = assess(quantizer, source, codes_IL, None, seed=0)
    shuffled, _ = assess(quantizer, source, codes_IL[torch.randperm(600, generator=generator)], None, seed=0)
    first, other = made["neighbour_purity"][0], shuffled["neighbour_purity"][0]
    learned.above("neighbours that share a code, by chance", first["share"] / first["chance"], 3)
    learned.below("the same, shuffled, off chance", abs(other["share"] - other["chance"]), 0.03)
    assert made["relative_error"] == pytest.approx(quantizer.relative_error[-1], rel=1e-4)
    assert made["distances"]["relative_error"] == pytest.approx(made["relative_error"], rel=1e-5)
    learned.above("error when shuffled, by the error", shuffled["relative_error"] / made["relative_error"], 1.5)
    assert len(found.left_I) == 600 and made["category_purity"] is None
    assert json.loads(json.dumps(made)) == made
