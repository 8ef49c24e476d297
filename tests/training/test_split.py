"""A run on a dataset split in time: who has no target is left out, and nothing after the first moment is learnt from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from intrr_rec.data.dataset import Dataset
from intrr_rec.evaluation.metrics import as_means, metrics_by_user
from intrr_rec.evaluation.target_ranks import read_ranks
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.serving.bundle.report import bundle_metrics
from intrr_rec.training.trainer import train
from tests import tiny
from tests.training.figures import results

WORDS = ("train.learning_rate=0.01", "train.epochs=1", "model.hstu.time_bias=true")
FIRST, SECOND = 5, 9


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> tiny.Line:
    return tiny.make_line(tmp_path_factory.mktemp("line"), split_at=(FIRST, SECOND))


def test_who_has_no_target_is_left_out_of_every_figure(line: tiny.Line, tmp_path: Path) -> None:
    dataset = Dataset.open(line.dataset)
    lengths_U = np.diff(dataset.offsets)  # the n-th event of a user happens at n
    train(tiny.recipe(*WORDS), **line.inputs(), out=tmp_path / "run")
    found = results(tmp_path / "run")
    for split, moment in (("valid", FIRST), ("test", SECOND)):
        users, rank_B = read_ranks(tmp_path / "run", split)
        assert sorted(users.to_pylist()) == np.flatnonzero(lengths_U > moment).tolist()
        assert 0 < len(users) < dataset.n_users
        means = as_means(metrics_by_user(torch.from_numpy(rank_B)).sum(0), len(users))
        assert means == pytest.approx(found[split], rel=1e-12)
    slices = json.loads((tmp_path / "run" / "results.json").read_text())["slices"]
    assert [(band["from"], band["users"]) for band in slices["history"] if band["users"]] == [(5, len(users))]
    assert sum(band["users"] for band in slices["popularity"]) == len(users)
    write_bundle(tmp_path / "run", tmp_path / "bundle")
    measured = bundle_metrics(Bundle.load(tmp_path / "bundle"), dataset, 7)
    assert measured == pytest.approx(found["test"], abs=1e-9)


@pytest.mark.parametrize("words", [(), ("model.kind=tiger",), ("train.loader.pool_events=90",)])
def test_no_window_of_training_reaches_the_first_moment(line: tiny.Line, words: tuple[str, ...]) -> None:
    inputs = open_inputs(tiny.recipe(*words), **line.inputs())
    expected = np.maximum(0, np.minimum(np.diff(inputs.dataset.offsets), FIRST) - 1).sum()
    assert inputs.training_windows().n_targets == expected > 0
