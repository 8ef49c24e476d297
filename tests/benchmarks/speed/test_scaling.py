"""The scaling bench measures what it says, and lists what does not fit."""

import pytest
import torch

from benchmarks.speed.ranks import batches
from benchmarks.speed.scaling import _measure, bench_scaling
from benchmarks.tables.scaling import write_scaling_page
from intrr_rec.errors import ArtefactError, ConfigError
from tests import tiny


def test_a_size_is_measured(tmp_path):
    recipe = tiny.recipe("train.sharding.uid=row_wise")
    found = _measure(recipe, rows=50, smallest=50, steps=2, scratch=tmp_path)
    assert (found["rows"], found["sharding"]) == (50, "row_wise")
    assert found["step_ms"] > 0 < found["start_seconds"]
    assert found["before_gb"] <= found["peak_gb"]
    assert found["save_stops_seconds"] > 0 < found["save_seconds"] and list(tmp_path.iterdir()) == []


def test_a_size_that_does_not_fit_is_listed_with_the_line_that_refused_it(tmp_path):
    recipe = tiny.recipe("train.sharding.topology.memory_gb=0.003")
    found = _measure(recipe, rows=10_000, smallest=50, steps=1, scratch=tmp_path)
    assert "row_wise over at least" in found["refused"] and "step_ms" not in found


def test_larger_tables_are_asked_for_the_same_batches():
    recipe = tiny.recipe()
    small, large = (batches(recipe, 50, 2, apart=apart)[1] for apart in (1, 7))
    assert torch.equal(7 * small.items_U, large.items_U) and torch.equal(small.slot_T, large.slot_T)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_is_measured_and_the_page_is_made_of_the_figures_alone(tmp_path):
    recipe = tiny.recipe("train.sharding.uid=row_wise")
    found = bench_scaling(recipe, rows=[50, 60], steps=2, threads=1, out=tmp_path / "s.json")
    assert [size["rows"] for size in found["sizes"]] == [50, 60]
    one, two = found["ranks"]
    assert (one["ranks"], two["ranks"]) == (1, 2) and one["gflop_a_rank"] == pytest.approx(two["gflop_a_rank"], rel=0.2)
    assert two["link_gb_s"] > 0 and min(two["alone"].values()) > 0 == max(one["alone"].values())
    # Ids, rows and gradients of a rank's histories, the half of them that lie on the other rank.
    looked_up = recipe.train.batch_users * recipe.model.window
    assert two["modelled"]["all_to_all_bytes"] == min(50, looked_up) * (8 + 2 * 16 * 4) // 2
    page = write_scaling_page(tmp_path / "s.json", tmp_path / "docs")
    text, drawn = page.read_bytes(), (tmp_path / "docs/scaling.svg").read_bytes()
    assert b"| 60 | row_wise |" in text
    write_scaling_page(tmp_path / "s.json", tmp_path / "docs")
    assert (page.read_bytes(), (tmp_path / "docs/scaling.svg").read_bytes()) == (text, drawn)


def test_figures_of_something_else_make_no_page(tmp_path):
    (tmp_path / "s.json").write_text('{"sizes": []}')
    with pytest.raises(ArtefactError, match=r"is not what `python -m benchmarks\.speed scaling"):
        write_scaling_page(tmp_path / "s.json", tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


def test_a_model_that_needs_more_than_ids_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="bench scaling: takes"):
        bench_scaling(tiny.recipe("model.content=true"), rows=[50], steps=1, threads=1, out=tmp_path / "s.json")
    assert not (tmp_path / "s.json").exists()
