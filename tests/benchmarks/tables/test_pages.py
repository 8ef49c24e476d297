"""Pages say what a work folder holds: no more, no less, and the same bytes each time."""

import hashlib
import json
import re
import shutil

import numpy as np
import pytest

from benchmarks.tables.cells import CONFIG, FIGURES, RESULTS, Cell, Workplace, expand, select
from benchmarks.tables.figures import Figures, keep
from benchmarks.tables.grid import ACCURACY, load_grid
from benchmarks.tables.pages import write_page
from benchmarks.tables.reproduce import Options, reproduce
from intrr_rec.config import save_recipe
from intrr_rec.errors import ArtefactError
from intrr_rec.runs.records import Spread
from tests.benchmarks.tables.mini import lay_out
from tests.sealing import write_metric_lines, write_run_record, write_sealed

MACHINE = {"device": "an abacus", "threads": 1, "torch": "2.13"}


def finish(place: Workplace, cell: Cell, test: dict[str, float], epochs: int = 4) -> None:
    """A run folder as training leaves it, as far as pages read it."""
    folder = place.folder(cell)
    write_run_record(folder, "d" * 64, "e" * 64)
    save_recipe(cell.recipe, folder / CONFIG)
    (folder / "machine.json").write_text(json.dumps(MACHINE))
    lines = [{"split": "valid", "epoch": e, "recall@10": 0.01 * e + cell.seed / 1000} for e in range(1, epochs + 1)]
    write_metric_lines(folder / "metrics.jsonl", lines)
    results = {
        "test": test,
        "valid": {"recall@10": 0.0871},
        "epochs": epochs,
        "best_epoch": epochs - 1,
        "wall_seconds": 61.2,
        "world_size": 1,
        "dataset": {"users": 50, "items": 30, "interactions": 430},
        "baseline": {"name": "most popular", "metrics": dict.fromkeys(ACCURACY, 0.0114)},
    }
    write_sealed(folder / RESULTS, results)


def measured(place: Workplace, cell: Cell, **figures) -> None:
    folder = place.folder(cell)
    write_run_record(folder, "d" * 64, "e" * 64)
    save_recipe(cell.recipe, folder / CONFIG)
    (folder / FIGURES).write_text(json.dumps({"machine": MACHINE, **figures}))


def metrics(*values: float) -> dict[str, float]:
    return dict(zip(ACCURACY, values, strict=True))


