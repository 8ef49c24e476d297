"""The benchmark of features times one recipe with ten of them and without."""

import json

import pytest

from benchmarks.speed.features import OF_EVENTS, OF_ITEMS, bench_features
from tests import tiny


@pytest.mark.slow
def test_both_models_are_timed(tmp_path):
    assert (len(OF_EVENTS), len(OF_ITEMS)) == (4, 6)
    found = bench_features(tiny.recipe(), users=300, items=500, steps=5, out=tmp_path / "features.json")
    assert json.loads((tmp_path / "features.json").read_text()) == found
    with_features, without = (found["step_ms"][name]["median"] for name in ("with", "without"))
    assert found["ratio"] == with_features / without > 0
