"""Drift against hand-made distances."""

import json

import pytest
import torch

from intrr_rec.config import DriftConfig
from intrr_rec.semantic_ids.quality.drift import measure_drift
from intrr_rec.semantic_ids.quality.metrics import distance_summary

ONES = torch.ones(100)


def drift_of(left_I, since_I, config=None, codes_IL=None):
    reference = distance_summary(ONES, torch.linspace(0, 1, 100))
    codes_IL = torch.arange(len(left_I)).unsqueeze(1) if codes_IL is None else codes_IL
    return measure_drift(
        reference,
        torch.ones(len(left_I)),
        left_I,
        codes_IL,
        since_I,
        int(since_I.max()),
        config or DriftConfig(min_items=1),
    )


def test_summary_by_hand():
    found = distance_summary(torch.tensor([1.0, 4.0]), torch.tensor([0.5, 1.0]))
    assert found["items"] == 2 and found["relative_error"] == pytest.approx(1.5 / 5)
    assert found["quantiles"]["0.5"] == pytest.approx((0.5 + 0.25) / 2)
    assert distance_summary(torch.zeros(3), torch.zeros(3))["relative_error"] == 0


def test_groups_follow_the_version_an_item_came_with():
    left_I = torch.tensor([0.5, 0.5, 1.0, 2.0])
    drift = drift_of(left_I, torch.tensor([1, 1, 2, 3]), codes_IL=torch.tensor([[0], [1], [0], [2]]))
    assert json.loads(json.dumps(drift)) == drift
    fitted, added, newcomers = (drift["groups"][name] for name in ("fitted", "added", "newcomers"))
    assert (fitted["items"], added["items"], newcomers["items"]) == (2, 2, 1)
    assert fitted["error_ratio"] == pytest.approx(1) and added["error_ratio"] == pytest.approx(3)
    assert (fitted["beyond"], added["beyond"], newcomers["beyond"]) == (0, 1, 1)
    assert (fitted["collision_rate"], added["collision_rate"], newcomers["collision_rate"]) == (0.5, 0.5, 0)


@pytest.mark.parametrize(
    ("far", "due", "reason"),
    [
        (0, False, "no re-index due"),
        (4, False, "no re-index due"),
        (6, True, "beyond 0.06"),
        (100, True, "error_ratio 2"),
    ],
)
def test_due_by_the_share_beyond_and_by_the_ratio(far, due, reason):
    since_I = torch.cat([torch.ones(100), torch.full((100,), 2)]).long()
    added_I = torch.full((100,), 0.5)
    added_I[:far] = 1.0
    drift = drift_of(torch.cat([torch.full((100,), 0.5), added_I]), since_I)
    assert drift["due"] is due and reason in drift["verdict"]


def test_remade_vectors_of_old_items_make_a_reindex_due_too():
    drift = drift_of(torch.full((50,), 1.0), torch.ones(50, dtype=torch.int64))
    assert drift["due"] and "of items of the fit" in drift["verdict"]
    assert drift["groups"]["added"] is None


def test_too_few_items_are_not_judged():
    drift = drift_of(torch.full((9,), 9.0), torch.full((9,), 2), DriftConfig(min_items=10))
    assert not drift["due"] and "not judged" in drift["verdict"]
