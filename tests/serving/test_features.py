"""Features of every kind reach the list: `evaluate`, `recommend` and `serve` give one list, from one run and its bundle."""

import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import load_recipe
from intrr_rec.data.features.columns import MISSING, UNKNOWN
from intrr_rec.errors import DataError
from intrr_rec.evaluation.results import evaluate_run
from intrr_rec.serving.batch.event_source import events_for
from intrr_rec.serving.batch.histories import DatasetSource
from intrr_rec.serving.batch.recommend import PARTS, Options, recommend_all
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.serving.recommender import Recommender
from intrr_rec.serving.words import Features, numbers_of
from intrr_rec.training.trainer import train
from tests.data.features import rich
from tests.serving.fuzz import Fuzzer
from tests.serving.process import serving
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


def batch_lists(out):
    written = pq.read_table(out / PARTS).sort_by([("user_id", "ascending"), ("rank", "ascending")])
    lists: dict = {}
    for row in written.select(["user_id", "item_id", "score"]).to_pylist():
        items, scores = lists.setdefault(row["user_id"], ([], []))
        items.append(row["item_id"])
        scores.append(row["score"])
    return lists


def test_a_batch_over_the_dataset_gives_the_lists_of_evaluate(run, bundle, line, tmp_path):
    recommend_all(bundle, DatasetSource(line.dataset, 1), tmp_path / "out", Options(k=12, shard_users=16, batch=5))
    evaluated, found = evaluated_lists(run), batch_lists(tmp_path / "out")
    assert set(found) == set(evaluated)
    for user, (items, scores) in evaluated.items():
        assert found[user][0] == items and found[user][1] == pytest.approx(scores, rel=1e-4, abs=1e-4)


def test_a_batch_over_raw_tables_gives_the_lists_of_words(bundle, people, folder, tmp_path):
    by_user, users = people
    csv.write_csv(pq.read_table(folder / "logs.parquet"), tmp_path / "logs.csv")
    source = events_for(bundle, tmp_path / "logs.csv", (), folder / "users.csv")
    options = Options(k=12, shard_users=16, context={"action": "buy"})
    recommend_all(bundle, source, tmp_path / "out", options)
    found = batch_lists(tmp_path / "out")
    assert set(found) == set(by_user)
    for user, rows in by_user.items():
        history = bundle.items.dense([str(row["item_id"]) for row in rows])
        times = [*(row["timestamp"] for row in rows), rows[-1]["timestamp"]]
        about = {name: users[user][name] for name in ("country", "member")} if user in users else {}
        described = Features([{name: row[name] for name in EVENT_WORDS} for row in rows], about, {"action": "buy"})
        best = Recommender(bundle).recommend([history], 12, times=[times], features=[described])[0]
        assert [str(item) for item in found[user][0]] == bundle.items.own(best.items)
        assert found[user][1] == pytest.approx(best.scores, rel=1e-4, abs=1e-4)


def test_a_column_of_a_feature_that_events_lack_is_refused(bundle, folder, tmp_path):
    pq.write_table(pq.read_table(folder / "logs.parquet").drop(["action"]), tmp_path / "logs.parquet")
    with pytest.raises(DataError, match="action"):
        recommend_all(bundle, events_for(bundle, tmp_path / "logs.parquet", ()), tmp_path / "out", Options(k=12))


def test_a_context_that_is_none_is_refused_before_any_work(bundle, line, tmp_path):
    options = Options(k=12, context={"acton": "buy"})
    with pytest.raises(DataError, match=r"context: no such feature 'acton'; did you mean 'action'\?"):
        recommend_all(bundle, DatasetSource(line.dataset, 0), tmp_path / "out", options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (Features([{"actoin": "buy"}]), "history.0: no such feature 'actoin'; did you mean 'action'?"),
        (Features([{"dwell": "long"}]), "history.0.dwell: not a number 'long'; give a number, or leave it out"),
        (Features([{"dwell": [1, 2]}]), "history.0.dwell: several values '[1, 2]'; give one"),
        (Features([{"price": 1}]), "history.0: no such feature 'price'; there is action, app, dwell, rating"),
        (Features(user={"contry": "DE"}), "user: no such feature 'contry'; did you mean 'country'?"),
        (
            Features(user={"member": "perhaps"}),
            "user.member: not true or false 'perhaps'; give true or false, or leave it out",
        ),
        (Features(context={"dwell": 3}), "context: no such feature 'dwell'; there is action"),
        (Features([{}, {}]), "features: 2 events are described, the history has 1"),
    ],
)
def test_what_cannot_be_is_refused(bundle, described, message):
    with pytest.raises(DataError) as caught:
        Recommender(bundle).recommend([[1]], 5, times=[[0, 0]], features=[described])
    assert str(caught.value) == message


