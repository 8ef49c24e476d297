"""The loader's benchmark: both ways of loading beside the training step."""

import json
from pathlib import Path

from benchmarks.speed.loader import bench_loader
from tests import tiny


def test_figures_of_both_ways(tmp_path: Path) -> None:
    line, out = tiny.make_line(tmp_path), tmp_path / "loader.json"
    figures = bench_loader(tiny.recipe(), **line.inputs(), out=out, steps=2)
    assert json.loads(out.read_text()) == figures
    taken = figures["training_sequences_per_second"]
    assert taken > 0 and figures["events"] > 0 and figures["row_groups"] == 1
    assert figures["reading_ms_per_million_events"] > 0
    for found in figures["loader"].values():
        assert found["times_training"] == found["sequences_per_second"] / taken
        assert 0 < found["slots_filled"] <= 1
    assert figures["loader"].keys() == {"in memory", "streamed"}
