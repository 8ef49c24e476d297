"""A day more of logs: yesterday's run names the version it learned from and stays usable, in place and after a move."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import IndexConfig, PrepareConfig
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ArtefactError
from intrr_rec.evaluation.results import evaluate_run
from intrr_rec.io.versions import older
from intrr_rec.runs.run_record import input_place, read_run_record
from intrr_rec.semantic_ids.build import build_semantic_ids
from intrr_rec.semantic_ids.extend import extend_semantic_ids
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.training.trainer import train
from tests import tiny

ITEMS = 24  # on the first day


def day(folder: Path, number: int) -> Path:
    """Logs of a day: users who step through the catalogue, which has grown by two items a day."""
    rng, items = np.random.default_rng(number), ITEMS + 2 * number
    start = rng.integers(0, items, 40)
    item = (start[:, None] + np.arange(5)).reshape(-1) % items
    time = 100 * number + np.tile(np.arange(5), 40)
    path = folder / f"day{number}.parquet"
    pq.write_table(pa.table({"user_id": np.repeat(np.arange(40), 5), "item_id": item, "timestamp": time}), path)
    return path


def vectors(folder: Path, number: int) -> None:
    """Those of all items up to a day, under one name."""
    items = ITEMS + 2 * number
    table = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)[:items]
    pq.write_table(pa.table({"item_id": np.arange(items), "embedding": list(table)}), folder / "vectors.parquet")


def first_day(folder: Path) -> tiny.Line:
    line = tiny.Line(folder / "dataset", folder / "semantic_ids", folder / "vectors.parquet")
    prepare_dataset([day(folder, 0)], None, line.dataset, PrepareConfig(k_core=1, keep_rows=True))
    vectors(folder, 0)
    build_semantic_ids(line.dataset, line.vectors, line.semantic_ids, tiny.INDEX)
    return line


def add_day(folder: Path, line: tiny.Line, number: int) -> None:
    prepare_dataset([day(folder, number)], None, line.dataset, PrepareConfig(), append=True)
    vectors(folder, number)
    extend_semantic_ids(line.semantic_ids, line.dataset, line.vectors, line.semantic_ids, IndexConfig())


def figures(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())["test"]


def test_yesterdays_run_stays_usable_and_names_its_version(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    line, run = first_day(project), project / "run"
    train(tiny.recipe("train.epochs=1"), out=run, dataset=line.dataset, semantic_ids=line.semantic_ids, vectors=None)
    measured = figures(run)
    add_day(project, line, 1)
    add_day(project, line, 2)
    record = read_run_record(run)
    assert record.versions == {"dataset": 1, "semantic_ids": 1}
    assert input_place(run, record, "dataset") == str(project / "dataset@1")
    evaluate_run(run, [])
    assert figures(run) == measured
    write_bundle(run, project / "bundle")
    train(
        tiny.recipe("train.epochs=1"),
        out=project / "today",
        dataset=line.dataset,
        semantic_ids=line.semantic_ids,
        vectors=None,
        init_from=run,
    )
    assert read_run_record(project / "today").versions == {"dataset": 3, "semantic_ids": 3}

    project.rename(tmp_path / "moved")
    evaluate_run(tmp_path / "moved" / "run", [])
    assert figures(tmp_path / "moved" / "run") == measured


def test_versions_share_the_rows_as_read(tmp_path: Path) -> None:
    line = first_day(tmp_path)
    add_day(tmp_path, line, 1)
    part = "rows/part-00000.parquet"
    assert (line.dataset / part).stat().st_ino == (tmp_path / "dataset@1" / part).stat().st_ino


def test_a_version_that_is_kept_no_more_is_named(tmp_path: Path) -> None:
    line, run = first_day(tmp_path), tmp_path / "run"
    train(tiny.recipe("train.epochs=1"), out=run, dataset=line.dataset, semantic_ids=line.semantic_ids, vectors=None)
    add_day(tmp_path, line, 1)
    for place in (line.dataset, line.semantic_ids):
        for _, path in older(place):
            shutil.rmtree(path)
    with pytest.raises(ArtefactError, match=r"was rebuilt after .*run was trained on it \(version 1, which is kept no"):
        evaluate_run(run, [])
