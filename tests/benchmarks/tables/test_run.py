"""Cells are made once, resumed, shared between processes, and do not stop one another."""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.tables import run
from benchmarks.tables.__main__ import app
from benchmarks.tables.cells import Workplace, expand
from benchmarks.tables.grid import load_grid
from benchmarks.tables.reproduce import Options, reproduce
from benchmarks.tables.run import run_cells
from intrr_rec import cli
from intrr_rec.runs.records import read_run
from tests.benchmarks.tables.mini import GRID, lay_out, write
from tests.distributed.launch import environment

TRAIN, FIND = run.train, run.find_tables


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Names of the run folders in the order `train` was called for them."""
    calls: list[str] = []

    def counted(recipe, *, out, **inputs):
        calls.append(f"{out.parent.name}/{out.name}")
        return TRAIN(recipe, out=out, **inputs)

    monkeypatch.setattr(run, "train", counted)
    return calls


def workplace(folder: Path) -> Workplace:
    return Workplace(folder / "raw", folder / "work")


def test_artefacts_and_runs_are_made_once(tmp_path, trained):
    grid, place = lay_out(tmp_path), workplace(tmp_path)
    cells = expand(*load_grid(str(grid)))
    assert [place.state(cell) for cell in cells] == ["missing", "missing"]
    assert [outcome.what for outcome in run_cells(cells, place)] == ["done", "done"]
    assert trained == ["paper-hstu/seed0", "paper-hstu,user_side=soft/seed0"]
    assert [place.state(cell) for cell in cells] == ["finished", "finished"]
    assert [outcome.what for outcome in run_cells(cells, place)] == ["finished", "finished"]
    assert len(trained) == 2
    assert "device" in json.loads((place.folder(cells[0]) / run.MACHINE).read_text())

    # Results of other settings count as nothing, and are not overwritten.
    with open(tmp_path / "paper.yaml", "a") as recipe:
        recipe.write("prepare: {min_sequence: 4}\n")
    changed = expand(*load_grid(str(grid)))
    assert place.state(changed[0]) == "changed"
    (outcome,) = run_cells(changed[:1], place)
    assert outcome.what == "failed" and "remove it, or choose another --work" in outcome.why


def test_rows_that_filter_the_history_otherwise_share_a_training(tmp_path, trained):
    models = [
        {"label": "filtered", "recipe": "paper.yaml", "set": ["evaluate.exclude_seen=true"]},
        {"label": "not filtered", "recipe": "paper.yaml"},
        {"label": "soft", "recipe": "paper.yaml", "set": ["model.user_side=soft"]},
    ]
    path = lay_out(tmp_path, models=models, published={})
    grid, place = load_grid(str(path)), workplace(tmp_path)
    cells = expand(*grid)
    assert [outcome.what for outcome in run_cells(cells, place)] == ["done"] * 3
    assert trained == [
        f"{name}/seed0" for name in ("paper-hstu,evaluate.exclude_seen=true", "paper-hstu,user_side=soft")
    ]
    assert [place.state(cell) for cell in cells] == ["finished"] * 3
    shared, own = read_run(place.folder(cells[1])).results, Workplace(place.data, tmp_path / "apart")
    assert shared.test != read_run(place.folder(cells[0])).results.test
    # Where it is trained by itself, to the same number of epochs, it comes to the same.
    run_cells(cells[1:2], own)
    assert len(trained) == 3
    alone = read_run(own.folder(cells[1])).results
    assert alone.test == shared.test and alone.best_epoch == shared.best_epoch


def test_an_interrupted_run_goes_on(tmp_path, trained, monkeypatch):
    grid, place = lay_out(tmp_path), workplace(tmp_path)
    (cell, _) = expand(*load_grid(str(grid)))
    counted = run.train

    def killed(recipe, *, out, **inputs):
        short = recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": 1})})
        TRAIN(short, out=out, **inputs)
        (out / "results.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        run_cells([cell], place)
    assert place.state(cell) == "interrupted"
    monkeypatch.setattr(run, "train", counted)
    assert run_cells([cell], place)[0].what == "done"
    epochs = [json.loads(line) for line in (place.folder(cell) / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in epochs if line["split"] == "valid"] == [1, 2]


def test_a_locked_cell_is_left_to_its_holder_and_the_lock_dies_with_it(tmp_path, trained):
    grid, place = lay_out(tmp_path), workplace(tmp_path)
    cells = expand(*load_grid(str(grid)))
    lock = place.folder(cells[0]).parent / ".seed0.making"
    lock.parent.mkdir(parents=True)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import fcntl\nf = open({str(lock)!r}, 'w')\nfcntl.flock(f, 2)\nprint(1, flush=True)\ninput()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout and holder.stdout.readline()
        assert [outcome.what for outcome in run_cells(cells, place)] == ["taken", "done"]
    finally:
        holder.kill()
        holder.wait()
    assert [outcome.what for outcome in run_cells(cells, place)] == ["done", "finished"]


def test_a_lock_is_free_again_after_its_block(tmp_path):
    with ExitStack() as held:
        assert run._lock(tmp_path / "cell", held, wait=False)
        with ExitStack() as second:
            assert not run._lock(tmp_path / "cell", second, wait=False)
    with ExitStack() as held:
        assert run._lock(tmp_path / "cell", held, wait=False)


def test_one_failure_does_not_stop_the_others(tmp_path, trained, monkeypatch, capsys):
    models = [
        {"label": "new", "recipe": "paper.yaml", "set": ["model.kind=tomorrows"]},
        {"label": "broken", "recipe": "paper.yaml", "set": ["model.window=6"]},
        {"label": "IntRR", "recipe": "paper.yaml"},
    ]
    grid = lay_out(tmp_path, models=models, published={})
    inner = run.train

    def failing(recipe, **inputs):
        if recipe.model.window == 6:
            raise ZeroDivisionError("in [/kernels/backward.cu]")  # brackets are not markup
        return inner(recipe, **inputs)

    monkeypatch.setattr(run, "train", failing)
    words = [str(grid), "--data", "raw", "--work", "work", "--docs", "docs"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tables", *words])
    with pytest.raises(SystemExit) as stop:
        cli.run_app(app, "tables")
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "tomorrows" in said and "[/kernels/backward.cu]" in said and "done" in said


def test_an_artefact_that_cannot_be_made_is_tried_once(tmp_path, monkeypatch):
    grid, place = lay_out(tmp_path), Workplace(tmp_path / "nowhere", tmp_path / "work")
    cells = expand(*load_grid(str(grid)))
    tried: list[int] = []
    monkeypatch.setattr(run, "find_tables", lambda *found: (tried.append(1), FIND(*found))[1])
    outcomes = run_cells(cells, place)
    assert [outcome.what for outcome in outcomes] == ["failed", "failed"]
    assert "logs.parquet: no such file" in outcomes[1].why and "--data" in outcomes[1].why
    assert len(tried) == 1


def test_ids_of_other_settings_are_not_used(tmp_path, trained):
    grid, place = lay_out(tmp_path), workplace(tmp_path)
    run_cells(expand(*load_grid(str(grid)))[:1], place)
    words = ["index.method=rk_means", "index.levels=2", "index.codes=6", "index.dedup_codes=8", "prepare.k_core=1"]
    other = write(tmp_path, "other.yaml", GRID | {"indexers": {"rk_means": words}})
    (outcome,) = run_cells(expand(*load_grid(str(other)))[1:], place)
    assert outcome.what == "failed" and "was made with codes 5, the grid wants 6" in outcome.why


@pytest.mark.slow
def test_two_ranks_go_through_the_same_cells(tmp_path):
    grid = lay_out(tmp_path)
    words = [str(grid), "--data", "raw", "--work", "work", "--docs", "docs"]
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        "-m",
        "benchmarks.tables",
    ]
    done = subprocess.run(
        [*launcher, *words], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for cell in expand(*load_grid(str(grid))):
        results = json.loads((workplace(tmp_path).folder(cell) / "results.json").read_text())
        assert results["world_size"] == 2


@pytest.mark.slow
def test_latency_is_measured_in_a_process_of_its_own(tmp_path):
    too_many = ["evaluate.batch_users=500"]
    models = [{"label": "IntRR", "recipe": "paper.yaml", "set": ["evaluate.batch_users=4"]}]
    models += [{"label": "broken", "recipe": "paper.yaml", "set": too_many}]
    grid = lay_out(tmp_path, measure="latency", beams=[2, 5], models=models, published={})
    options = Options(str(grid), (), tmp_path / "raw", tmp_path / "work", tmp_path / "docs", None, False, False)
    assert reproduce(options) == 1
    cells, place = expand(*load_grid(str(grid))), workplace(tmp_path)
    assert [place.state(cell) for cell in cells] == ["finished", "interrupted"]
    assert "fewer than 500 × 8 events" in run_cells(cells[1:], place)[0].why
    page = (tmp_path / "docs" / "grid.md").read_text()
    assert "1 of 2 rows" in page and "4 users a batch" in page
    # More beams than were measured: measured again, not refused.
    wider = GRID | {"measure": "latency", "beams": [2, 5, 3], "models": models, "published": {}}
    (cell, _) = expand(*load_grid(str(write(tmp_path, "grid.yaml", wider))))
    assert place.state(cell) == "changed"
    assert run_cells([cell], place)[0].what == "done" and place.state(cell) == "finished"


@pytest.mark.slow
def test_training_is_measured_in_a_process_of_its_own(tmp_path):
    grid = lay_out(tmp_path, measure="training", published={})
    cells, place = expand(*load_grid(str(grid))), workplace(tmp_path)
    assert [outcome.what for outcome in run_cells(cells, place)] == ["done", "done"]
    assert "users_per_second" in json.loads((place.folder(cells[0]) / "figures.json").read_text())
