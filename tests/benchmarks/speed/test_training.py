"""Table 2 in miniature: every case measured, ratios that are those of the figures, the page's section written anew."""

import json

import pytest
import torch

from benchmarks.speed import machine, training
from benchmarks.speed.page import write_section
from benchmarks.speed.stopwatch import PARTS, Stopwatch
from intrr_rec.errors import ConfigError
from tests import tiny


@pytest.mark.slow
def test_all_cases_are_measured_and_written(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.Gemm, "rate", lambda self: 1e11)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- training -->\nreplaced\n<!-- end of training -->\nafter\n")
    line, out = tiny.make_line(tmp_path), tmp_path / "training.json"
    recipe, wanted = tiny.recipe(), (training.Backbone.HSTU,)
    figures = training.bench_training(recipe, **line.inputs(), out=out, steps=2, backbones=wanted, page=page)
    assert json.loads(out.read_text()) == figures
    assert len(figures["cases"]) == 4
    for name, case in figures["cases"].items():
        parts = {part: case["breakdown_ms"][part] for part in PARTS}
        assert parts["backbone"] > 0 and parts["backward"] > 0 and parts["optimizer"] > 0 and parts["lookup"] > 0
        assert (parts["item-side RAN"] > 0) == (parts["user-side RAN"] > 0) == ("intrr" in name)
        assert case["model_and_step_gb"] > 0
        # A prefix has one target, a whole history several.
        one = case["targets_per_second"] == pytest.approx(case["windows_per_second"])
        assert one == ("prefixes" in name)
    ratio = figures["ratios"]["hstu"]["targets a second, IntRR / flattened, every position"]
    speed = [figures["cases"][f"hstu, {kind}, every position"]["targets_per_second"] for kind in ("intrr", "flattened")]
    assert ratio == speed[0] / speed[1]
    text = page.read_text()
    assert text.startswith("before\n<!-- training -->\n") and text.endswith("<!-- end of training -->\nafter\n")
    assert "replaced" not in text and text.count("\n| hstu, flattened, prefixes |") == 1


def test_a_page_without_the_section_is_refused(tmp_path):
    page = tmp_path / "page.md"
    for text in ("nothing", "<!-- training -->\nno end"):
        page.write_text(text)
        with pytest.raises(ConfigError, match=r"has no lines <!-- training -->"):
            write_section(page, "training", ["new"])
        assert page.read_text() == text


def test_the_time_of_a_part_inside_another_is_counted_once(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 7.0, 8.0, 10.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    watch = Stopwatch(torch.device("cpu"))
    with watch.around("backward"):
        with watch.around("lookup"):
            pass
        with watch.around("lookup"):
            pass
    assert watch.seconds["lookup"] == 3.0 and watch.seconds["backward"] == 7.0
