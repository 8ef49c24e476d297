"""`intrr recommend`: the lists of evaluation, whatever the shards, the ranks and the kills."""

import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ArtefactError, ConfigError, DataError
from intrr_rec.evaluation.results import evaluate_run
from intrr_rec.io import artefact
from intrr_rec.serving.batch.filter_options import read_filters
from intrr_rec.serving.batch.histories import DatasetSource, EventSource, event_settings
from intrr_rec.serving.batch.recommend import KIND, PARTS, Options, recommend_all
from intrr_rec.serving.recommender import Filters, Recommender


def lists(out):
    """user id → item ids, best first."""
    table = pq.read_table(out / PARTS).sort_by([("user_id", "ascending"), ("rank", "ascending")])
    found: dict = {}
    for user, place, item in zip(*(table[name].to_pylist() for name in ("user_id", "rank", "item_id")), strict=True):
        found.setdefault(user, []).append(item)
        assert place == len(found[user])
    return found


@pytest.mark.parametrize("kind", ["path", "dense", "time"])
def test_evaluate_and_recommend_give_the_same_lists(kind, runs, bundles, line, tmp_path):
    evaluate_run(runs[kind], ())
    table = pq.read_table(runs[kind] / "recommendations")
    expected = dict(zip(table["user_id"].to_pylist(), table["item_ids"].to_pylist(), strict=True))
    options = Options(k=20, batch=7, shard_users=16)
    manifest = recommend_all(bundles[kind], DatasetSource(line.dataset, 1), tmp_path / "out", options)
    assert lists(tmp_path / "out") == expected
    assert manifest.counts == {"users": 50, "recommendations": 50 * 20}
    assert sorted(manifest.files) == [f"parts/part-{n:05d}.parquet" for n in range(4)]


def event_table(dataset, *, shuffled=True):
    """The dataset's events, as raw rows in no order."""
    users = np.repeat(np.arange(dataset.n_users), np.diff(dataset.offsets))
    table = pa.table(
        {
            "user_id": dataset.user_ids().take(users),
            "item_id": dataset.item_ids().take(dataset.items_E),
            "timestamp": dataset.timestamps_E,
        }
    )
    return table.take(np.random.default_rng(0).permutation(len(table))) if shuffled else table


def test_a_table_of_events_is_as_good_as_a_dataset(bundles, line, tmp_path):
    table = event_table(Dataset.open(line.dataset))
    (tmp_path / "events").mkdir()
    pq.write_table(table[:100], tmp_path / "events" / "a.parquet")
    pq.write_table(table[100:], tmp_path / "events" / "b.parquet")
    options = Options(k=5, shard_users=7)
    for kind in ("path", "time"):
        recommend_all(bundles[kind], DatasetSource(line.dataset, 0), tmp_path / f"{kind}-dataset", options)
        events = EventSource(tmp_path / "events", PrepareConfig())
        recommend_all(bundles[kind], events, tmp_path / f"{kind}-events", options)
        assert lists(tmp_path / f"{kind}-events") == lists(tmp_path / f"{kind}-dataset")


def test_unknown_items_are_passed_over_and_users_without_others_get_the_popular(bundles, tmp_path):
    pq.write_table(
        pa.table({"who": ["a", "b", "a", "c"], "what": ["1", "?", "no", "2"]}),
        tmp_path / "events.parquet",
    )
    config = PrepareConfig(user_column="who", item_column="what", time_column=None)
    recommend_all(bundles["path"], EventSource(tmp_path / "events.parquet", config), tmp_path / "out", Options(k=3))
    known, popular, two = (
        list(map(int, bundles["path"].items.own(found.items)))
        for found in Recommender(bundles["path"]).recommend(
            [bundles["path"].items.dense([own]) if own else [] for own in ("1", "", "2")], 3
        )
    )
    assert lists(tmp_path / "out") == {"a": known, "b": popular, "c": two}


