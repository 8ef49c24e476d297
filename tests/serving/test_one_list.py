"""One user, one list: `intrr evaluate`, `intrr recommend` and `intrr serve`, from one run and its bundle."""

import pyarrow.parquet as pq
import pytest

from intrr_rec.data.dataset import Dataset
from intrr_rec.evaluation.results import evaluate_run
from intrr_rec.serving.batch.histories import DatasetSource
from intrr_rec.serving.batch.recommend import PARTS, Options, recommend_all
from tests.serving.process import serving
from tests.serving.test_bundle import test_histories

SLOW = ("neighbours", "widened", "content", "time")


@pytest.mark.parametrize("kind", ["path", "t5", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)])
def test_evaluate_recommend_and_serve_give_one_list(kind, runs, bundles, line, tmp_path):
    bundle, dataset = bundles[kind], Dataset.open(line.dataset)
    k = bundle.settings.evaluate.beam
    assert bundle.settings.rows == "float32"

    evaluate_run(runs[kind], ())
    columns = ("user_id", "item_ids", "scores")
    table = pq.read_table(runs[kind] / "recommendations", columns=list(columns))
    evaluated = {
        user: (items, scores)
        for user, items, scores in zip(*(table[name].to_pylist() for name in columns), strict=True)
    }

    recommend_all(bundle, DatasetSource(line.dataset, 1), tmp_path / "out", Options(k=k))
    written = pq.read_table(tmp_path / "out" / PARTS).sort_by([("user_id", "ascending"), ("rank", "ascending")])
    batch: dict = {}
    for row in written.select(["user_id", "item_id", "score"]).to_pylist():
        items, scores = batch.setdefault(row["user_id"], ([], []))
        items.append(row["item_id"])
        scores.append(row["score"])

    users, (histories, times) = dataset.user_ids().to_pylist(), test_histories(dataset)
    with serving(bundle.path) as server:
        asked = [
            lambda h=history, t=moments: server.recommend(
                history=bundle.items.own(h), timestamps=t[:-1], time=t[-1], k=k
            )
            for history, moments in zip(histories, times, strict=True)
        ]
        answers = dict(zip(users, server.together(asked), strict=True))

    assert set(evaluated) == set(batch) == set(answers) and len(users) == 50
    for user, (items, scores) in evaluated.items():
        assert answers[user].body["source"] == "model"
        online = answers[user].body["items"]
        assert batch[user][0] == items and [str(item["item"]) for item in online] == [str(item) for item in items]
        assert batch[user][1] == pytest.approx(scores, rel=1e-4, abs=1e-4)
        assert [item["score"] for item in online] == pytest.approx(scores, rel=1e-4, abs=1e-4)
        known = bundle.items.dense(map(str, items))
        assert [item["sid"] for item in online] == bundle.codes_IL[known].tolist()
        assert [item["title"] for item in online] == bundle.items.titles(known)
