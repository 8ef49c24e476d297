"""The bench of a large catalogue, on a small one: the generator's items all get there, and finished stages are not run again."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.speed.catalogue import EVENTS, bench_catalogue, write_catalogue
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.synthetic.generator import generate_logs
from tests import tiny


def test_the_dataset_is_what_the_generator_logged_over_all_its_items(tmp_path):
    generate_logs(tmp_path / "logs", n_users=40, n_items=300, seed=3, events_per_user=EVENTS)
    write_catalogue(tmp_path / "dataset", items=300, users=40, seed=3)
    dataset, logs = Dataset.open(tmp_path / "dataset"), pq.read_table(tmp_path / "logs/interactions")
    assert (dataset.n_users, dataset.n_items) == (40, 300) and len(np.unique(dataset.items_E)) < 300
    assert np.array_equal(dataset.items_E, logs["item_id"]) and np.array_equal(dataset.timestamps_E, logs["timestamp"])
    assert np.array_equal(np.repeat(np.arange(40), np.diff(dataset.offsets)), logs["user_id"])
    assert dataset.item_ids().to_pylist() == list(range(300))


@pytest.mark.slow
def test_the_whole_line_runs_on_two_ranks_and_goes_on_where_it_was(tmp_path):
    words = [
        *tiny.SMALL,
        "index={levels: 2, codes: 32, dedup_codes: 256, gate: {max_collision_rate: null, min_distinct_rate: null}}",
        "train.sharding.uid=row_wise",
        "train.epochs=1",
    ]
    (tmp_path / "recipe.yaml").write_text("")
    asked = {"items": 1_000, "users": 200, "work": tmp_path / "work", "ranks": 2}
    found = bench_catalogue(tmp_path / "recipe.yaml", words, **asked)
    assert list(found["stages"]) == ["generate", "index", "train", "evaluate", "export", "recommend", "serve"]
    assert all(stage["seconds"] > 0 < stage["peak_gb"] for stage in found["stages"].values())
    assert 0 <= found["test"]["recall@10"] <= 1
    again = bench_catalogue(tmp_path / "recipe.yaml", words, **asked)
    assert again == found == json.loads((tmp_path / "work/figures.json").read_text())
