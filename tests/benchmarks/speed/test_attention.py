"""The benchmark of attention counts pairs as they are."""

import json

from benchmarks.speed.attention import bench_attention, histories


def test_figures_of_two_windows(tmp_path):
    out = tmp_path / "attention.json"
    bench_attention([64, 512], 1, out)
    small, large = json.loads(out.read_text())["windows"]
    assert small["window"] == 64 and large["window"] == 512
    for row in (small, large):
        assert row["whole_ms"] > 0 and row["tiles_ms"] > 0
        assert 1 < row["tile_pairs"] < row["whole_pairs"]
    assert large["tile_pairs"] <= 1.3


def test_the_pairs_needed_are_those_that_a_slot_may_see():
    layout, needed = histories(64)
    assert int(layout.visible_CNN().sum()) == needed
