"""The scaling bench measures what it says, and lists what does not fit."""

import pytest

from intrr_rec.bench.scaling import _measure, bench_scaling
from intrr_rec.errors import ConfigError
from tests import tiny


def test_a_size_is_measured():
    found = _measure(tiny.recipe("train.sharding.uid=row_wise"), rows=50, steps=2, threads=1)
    assert (found["rows"], found["sharding"]) == (50, "row_wise")
    assert found["step_ms"] > 0 < found["start_seconds"]
    assert found["before_gb"] <= found["peak_gb"]


def test_a_size_that_does_not_fit_is_listed_with_the_line_that_refused_it():
    found = _measure(tiny.recipe("train.sharding.topology.memory_gb=0.003"), rows=10_000, steps=1, threads=1)
    assert "row_wise over at least" in found["refused"] and "step_ms" not in found


def test_a_model_that_needs_more_than_ids_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="bench scaling: takes"):
        bench_scaling(tiny.recipe("model.content=true"), rows=[50], steps=1, threads=1, out=tmp_path / "s.json")
    assert not (tmp_path / "s.json").exists()
