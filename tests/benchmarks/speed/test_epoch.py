"""The benchmark of an epoch: speed, memory and the share of the peak, with or without the evaluation."""

import json

import pytest

from benchmarks.speed import epoch
from tests import tiny


@pytest.mark.parametrize("evaluation", [True, False])
def test_figures_of_an_epoch(tmp_path, monkeypatch, evaluation):
    monkeypatch.setattr(epoch, "gemm_peak", lambda device: 1e11)
    out = tmp_path / "epoch.json"
    line = tiny.make_line(tmp_path)
    figures = epoch.bench_epoch(tiny.recipe(), **line.inputs(), out=out, evaluation=evaluation)
    assert json.loads(out.read_text()) == figures
    assert ("evaluation_seconds" in figures) == evaluation
    assert 0 < figures["memory_at_rest_gb"] <= figures["training_peak_memory_gb"] <= figures["peak_memory_gb"]
    assert figures["targets_per_second"] > figures["users_per_second"] > 0
    assert sum(figures["step_profile"].values()) == pytest.approx(1)
