"""`intrr compare --on`: yesterday's and today's models on today's users, against a slow reference that follows the definition."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from intrr_rec.cli import app
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.mapped_users import map_users
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.promotion.compare_on import COLD_EVENTS, compare_on
from intrr_rec.serving.recommender import Recommender
from tests import tiny
from tests.promotion.days import Days, make_days


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Days:
    return make_days(tmp_path_factory.mktemp("days"))


def reference(bundle: Path, dataset: Dataset) -> list[int]:
    """The place of each test user's target in a bundle's list, 0 where missed: one user at a time, by own ids."""
    recommender, ids = Recommender.open(bundle), dataset.item_ids().to_pylist()
    own = {recommender.bundle.items.own([n])[0]: n for n in range(recommender.bundle.n_items)}
    ranks = []
    for user, event in zip(*dataset.targets("test"), strict=True):
        history = [str(ids[item]) for item in dataset.items_E[dataset.offsets[user] : event]]
        found = recommender.recommend([[own[item] for item in history if item in own]], 20, 20)[0].items
        target = str(ids[dataset.items_E[event]])
        ranks.append(found.index(own[target]) + 1 if own.get(target) in found else 0)
    return ranks


def test_bundles_of_two_days_rank_todays_users_by_own_ids(days: Days, tmp_path: Path) -> None:
    dataset = Dataset.open(days.line.dataset)
    found = compare_on(days.line.dataset, days.bundles[::-1], 0, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == found
    for model, bundle in zip(found["models"], days.bundles[::-1], strict=True):
        ranks = reference(bundle, dataset)
        assert model["metrics"]["recall@10"] == pytest.approx(np.mean([1 <= rank <= 10 for rank in ranks]))
        targets = dataset.items_E[dataset.targets("test")[1]]
        cold = dataset.popularity()[targets] < COLD_EVENTS
        cold_ranks = np.array(ranks)[cold]
        assert found["cold_users"] == cold.sum() > 0
        assert model["cold"]["recall@10"] == pytest.approx(((cold_ranks >= 1) & (cold_ranks <= 10)).mean())
    today, yesterday = found["models"]
    assert (found["items"], today["known_items"], yesterday["known_items"]) == (26, 26, 24)
    is_new = dataset.items_E[dataset.targets("test")[1]] >= 24
    assert (today["unknown_targets"], yesterday["unknown_targets"]) == (0, pytest.approx(is_new.mean()))
    assert is_new.any()
    difference = found["first_less_than"][0]["metrics"]["recall@10"]["difference"]
    assert difference == pytest.approx(today["metrics"]["recall@10"] - yesterday["metrics"]["recall@10"])


@pytest.mark.parametrize("kind", ["intrr", "neighbours", "sasrec"])
def test_a_run_ranks_its_own_users_as_it_was_evaluated(kind: str, tmp_path: Path) -> None:
    words = {
        "intrr": (),
        "sasrec": ("model.kind=sasrec", "model.sasrec={width: 16}"),
        "neighbours": (
            "model.dense.weight=0.5",
            "model.dense.negatives=8",
            "evaluate.rank_by=sid_dense_and_neighbours",
            "evaluate.pool=beam_and_dense",
            "model.neighbours.kept=6",
            "evaluate.exclude_seen=true",
        ),
    }[kind]
    from intrr_rec.training.trainer import train

    line = tiny.make_line(tmp_path)
    for name in ("one", "two"):
        seed = f"train.seed={len(name) + (name == 'two')}"
        train(tiny.recipe("train.epochs=1", seed, *words), out=tmp_path / name, **line.inputs())
    found = compare_on(line.dataset, [tmp_path / "one", tmp_path / "two"], 0, None)
    for name, model in zip(("one", "two"), found["models"], strict=True):
        measured = json.loads((tmp_path / name / "results.json").read_text())
        assert model["metrics"] == {key: pytest.approx(measured["test"][key]) for key in model["metrics"]}
        assert model["coverage@10"] == pytest.approx(measured["beyond_accuracy"]["coverage@10"])


def test_a_run_and_its_bundle_agree_on_another_days_users(days: Days) -> None:
    found = compare_on(days.line.dataset, [days.yesterday, days.bundles[0], days.today, days.bundles[1]], 0, None)
    figures = [model["metrics"] for model in found["models"]]
    assert figures[0] == pytest.approx(figures[1]) and figures[2] == pytest.approx(figures[3])
    assert figures[0] != figures[2]
    assert [model["kind"] for model in found["models"]] == ["run", "bundle"] * 2


def test_users_are_mapped_event_by_event(days: Days) -> None:
    dataset = Dataset.open(days.line.dataset)
    users, events = dataset.targets("test")
    place_I = np.where(np.arange(dataset.n_items) % 3 == 0, -1, np.arange(dataset.n_items) // 2)
    mapped = map_users(dataset, users, events, place_I)
    there = {int(place): n for n, place in enumerate(mapped.place_U)}
    for number, (user, event) in enumerate(zip(users, events, strict=True)):
        history = dataset.items_E[dataset.offsets[user] : event]
        known = [int(place_I[item]) for item in history if item % 3]
        assert (number in there) == bool(known)
        if known:
            span = slice(*mapped.offsets[there[number] : there[number] + 2])
            target = max(int(place_I[dataset.items_E[event]]), 0)
            assert mapped.items_E[span].tolist() == [*known, target]
            assert mapped.timestamps_E is not None and dataset.timestamps_E is not None
            assert mapped.timestamps_E[span][-1] == dataset.timestamps_E[event]


def test_mistakes_are_one_line(days: Days, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give at least two --run"):
        compare_on(days.line.dataset, [days.today], 0, None)
    with pytest.raises(ArtefactError, match="is not a run folder"):
        compare_on(days.line.dataset, [days.today, tmp_path], 0, None)
    with pytest.raises(ArtefactError, match="no such dataset"):
        compare_on(tmp_path / "none", [days.today, days.yesterday], 0, None)
    (tmp_path / "other").mkdir()
    other = tiny.line_of(
        tmp_path / "other",
        {"user_id": [1, 1, 1, 2, 2, 2], "item_id": [90, 91, 92, 92, 91, 90], "timestamp": [1, 2, 3] * 2},
        100,
        tiny.PrepareConfig(k_core=1),
        np.random.default_rng(0),
        tiny.IndexConfig(levels=2, codes=2, dedup_codes=8, iterations=2, gate={"max_collision_rate": None}),
    )
    with pytest.raises(ArtefactError, match=r"knows no item of .*such as 90; compare models of one catalogue"):
        compare_on(other.dataset, [days.today, days.yesterday], 0, None)


def test_the_verb_says_growth_and_difference(days: Days) -> None:
    words = ["compare", "--on", str(days.line.dataset), "--run", str(days.bundles[1]), "--run", str(days.bundles[0])]
    said = CliRunner().invoke(app, words, env={"COLUMNS": "200"}).output
    for text in ("version 2", "26 of 26 items", "24 of 26 items", "not in its catalogue", "A - B", "ndcg@10"):
        assert text in said, said