def line_of(page: str, label: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.fixture
def mini(tmp_path):
    path = lay_out(tmp_path)
    return path, Workplace(tmp_path / "raw", tmp_path / "work"), tmp_path / "docs"


def test_an_empty_work_folder_gives_a_page_of_dashes(mini):
    path, place, docs = mini
    page = write_page(load_grid(str(path))[0], "grid", expand(*load_grid(str(path))), place, docs).read_text()
    assert line_of(page, "IntRR")[1:7] == ["–"] * 6
    assert line_of(page, "*the paper*")[1:6] == ["*.1000*", "*.2000*", "*.3000*", "*.4000*", "*+5.0 %*"]
    assert line_of(page, "most popular")[1:5] == ["–"] * 4
    assert "0 of 2 rows" in page and not (docs / "grid.svg").exists()


def test_means_deviations_and_improvement(mini):
    path, place, docs = mini
    cells = expand(*load_grid(str(path)), (0, 1))
    full = [metrics(0.04, 0.06, 0.03, 0.05), metrics(0.06, 0.08, 0.05, 0.07)]
    soft = [metrics(0.04, 0.05, 0.02, 0.032)]
    for cell in cells:
        runs = full if cell.label == "IntRR" else soft
        if cell.seed < len(runs):
            finish(place, cell, runs[cell.seed])
    page = write_page(load_grid(str(path))[0], "grid", cells, place, docs).read_text()
    gain = 100 * np.mean([0.05 / 0.04, 0.07 / 0.05, 0.04 / 0.02, 0.06 / 0.032]) - 100
    ours = line_of(page, "IntRR")
    assert ours[1:5] == [".0500 ± .0141", ".0700 ± .0141", ".0400 ± .0141", ".0600 ± .0141"]
    assert ours[5:] == [f"+{gain:.1f} %", "0, 1", "`python -m benchmarks.tables grid --only mini/rk_means/paper-hstu`"]
    assert line_of(page, "soft")[1:7] == [".0400", ".0500", ".0200", ".0320", "–", "0"]
    assert line_of(page, "most popular")[1] == ".0114"
    assert "50 users, 30 items, 430 interactions. Vectors: random." in page
    settings = hashlib.sha256((place.folder(cells[0]) / CONFIG).read_bytes()).hexdigest()
    assert f"| 0 | `{settings[:12]}` | `dddddddddddd` | `eeeeeeeeeeee` | 4, 3 | .0871 | 61 s | 1 | an abacus" in page
    assert "codes 5 × 5, then a digit of 8" in page


def test_a_run_of_other_settings_is_not_shown(mini):
    path, place, docs = mini
    cells = expand(*load_grid(str(path)))
    finish(place, cells[0], metrics(0.04, 0.06, 0.03, 0.05))
    changed = cells[1].recipe.model_copy(update={"evaluate": cells[1].recipe.evaluate.model_copy(update={"beam": 3})})
    finish(place, cells[1], metrics(0.9, 0.9, 0.9, 0.9))
    save_recipe(changed, place.folder(cells[1]) / CONFIG)
    page = write_page(load_grid(str(path))[0], "grid", cells, place, docs).read_text()
    assert line_of(page, "IntRR")[1] == ".0400" and line_of(page, "soft")[1] == "–" and ".9000" not in page


def test_write_only_shows_every_seed_there_is(mini, capsys):
    path, place, docs = mini
    for cell in expand(*load_grid(str(path)), (3, 7)):
        finish(place, cell, metrics(0.04, 0.06, 0.03, 0.05))
    assert reproduce(Options(str(path), (), place.data, place.work, docs, None, False, True)) == 0
    assert line_of((docs / "grid.md").read_text(), "IntRR")[6] == "3, 7"
    assert not list(place.work.glob("mini"))  # nothing was run


def test_a_page_outlives_its_work_folder(mini):
    path, place, docs = mini
    cells = expand(*load_grid(str(path)), (0, 1))
    for cell in cells:
        finish(place, cell, metrics(0.04 + cell.seed / 100, 0.06, 0.03, 0.05))
    before = write_page(load_grid(str(path))[0], "grid", cells, place, docs).read_text()
    shutil.rmtree(place.work)
    assert write_page(load_grid(str(path))[0], "grid", cells, place, docs).read_text() == before
    (again,) = (cell for cell in cells if cell.label == "IntRR" and cell.seed == 1)
    finish(place, again, metrics(0.08, 0.06, 0.03, 0.05))
    page = write_page(load_grid(str(path))[0], "grid", cells, place, docs).read_text()
    assert line_of(page, "IntRR")[1] == ".0600 ± .0283" and line_of(page, "soft") == line_of(before, "soft")


def test_figures_kept_of_several_seeds_wait_for_all_of_them(mini):
    path, place, docs = mini
    cells = [cell for cell in expand(*load_grid(str(path)), (0, 1, 2)) if cell.label == "IntRR"]
    values = [0.04, 0.06, 0.11]
    both = Spread(float(np.mean(values[:2])), float(np.std(values[:2], ddof=1)), 2)
    card = ("| 0 | then |", "| 1 | then |")
    old = Figures(cell=cells[0].name, seeds=(0, 1), dataset="d" * 12, test=dict.fromkeys(ACCURACY, both), card=card)
    docs.mkdir()
    keep(docs / "grid.md", [old])

    def shown() -> tuple[list[str], str]:
        page = write_page(load_grid(str(path))[0], "grid", cells, place, docs).read_text()
        return line_of(page, "IntRR"), page

    finish(place, cells[2], metrics(*[values[2]] * 4))
    line, page = shown()
    assert (
        line[1] == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}".replace("0.", ".") and line[6] == "0, 1, 2"
    )
    assert "| 1 | then |" in page and "| 2 | `" in page
    finish(place, cells[0], metrics(*[0.5] * 4))
    assert shown()[0] == line  # seed 0 counts once
    finish(place, cells[1], metrics(*[0.5] * 4))
    assert shown()[0][1] == f"{np.mean([0.5, 0.5, 0.11]):.4f} ± {np.std([0.5, 0.5, 0.11], ddof=1):.4f}".replace(
        "0.", "."
    )
    shutil.rmtree(place.work)
    finish(place, cells[2], metrics(*[values[2]] * 4))
    keep(docs / "grid.md", [old.model_copy(update={"dataset": "f" * 12})])
    assert shown()[0][6] == "2"  # figures of another dataset do not mix


def test_a_page_is_not_written_over_one_with_more_rows(mini):
    path, place, docs = mini
    cells = expand(*load_grid(str(path)))
    for cell in cells:
        finish(place, cell, metrics(0.04, 0.06, 0.03, 0.05))
    page = write_page(load_grid(str(path))[0], "grid", cells, place, docs)
    (docs / "grid.json").unlink()
    shutil.rmtree(place.folder(cells[0]))
    before = page.read_bytes()
    with pytest.raises(ArtefactError, match=r"has figures in 2 rows, .* for 1; give the --work of those runs"):
        write_page(load_grid(str(path))[0], "grid", cells, place, docs)
    assert page.read_bytes() == before and not (docs / "grid.json").exists()


