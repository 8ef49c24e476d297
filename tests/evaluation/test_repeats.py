"""Whether people come back to what they had is read off the log, and how soon they do is learned by the ranking."""

import json

import numpy as np
import pytest
import torch

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.repeats import share_of_repeats
from intrr_rec.data.synthetic.generator import World
from intrr_rec.decoding.repeats import DAY, SeenItems
from intrr_rec.distributed.world import join_world
from intrr_rec.evaluation.fit_returns import fit_returns
from intrr_rec.evaluation.results import evaluate_run
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.training.trainer import train
from tests import tiny

USERS, LENGTH, ITEMS, BACK = 150, 14, 30, 3
BEST = (
    "model.dense.weight=0.5",
    "model.dense.negatives=8",
    "evaluate.rank_by=sid_dense_and_neighbours",
    "evaluate.pool=beam_and_dense",
    "evaluate.beam=20",
    "model.neighbours.kept=6",
    "train.epochs=1",
    "train.calibration_users=0.5",
)


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """A log in which nine events of ten, after the third, take up the item of three events ago; the rest is chance."""
    rng = np.random.default_rng(0)
    items_UN = rng.integers(0, ITEMS, (USERS, LENGTH))
    for place in range(BACK, LENGTH):
        back_U = rng.random(USERS) < 0.9
        items_UN[back_U, place] = items_UN[back_U, place - BACK]
    events = {
        "user_id": np.repeat(np.arange(USERS), LENGTH),
        "item_id": items_UN.ravel(),
        "timestamp": np.tile(np.arange(LENGTH), USERS),
    }
    config = PrepareConfig(k_core=1, time_column="timestamp")
    return tiny.line_of(tmp_path_factory.mktemp("again"), events, ITEMS, config, rng)


@pytest.fixture(scope="module")
def never(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("never"), noise=0.0)


def test_the_share_of_repeats_is_what_counting_gives(again, never):
    dataset = Dataset.open(again.dataset)
    events = repeats = 0
    for user in range(dataset.n_users):
        had = set()
        for item in dataset.items_E[dataset.offsets[user] : dataset.offsets[user + 1] - 2].tolist():
            events, repeats = events + 1, repeats + (item in had)
            had.add(item)
    assert share_of_repeats(dataset) == repeats / events > 0.5
    assert share_of_repeats(Dataset.open(never.dataset)) == 0


def test_the_log_decides_whether_items_of_the_history_stay(again, never, tmp_path):
    for line, excluded in ((again, False), (never, True)):
        out = tmp_path / line.dataset.parent.name
        recipe = tiny.recipe(*BEST, "evaluate.exclude_seen=null")
        results = train(recipe, out=out, **line.inputs())
        assert results["evaluate"]["exclude_seen"] is excluded
        assert train(recipe, out=out, **line.inputs())["test"] == results["test"]  # the same recipe goes on


def test_the_ranking_learns_how_soon_people_come_back(again, tmp_path):
    out = tmp_path / "run"
    results = train(tiny.recipe(*BEST, "evaluate.exclude_seen=null"), out=out, **again.inputs())
    # Nine targets of ten are the item of three events ago; without its age it is one of several.
    assert results["test"]["recall@1"] > 0.7
    filtered = evaluate_run(out, ["evaluate.exclude_seen=true"])
    assert filtered["test"]["recall@1"] < 0.1
    assert evaluate_run(out, [])["test"] == results["test"]
    assert json.loads((out / "results.json").read_text())["evaluate"]["exclude_seen"] is False


def test_how_long_ago_counts_where_people_come_back_soon(tmp_path):
    """In these logs of sessions an item comes back within hours or not at all; how many events lie between says little."""
    log = World(n_items=ITEMS, seed=0, events_per_user=20, dimension=4, returns="soon").interactions(np.arange(USERS))
    events = {name: log[name].to_numpy() for name in log.column_names}
    line = tiny.line_of(
        tmp_path, events, ITEMS, PrepareConfig(k_core=1, time_column="timestamp"), np.random.default_rng(0)
    )
    recipe = tiny.recipe(*BEST, "evaluate.exclude_seen=null")
    inputs = open_inputs(recipe, line.dataset, line.semantic_ids, line.vectors)
    with join_world() as world:
        weight_2R = fit_returns(inputs, world)
    history, times = [7, 8, 9], [[0, 100, 200, 200], [0, 3 * DAY, 3 * DAY + 100, 3 * DAY + 100], None]
    seen = SeenItems.of(Batch.from_histories([history] * 3, 8, times, told=False))
    soon, late, unknown = seen.scores(torch.tensor([[7]] * 3), weight_2R)[:, 0, 0].tolist()
    assert soon > unknown > late and soon > late + 2
