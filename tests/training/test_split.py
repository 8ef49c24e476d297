"""A run on a dataset split in time: who has no target is left out, and nothing after the first moment is learnt from. And a run on a
range of time, whatever the split."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from intrr_rec.data.dataset import Dataset
from intrr_rec.data.loading.windows import Windows
from intrr_rec.errors import ConfigError, DataError
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


SINCE, UNTIL = 4, 10


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tiny.Line:
    return tiny.make_line(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("words", [(), ("model.kind=tiger",), ("train.loader.pool_events=90",)])
def test_events_of_the_range_are_the_targets_and_none_after_it_is_read(
    plain: tiny.Line, words: tuple[str, ...]
) -> None:
    asked = (f"train.since={SINCE}", f"train.until={UNTIL}")
    inputs = open_inputs(tiny.recipe(*words, *asked), **plain.inputs())
    data = inputs.dataset
    found = inputs.training_windows()
    assert len(data.events.groups) == 1  # more of them: tests/data/loading/test_streaming.py
    windows = found if isinstance(found, Windows) else found.windows_of(0)
    place_M = windows.start_M - data.offsets[windows.user_M]
    targets, read = [], (place_M + windows.length_M).tolist()
    for user, place, length, scored in zip(
        windows.user_M, place_M, windows.length_M, windows.first_scored_M, strict=True
    ):
        targets += [(user, place + position + 1) for position in range(scored, length)]
    lengths_U = np.diff(data.offsets)  # the n-th event of a user, from 0, happens at n
    wanted = [(user, n) for user, length in enumerate(lengths_U) for n in range(SINCE, min(length - 2, UNTIL))]
    assert sorted(targets) == wanted and len(wanted) > 50
    assert max(read) == UNTIL - 1  # the target of its last position is the last event of the range


def test_what_comes_after_the_range_is_not_counted_and_is_evaluated_all_the_same(
    plain: tiny.Line, tmp_path: Path
) -> None:
    inputs = open_inputs(tiny.recipe(f"train.until={UNTIL}"), **plain.inputs())
    data = inputs.dataset
    lengths_U = np.diff(data.offsets)
    kept = [np.arange(first, first + min(n - 2, UNTIL)) for first, n in zip(data.offsets, lengths_U, strict=False)]
    expected = np.bincount(data.items_E[np.concatenate(kept)], minlength=data.n_items)
    np.testing.assert_array_equal(data.popularity(), expected)
    assert expected.sum() < Dataset.open(plain.dataset).popularity().sum()
    train(tiny.recipe("train.epochs=1", f"train.since={SINCE}", f"train.until={UNTIL}"), **plain.inputs(), out=tmp_path)
    assert [len(read_ranks(tmp_path, split)[0]) for split in ("valid", "test")] == [data.n_users] * 2


@pytest.mark.parametrize(
    ("words", "error", "says"),
    [
        (
            ["train.since=7", "train.until=7"],
            ConfigError,
            "since: no moment lies from 1970-01-01T00:00:07Z on and before",
        ),
        (["train.since=soon"], ConfigError, "'train.since': 'soon' is neither ISO 8601 nor whole seconds"),
        (["train.since=2024-05-01"], DataError, r"train.since \(2024-05-01T00:00:00Z\) leaves nothing to learn"),
        (["train.until=1"], DataError, r"train.until \(1970-01-01T00:00:01Z\) leaves nothing to learn"),
        (["train.since=3", "model.kind=item_knn"], ConfigError, "train.since: model.kind item_knn is not trained"),
    ],
)
def test_a_range_without_targets_is_refused_before_anything_is_written(
    plain: tiny.Line, tmp_path: Path, words: list[str], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        train(tiny.recipe(*words), **plain.inputs(), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_range_needs_times(tmp_path: Path) -> None:
    line = tiny.make_line(tmp_path, times=False)
    with pytest.raises(ConfigError, match=r"train.until: .* has no timestamps; leave the setting out, or prepare the"):
        open_inputs(tiny.recipe("train.until=4"), **line.inputs())