@pytest.mark.parametrize(
    ("name", "picture"), [("table1", "validation"), ("table4", "test NDCG@10"), ("lambda", "test Recall@10")]
)
def test_shipped_grids_draw_small_pictures(tmp_path, name, picture):
    grid, path = load_grid(name)
    place = Workplace(tmp_path, tmp_path)
    cells = expand(grid, path, (0,) if name == "table1" else (0, 1))
    for cell in cells:
        finish(place, cell, metrics(0.04, 0.06, 0.03, 0.05 + cell.seed / 1000), epochs=20)
    names = {cell.name for cell in cells}
    page = write_page(grid, name, cells, place, tmp_path).read_text()
    drawn = (tmp_path / f"{name}.svg").read_text()
    assert picture in drawn and len(drawn) < 100_000
    ticks = re.findall(r">(0\.\d+)</text>", drawn)
    assert len(set(ticks)) >= 3  # numbers keep their digits, whatever is cut off coordinates
    assert name == "table1" or len(set(ticks)) == len(ticks)
    if name != "table1":  # which takes seconds to draw
        write_page(grid, name, cells, place, tmp_path / "again")
        assert (tmp_path / "again" / f"{name}.svg").read_text() == drawn
    assert f"]({name}.svg)" in page and f"{len(names)} of {len(names)} rows" in page


def test_speed_and_memory_of_training(tmp_path):
    grid, path = load_grid("table2")
    place = Workplace(tmp_path, tmp_path)
    for cell in (cells := expand(grid, path)):
        if cell.label in ("HSTU", "HSTU + IntRR"):
            fast = cell.label == "HSTU + IntRR"
            speed = {"users_per_second": 3000.0 if fast else 1200.0, "targets_per_second": 15000.0}
            measured(place, cell, **speed, memory_at_rest_gb=0.5, training_peak_memory_gb=1.0 if fast else 1.75)
    page = write_page(grid, "table2", cells, place, tmp_path / "docs").read_text()
    assert line_of(page, "HSTU + IntRR")[1:8] == ["3,000", "15,000", "–", "0.50", "1.00", "+150.0 %", "-60.0 %"]
    assert line_of(page, "T5 + IntRR")[1:8] == ["–"] * 7
    assert "| *46,545.5* | *2.65* |  | *+36.4 %* | *-7.0 %* |" in page
    assert "an abacus" in page and not (tmp_path / "docs" / "table2.svg").exists()


def test_latency_by_beam_width(tmp_path):
    grid, path = load_grid("table3")
    place = Workplace(tmp_path, tmp_path)
    for cell in (cells := expand(grid, path)):
        times = {str(beam): beam * (1.0 if "IntRR" in cell.label else 2.5) for beam in cell.beams}
        measured(place, cell, milliseconds=times, users=64, repeats=9)
    page = write_page(grid, "table3", cells, place, tmp_path / "docs").read_text()
    assert line_of(page, "IntRR, N = 32")[1:7] == ["10.0", "15.0", "20.0", "25.0", "30.0", "50.0"]
    assert line_of(page, "times as fast")[1:7] == ["2.50×"] * 6
    assert "| *1.27×* | *1.51×* | *1.78×* | *2.34×* | *2.47×* | *2.93×* |" in page
    assert "64 users a batch, median of 9" in page and (tmp_path / "docs" / "table3.svg").stat().st_size < 100_000


def test_every_command_of_a_page_names_one_row(tmp_path):
    for name in ("table1", "table2", "table3", "table4", "lambda"):
        grid, path = load_grid(name)
        cells = expand(grid, path)
        page = write_page(grid, name, cells, Workplace(tmp_path, tmp_path), tmp_path).read_text()
        wanted = re.findall(rf"^\|.*`python -m benchmarks.tables {name} --only (\S+)`", page, re.MULTILINE)
        assert [cell.name for pattern in wanted for cell in select(cells, [pattern])] == [cell.name for cell in cells]


def test_the_published_improvements_are_the_papers_own_arithmetic():
    grid, _ = load_grid("table1")
    for by_indexer in grid.published.values():
        for rows in by_indexer.values():
            for model in grid.models:
                if model.against and model.label in rows:
                    ours, theirs = rows[model.label], rows[model.against]
                    ratios = [a / b for a, b in zip(ours[:4], theirs[:4], strict=True)]
                    assert 100 * np.mean(ratios) - 100 == pytest.approx(ours[4], abs=0.75)