def test_a_value_that_training_never_saw_has_a_number_of_its_own(bundle):
    space = bundle.space
    words = [Features([{"action": value}]) for value in ("never seen", None, "buy")]
    place = [column.name for column in space.of("event")].index("action")
    numbers = [numbers_of(space, each, 1, [0, 0]).event_EF[0, place] for each in words]
    assert numbers[:2] == [UNKNOWN, MISSING] and numbers[2] > UNKNOWN


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


@pytest.fixture(scope="module")
def server(bundle):
    with serving(bundle.path) as running:
        yield running


def request(rows, user, **more):
    """The history before the last event, as a client writes it."""
    events = [
        {"item": row["item_id"], "time": row["timestamp"]} | {n: row[n] for n in EVENT_WORDS} for row in rows[:-1]
    ]
    about = {name: user[name] for name in ("country", "member")} if user else {}
    asked = {"action": rows[-1]["action"]}
    return {"history": events, "user": about, "context": asked, "time": rows[-1]["timestamp"], "k": 12} | more


def test_the_server_gives_the_lists_of_evaluate(run, server, people):
    by_user, users = people
    evaluated = evaluated_lists(run)
    asked = [
        lambda rows=rows, user=user: server.recommend(**request(rows, users.get(user)))
        for user, rows in by_user.items()
    ]
    for user, answer in zip(by_user, server.together(asked), strict=True):
        items, scores = evaluated[user]
        assert [item["item"] for item in answer.body["items"]] == [str(item) for item in items]
        assert [item["score"] for item in answer.body["items"]] == pytest.approx(scores, rel=1e-4, abs=1e-4)


def test_the_server_tells_what_may_be_named(server):
    found = {each["name"]: each for each in server.ask("GET", "/bundle").body["features"]}
    assert set(found) == {"action", "app", "dwell", "rating", "country", "member"}
    assert found["action"] == {
        "name": "action", "of": "event", "context": True, "kind": "categorical", "values": found["action"]["values"],
    }  # fmt: skip
    assert set(found["action"]["values"]) == set(rich.ACTIONS) and found["country"]["of"] == "user"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"history": [{"item": 1, "time": 0, "actoin": "SECRET"}]},
            "history.0: no such feature; did you mean 'action'?",
        ),
        (
            {"history": [{"item": 1, "time": 0, "dwell": "SECRET"}]},
            "history.0.dwell: not a number; give a number, or leave it out",
        ),
        (
            {"history": [{"item": 1, "time": 0, "dwell": ["SECRET"]}]},
            "history.0: a value is text, a number, true or false",
        ),
        (
            {"history": [{"item": 1, "time": 0}, 2]},
            "history: some events have a time and some have none; give all or none",
        ),
        ({"history": [{"item": 1}]}, "timestamps: this model reads times; give those of the history"),
        ({"history": [{"time": 1}]}, "history.0.item: Field required"),
        ({"user": {"SECRET": "DE"}}, "user: no such feature; there is country, member"),
        ({"user": {"member": "SECRET"}}, "user.member: not true or false; give true or false, or leave it out"),
        ({"context": {"dwell": 3}}, "context: no such feature; there is action"),
    ],
)
def test_the_server_refuses_what_cannot_be_and_repeats_nothing(server, people, change, message):
    answer = server.recommend(**(request(people[0][3], None) | change))
    assert (answer.status, answer.body["error"]) == (422, message)


def test_an_unseen_value_is_answered(server, people):
    rows = people[0][3]
    body = request(rows, {"country": "Atlantis", "member": True})
    body["history"][0]["action"] = "never seen"
    assert server.recommend(**body).status == 200


@pytest.mark.slow
def test_malformed_requests_with_features_give_no_5xx(bundle):
    with serving(bundle.path) as server:
        statuses = Fuzzer(server, 0).run(600)
        assert not [status for status in statuses if status >= 500], statuses
        assert statuses[200] > 30 and statuses[422] > 30, "neither all right nor all wrong"
        assert not [line for line in server.log if "Traceback" in line or "ERROR" in line]
