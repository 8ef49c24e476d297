"""Features of every kind reach the list: `evaluate`, `recommend` and `serve` give one list, from one run and its bundle."""

import json
from itertools import pairwise

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import load_recipe
from intrr_rec.data.dataset import Dataset
from intrr_rec.errors import DataError
from intrr_rec.evaluation.results import evaluate_run
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.serving.recommender import Recommender
from intrr_rec.serving.words import Features
from intrr_rec.training.trainer import train
from tests.data.features import rich
from tests.tiny import SMALL


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rich")


@pytest.fixture(scope="module")
def line(folder):
    return rich.make_line(folder)


@pytest.fixture(scope="module")
def run(line, folder):
    words = ("train.epochs=4", "train.learning_rate=0.05", "evaluate.beam=12", "evaluate.exclude_seen=false")
    train(load_recipe(None, [*SMALL, *words]), out=folder / "run", **line.inputs())
    return folder / "run"


@pytest.fixture(scope="module")
def bundle(run, folder):
    write_bundle(run, folder / "bundle")
    return Bundle.load(folder / "bundle")


EVENT_WORDS = ("action", "rating", "dwell", "app")


@pytest.fixture(scope="module")
def people(folder):
    """Rows of the logs by user, and what the user table says of each."""
    logs = pq.read_table(folder / "logs.parquet").to_pylist()
    users = {row["user_id"]: row for row in csv.read_csv(folder / "users.csv").to_pylist()}
    by_user: dict = {}
    for row in sorted(logs, key=lambda row: row["timestamp"]):
        by_user.setdefault(row["user_id"], []).append(row)
    return by_user, users


def said(rows, user):
    """The history before the last event in the user's own words, and the last one's as the context."""
    events = [{name: row[name] for name in EVENT_WORDS} for row in rows]
    about = {name: user[name] for name in ("country", "member")} if user else {}
    return Features(events[:-1], about, {"action": events[-1]["action"]})


def evaluated_lists(run):
    evaluate_run(run, ())
    table = pq.read_table(run / "recommendations")
    columns = (table[name].to_pylist() for name in ("user_id", "item_ids", "scores"))
    return {user: (items, scores) for user, items, scores in zip(*columns, strict=True)}


def test_words_give_the_list_of_evaluate(run, bundle, people):
    by_user, users = people
    recommender, evaluated = Recommender(bundle), evaluated_lists(run)
    assert set(evaluated) == set(by_user)
    ids = list(evaluated)
    histories = [bundle.items.dense([str(row["item_id"]) for row in by_user[user][:-1]]) for user in ids]
    times = [[row["timestamp"] for row in by_user[user]] for user in ids]
    features = [said(by_user[user], users.get(user)) for user in ids]
    found = recommender.recommend(histories, 12, times=times, features=features)
    for user, best in zip(ids, found, strict=True):
        assert bundle.items.own(best.items) == [str(item) for item in evaluated[user][0]]
        assert best.scores == pytest.approx(evaluated[user][1], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"action": "like"},
        {"rating": 1},
        {"dwell": 99},
        {"app": True},
    ],
)
def test_each_feature_of_an_event_moves_the_scores(bundle, people, change):
    rows = people[0][3]
    history, times = bundle.items.dense([str(row["item_id"]) for row in rows]), [row["timestamp"] for row in rows]
    without = [{name: row[name] for name in EVENT_WORDS if name not in change} for row in rows]
    recommender = Recommender(bundle)
    scores = [
        recommender.recommend([history], 12, times=[[*times, times[-1]]], features=[Features(events)])[0].scores
        for events in (without, [words | change for words in without])
    ]
    assert scores[0] != pytest.approx(scores[1], abs=1e-6)
