"""What a user had in events that a filter drops counts as seen: evaluated, recommended and measured as such."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.data.repeats import share_of_repeats
from intrr_rec.data.seen import SEEN, Seen
from intrr_rec.errors import ArtefactError
from intrr_rec.evaluation.results import evaluate_run
from intrr_rec.io.stores.storage import Folder
from intrr_rec.promotion.compare_on import compare_on
from intrr_rec.serving.batch.event_source import events_for
from intrr_rec.serving.batch.histories import DatasetSource
from intrr_rec.serving.batch.recommend import PARTS, Options, recommend_all
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.serving.filters import Filters
from intrr_rec.serving.recommender import Recommender
from intrr_rec.training.trainer import train
from tests import tiny

LIKED = {"4": 1, "5": 1}


def rated(users=30, length=9, items=20, seed=0):
    """Logs of films, each rated once by a user, in an order of rows that is not that of time."""
    rng = np.random.default_rng(seed)
    rows = {
        "user_id": np.repeat(np.arange(users), length),
        "item_id": np.concatenate([rng.permutation(items)[:length] for _ in range(users)]),
        "timestamp": np.tile(np.arange(length), users),
        "rating": rng.integers(1, 6, users * length),
    }
    order = rng.permutation(users * length)
    return {name: column[order] for name, column in rows.items()}


def config(**more):
    return PrepareConfig(k_core=1, event_column="rating", event_weights=LIKED, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("rated")


@pytest.fixture(scope="module")
def line(folder):
    return tiny.line_of(folder, rated(), 20, config(), np.random.default_rng(0))


def by_user(logs):
    rows = sorted(zip(*(logs[name].tolist() for name in ("user_id", "timestamp", "item_id", "rating")), strict=True))
    found = {}
    for user, _, item, rating in rows:
        found.setdefault(user, []).append((item, rating))
    return found


def test_what_was_dropped_is_kept_with_its_place_in_the_history(line):
    data = Dataset.open(line.dataset)
    items, users = data.item_ids().to_pylist(), data.user_ids().to_pylist()
    everything = by_user(rated())
    for place, user in enumerate(users):
        known, liked = set(), 0
        for item, rating in everything[user]:
            if rating < 4 and item in items:
                known.add((item, liked))
            liked += rating >= 4
        span = slice(data.seen.offsets[place], data.seen.offsets[place + 1])
        found = {
            (items[item], int(n)) for item, n in zip(data.seen.item_P[span], data.seen.before_P[span], strict=True)
        }
        assert found == known


def test_a_dataset_of_all_events_holds_no_such_table(tmp_path):
    line = tiny.make_line(tmp_path)
    assert not (line.dataset / SEEN).exists() and Dataset.open(line.dataset).seen is None


@pytest.mark.parametrize(
    "columns",
    [
        {"user": [0], "item": ["x"], "before": [0]},
        {"user": [0], "item": [None], "before": [0]},
        {"user": [0], "item": [0]},
        {"user": [0], "item": [20], "before": [0]},
        {"user": [-1], "item": [0], "before": [0]},
        {"user": [0, 30], "item": [0, 0], "before": [0, 0]},
        {"user": [1, 0], "item": [0, 0], "before": [0, 0]},
        {"user": [0, 0], "item": [1, 0], "before": [0, 0]},
        {"user": [0.5], "item": [0], "before": [0]},
        None,
    ],
)
def test_a_forged_table_is_one_line(tmp_path, columns):
    if columns is None:
        (tmp_path / SEEN).write_text("PAR1" * 10)
    else:
        pq.write_table(pa.table(columns), tmp_path / SEEN)
    with pytest.raises(ArtefactError, match=r"seen\.parquet: .*; prepare the logs again$"):
        Seen.read(Folder.at(tmp_path), 30, 20)


@pytest.fixture(scope="module")
def bundle(line, folder):
    words = ("train.epochs=2", "evaluate.exclude_seen=true", "evaluate.beam=20", "model.window=4")
    train(tiny.recipe(*words), **line.inputs(), out=folder / "run")
    write_bundle(folder / "run", folder / "bundle")
    return Bundle.load(folder / "bundle")


def lists(out):
    found = {}
    for row in pq.read_table(out).to_pylist():
        if "item_ids" in row:
            found[row["user_id"]] = set(row["item_ids"])
        else:
            found.setdefault(row["user_id"], set()).add(row["item_id"])
    return found


def test_nobody_gets_what_he_disliked(bundle, line, folder, tmp_path):
    """Evaluated: all that came before the target. In a batch over the dataset: the same. Over the raw table: all."""
    evaluate_run(folder / "run", ())
    evaluated = lists(folder / "run" / "recommendations")
    recommend_all(bundle, DatasetSource(line.dataset, 1), tmp_path / "dataset", Options(k=20, beam=20))
    recommend_all(bundle, events_for(bundle, folder / "logs.parquet", ()), tmp_path / "events", Options(k=20, beam=20))
    batch, raw = lists(tmp_path / "dataset" / PARTS), lists(tmp_path / "events" / PARTS)
    catalogue = set(Dataset.open(line.dataset).item_ids().to_pylist())
    for user, events in by_user(rated()).items():
        if user not in evaluated:
            assert sum(rating >= 4 for _, rating in events) < 3
            continue
        target = max(place for place, (_, rating) in enumerate(events) if rating >= 4)
        before = {item for item, _ in events[:target]}
        assert evaluated[user] == batch[user] == catalogue - before
        assert raw[user] == catalogue - {item for item, _ in events}


def test_models_are_compared_on_users_without_what_they_disliked(bundle, line, folder):
    found = compare_on(line.dataset, [folder / "run", folder / "bundle"], 0, None)
    measured = json.loads((folder / "run" / "results.json").read_text())["test"]
    for model in found["models"]:
        assert model["metrics"] == {name: pytest.approx(measured[name]) for name in model["metrics"]}


def test_python_is_told_what_was_seen_beside_the_history(bundle):
    recommender, everything = Recommender(bundle), range(bundle.n_items)
    (best,) = recommender.recommend([[0, 1]], 20, filters=Filters(seen=[2, 3]))
    assert sorted(best.items) == list(everything)[4:]
    (best,) = recommender.recommend([[0, 1]], 20, filters=Filters(exclude_seen=False, seen=[2, 3]))
    assert sorted(best.items) == list(everything)


@pytest.mark.parametrize(("first", "share"), [("view", 1.0), ("buy", 0.0)])
def test_a_shop_whose_people_buy_what_they_viewed_excludes_nothing_by_default(tmp_path, first, share):
    """Each thing is viewed before it is bought, or after: what was viewed before it was bought is a repeat."""
    user, item = np.divmod(np.arange(60), 6)
    kinds = [first, "buy" if first == "view" else "view"]
    logs = {
        "user_id": np.repeat(user, 2),
        "item_id": np.repeat(item, 2),
        "timestamp": np.arange(120),
        "kind": kinds * 60,
    }
    pq.write_table(pa.table(logs), tmp_path / "logs.parquet")
    settings = PrepareConfig(k_core=1, event_column="kind", event_weights={"buy": 1})
    prepare_dataset([tmp_path / "logs.parquet"], None, tmp_path / "dataset", settings)
    assert share_of_repeats(Dataset.open(tmp_path / "dataset")) == share