def test_events_of_no_known_item_are_refused_and_leave_nothing(bundles, line, tmp_path):
    columns = {"user_id": [1, 2], "item_id": ["x", "y"], "timestamp": [1, 2]}
    pq.write_table(pa.table(columns), tmp_path / "events.parquet")
    with pytest.raises(DataError, match=r"events\.parquet: holds no event of an item that the bundle knows: .*'x'"):
        recommend_all(
            bundles["path"], EventSource(tmp_path / "events.parquet", PrepareConfig()), tmp_path / "out", Options(k=3)
        )
    renamed = Dataset.open(line.dataset).table("items.parquet")["item_id"].cast(pa.string()).to_pylist()
    columns = {"user_id": [1] * len(renamed), "item_id": [f"i{own}" for own in renamed]}
    pq.write_table(pa.table(columns | {"timestamp": list(range(len(renamed)))}), tmp_path / "renamed.parquet")
    prepare_dataset([tmp_path / "renamed.parquet"], None, tmp_path / "renamed", PrepareConfig(k_core=1))
    with pytest.raises(DataError, match=r"renamed: holds no event of an item that the bundle knows: .*'i"):
        recommend_all(bundles["path"], DatasetSource(tmp_path / "renamed", 0), tmp_path / "out", Options(k=3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.parquet", "renamed", "renamed.parquet"]


def test_events_count_as_the_settings_say_and_others_are_refused(bundles, tmp_path):
    bundle = bundles["path"]
    rows = {
        "user_id": [1] * 4,
        "item_id": [1, 2, 2, 3],
        "timestamp": [1, 2, 2, 3],
        "kind": ["buy", "buy", "buy", "view"],
    }
    pq.write_table(pa.table(rows), tmp_path / "events.parquet")
    words = ["prepare.event_column=kind", "prepare.event_weights={buy: 1}", "prepare.deduplicate=event"]
    source = EventSource(tmp_path / "events.parquet", event_settings(bundle, words))
    (found,) = source.shards(10, tmp_path, bundle.items.own_column())
    assert (found.items_E.to_pylist(), found.times_E.tolist()) == (["1", "2"], [1, 2])
    assert source.identity != EventSource(tmp_path / "events.parquet", event_settings(bundle, [])).identity
    assert event_settings(bundle, []).k_core == PrepareConfig().k_core
    for word, says in (
        ("prepare.k_core=2", "prepare.k_core is not read"),
        ("train.epochs=7", "train.epochs is not read"),
        ("prepare.user_colum=x", "did you mean 'prepare.user_column'"),
    ):
        with pytest.raises(ConfigError, match=says):
            event_settings(bundle, [word])


def test_ranks_share_the_shards(bundles, line, tmp_path, monkeypatch):
    source, options = DatasetSource(line.dataset, 0), Options(k=4, shard_users=8)
    recommend_all(bundles["path"], source, tmp_path / "alone", options)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (2, 1, 0):
        monkeypatch.setenv("RANK", str(rank))
        answer = recommend_all(bundles["path"], source, tmp_path / "shared", options)
        assert (answer is None) == bool(rank)
    assert artefact.read(tmp_path / "shared", KIND).files == artefact.read(tmp_path / "alone", KIND).files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "shared"]
    again = (tmp_path / "shared" / "manifest.json").stat().st_mtime_ns
    recommend_all(bundles["path"], source, tmp_path / "shared", options)
    assert (tmp_path / "shared" / "manifest.json").stat().st_mtime_ns == again


def test_a_killed_job_goes_on(bundles, line, tmp_path):
    """Killed after its second shard; the same command keeps those two, and gives the bytes of an undisturbed job."""
    options, out = Options(k=4, shard_users=8), tmp_path / "out"
    recommend_all(bundles["path"], DatasetSource(line.dataset, 0), tmp_path / "calm", options)
    code = (
        "import sys, os, signal\n"
        "from pathlib import Path\n"
        "from intrr_rec.io import shards as jobs\n"
        "from intrr_rec.serving.batch import recommend as batch\n"
        "from intrr_rec.serving.bundle.bundle import Bundle\n"
        "from intrr_rec.serving.batch.histories import DatasetSource\n"
        "write, written = jobs.write_shard, []\n"
        "def write_and_die(path, table, **options):\n"
        "    write(path, table, **options)\n"
        "    written.append(path)\n"
        "    if len(written) == 2:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "jobs.write_shard = write_and_die\n"
        f"options = batch.Options(k=4, shard_users=8)\n"
        f"source = DatasetSource(Path({str(line.dataset)!r}), 0)\n"
        f"batch.recommend_all(Bundle.load({str(bundles['path'].path)!r}), source, Path({str(out)!r}), options)\n"
    )
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not out.exists()
    (kept,) = tmp_path.glob(".out.recommend-*")
    shards = {path.name: path.stat().st_mtime_ns for path in kept.glob("part-*")}
    assert sorted(shards) == ["part-00000.parquet", "part-00001.parquet"]
    recommend_all(bundles["path"], DatasetSource(line.dataset, 0), out, options)
    assert artefact.read(out, KIND).files == artefact.read(tmp_path / "calm", KIND).files
    assert all((out / PARTS / name).stat().st_mtime_ns == when for name, when in shards.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calm", "out"]


def test_filters_from_words(bundles, tmp_path):
    items = bundles["path"].items
    (tmp_path / "ids").write_text("3\n nothing \n5 \n")
    found = read_filters(items, exclude_seen=True, deny=tmp_path / "ids", newer_than="1970-01-01")
    assert found == Filters(exclude_seen=True, deny=items.dense(["3", "5"]), newer_than=0)
    with pytest.raises(ConfigError, match="--where red"):
        read_filters(items, where=["red"])
    with pytest.raises(ConfigError, match="no column 'color'"):
        read_filters(items, where=["color=red"])
    with pytest.raises(ConfigError, match=r"no item passes all filters together .newer than 1970-01-02"):
        read_filters(items, newer_than="1970-01-02")
    with pytest.raises(ConfigError, match=r"--newer-than: .yesterday. is neither"):
        read_filters(items, newer_than="yesterday")
    with pytest.raises(
        ConfigError, match="1700000000000 looks like milliseconds; give seconds since 1970: 1700000000;"
    ):
        read_filters(items, newer_than="1700000000000")
    with pytest.raises(DataError, match="cannot be read"):
        read_filters(items, allow=tmp_path / "none")


def test_user_mistakes(bundles, line, tmp_path):
    source = DatasetSource(line.dataset, 0)
    with pytest.raises(ConfigError, match="k 21"):
        recommend_all(bundles["path"], source, tmp_path / "out", Options(k=21))
    columns = {"user_id": [1, 2], "item_id": [1, None], "timestamp": [1, 2]}
    pq.write_table(pa.table(columns), tmp_path / "holes.parquet")
    with pytest.raises(DataError, match=r"holes\.parquet: column 'item_id', row 2: the id is missing"):
        recommend_all(
            bundles["path"], EventSource(tmp_path / "holes.parquet", PrepareConfig()), tmp_path / "out", Options(k=2)
        )
    with pytest.raises(DataError, match="no column 'user'"):
        EventSource(tmp_path / "holes.parquet", PrepareConfig(user_column="user"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(ArtefactError, match="not a 'recommendations' artefact"):
        recommend_all(bundles["path"], source, tmp_path / "taken", Options(k=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["holes.parquet", "taken"]
