"""`intrr recommend`: the lists of evaluation, whatever the shards, the ranks and the kills."""

import signal
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec import cli
from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ArtefactError, ConfigError, DataError
from intrr_rec.evaluation.results import evaluate_run
from intrr_rec.io import artefact
from intrr_rec.serving.batch.event_source import EventSource, event_settings, events_for
from intrr_rec.serving.batch.filter_options import read_filters
from intrr_rec.serving.batch.histories import DatasetSource
from intrr_rec.serving.batch.recommend import KIND, PARTS, Options, recommend_all
from intrr_rec.serving.filters import Filters
from intrr_rec.serving.recommender import Recommender
from tests.data.loading.regroup import regroup


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


@pytest.mark.slow
def test_the_command_ends_without_lines_of_libraries_about_each_other(bundles, tmp_path):
    events = tmp_path / "events.parquet"
    pq.write_table(pa.table({"user_id": [1, 1], "item_id": [2, 3], "timestamp": [0, 1]}), events)
    words = ["recommend", "--bundle", bundles["path"].path, "--events", events, "--out", tmp_path / "out"]
    done = subprocess.run([sys.executable, "-m", "intrr_rec", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "leak" not in done.stderr + done.stdout


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
    (found,) = source.shards(10, tmp_path, bundle)
    assert (bundle.items.own(found.items_E), found.times_E.tolist()) == (["1", "2"], [1, 2])
    assert source.identity != EventSource(tmp_path / "events.parquet", event_settings(bundle, [])).identity
    (found,) = events_for(bundle, tmp_path / "events.parquet", words).shards(10, tmp_path, bundle)
    assert found.seen is None  # what words of the command line leave out is no part of the log
    assert event_settings(bundle, []).k_core == PrepareConfig().k_core
    for word, says in (
        ("prepare.k_core=2", "prepare.k_core is not read"),
        ("train.epochs=7", "train.epochs is not read"),
        ("prepare.user_colum=x", "did you mean 'prepare.user_column'"),
    ):
        with pytest.raises(ConfigError, match=says):
            event_settings(bundle, [word])


def of_logs(bundle, **settings):
    """The bundle, as if the logs of its dataset had been read so."""
    return replace(bundle, settings=bundle.settings.model_copy(update=settings))


def histories(bundle, path, words, scratch):
    """User → items and times, as they are read for this bundle."""
    (found,) = events_for(bundle, path, words).shards(100, scratch, bundle)
    events = list(zip(bundle.items.own(found.items_E), found.times_E.tolist(), strict=True))
    spans = pairwise(found.offsets.tolist())
    return {user: events[slice(*span)] for user, span in zip(found.user_ids.to_pylist(), spans, strict=True)}


def of_dataset(dataset, kept=slice(None)):
    """The same of a dataset, `kept` of its events."""
    table = event_table(dataset, shuffled=False).to_pylist()[kept]
    found: dict = {}
    for row in table:
        found.setdefault(row["user_id"], []).append((str(row["item_id"]), row["timestamp"]))
    return found


def test_a_bundle_tells_how_the_logs_of_its_dataset_were_read(bundles, line):
    dataset, settings = Dataset.open(line.dataset), bundles["path"].settings
    assert settings.prepare == PrepareConfig.model_validate(dataset.manifest.config)
    assert settings.time_unit == dataset.time_unit == "s"
    assert (settings.item_ids, settings.user_ids) == ("integer", "integer")


def test_events_are_read_by_the_columns_of_the_logs_and_never_by_row_order(bundles, line, tmp_path):
    table = event_table(Dataset.open(line.dataset))
    pq.write_table(table, tmp_path / "plain.parquet")
    pq.write_table(table.rename_columns(["who", "what", "ts"]), tmp_path / "own.parquet")
    (tmp_path / "mixed").mkdir()
    pq.write_table(table[:100], tmp_path / "mixed" / "a.parquet")
    pq.write_table(table[100:].rename_columns(["user_id", "item_id", "ts"]), tmp_path / "mixed" / "b.parquet")
    plain, right = bundles["path"], of_dataset(Dataset.open(line.dataset))
    own = of_logs(plain, prepare=PrepareConfig(user_column="who", item_column="what", time_column="ts"))
    words = ["prepare.user_column=who", "prepare.item_column=what", "prepare.time_column=ts"]
    back = ["prepare.user_column=user_id", "prepare.item_column=item_id", "prepare.time_column=timestamp"]
    for bundle, file, given in ((plain, "plain", []), (own, "own", []), (plain, "own", words), (own, "plain", back)):
        assert histories(bundle, tmp_path / f"{file}.parquet", given, tmp_path) == right
    for file, given, says in (
        (
            "own.parquet",
            words[:2],
            r"own\.parquet: no column 'timestamp'; it has who, what, ts.*prepare\.time_column=null",
        ),
        ("own.parquet", [*words[:2], "prepare.time_column=tsz"], r"no column 'tsz'.*did you mean 'ts'"),
        ("mixed", [], r"b\.parquet: no column 'timestamp'"),
        ("plain.parquet", ["prepare.event_column=kind", "prepare.event_weights={buy: 1}"], r"no column 'kind'"),
    ):
        with pytest.raises(DataError, match=says):
            events_for(plain, tmp_path / file, given)


def test_events_of_some_types_are_the_history_where_the_settings_or_the_bundle_say_so(bundles, line, tmp_path):
    table = event_table(Dataset.open(line.dataset), shuffled=False)
    table = table.append_column("kind", pa.array(["view" if n % 2 else "buy" for n in range(len(table))]))
    pq.write_table(table, tmp_path / "all.parquet")
    words, plain = ["prepare.event_column=kind", "prepare.event_weights={buy: 1}"], bundles["path"]
    remembers = of_logs(plain, prepare=PrepareConfig(event_column="kind", event_weights={"buy": 1}))
    dataset, events = Dataset.open(line.dataset), tmp_path / "all.parquet"
    bought, every = of_dataset(dataset, slice(0, None, 2)), of_dataset(dataset)
    assert bought != every
    for bundle, given, right in (
        (plain, [], every),
        (plain, words, bought),
        (remembers, [], bought),
        (remembers, ["prepare.event_column=null", "prepare.event_weights=null"], every),
    ):
        assert histories(bundle, events, given, tmp_path) == right


def test_ids_and_units_are_those_of_the_logs(bundles, line, tmp_path):
    bundle, options = bundles["path"], Options(k=3)
    moments = [1_700_000_000, 1_700_000_500, 1_700_000_900]
    rows = list(zip((8, 8, 9), (1, 2, 3), moments, strict=True))
    text = "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in rows)
    (tmp_path / "e.csv").write_text(text)
    (tmp_path / "fine.csv").write_text(text.replace("00\n", "00000\n"))
    recommend_all(bundle, events_for(bundle, tmp_path / "e.csv", []), tmp_path / "integers", options)
    named = of_logs(bundle, user_ids="string", item_ids="string")
    recommend_all(named, events_for(named, tmp_path / "e.csv", []), tmp_path / "strings", options)
    integers, strings = lists(tmp_path / "integers"), lists(tmp_path / "strings")
    assert set(integers) == {8, 9} and all(isinstance(item, int) for items in integers.values() for item in items)
    assert strings == {str(user): list(map(str, items)) for user, items in integers.items()}
    with pytest.raises(DataError, match=r"counts milliseconds, but .* count seconds; .* prepare\.time_unit=ms says so"):
        recommend_all(bundle, events_for(bundle, tmp_path / "fine.csv", []), tmp_path / "out", options)
    words = ["prepare.time_unit=ms"]
    recommend_all(bundle, events_for(bundle, tmp_path / "fine.csv", words), tmp_path / "out", options)
    assert lists(tmp_path / "out") == integers


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--events", "e.csv", "--held-out", "1"), "--held-out is not read"),
        (("--dataset", "ds", "prepare.user_column=x"), "prepare.user_column=x is not read"),
        (("--dataset", "ds", "--events", "e.csv"), "give either --dataset DIR or --events FILE"),
    ],
)
def test_what_the_verb_does_not_read_is_refused_before_any_work(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["intrr", "recommend", "--bundle", "none", "--out", "out", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    error = capsys.readouterr().err
    assert stop.value.code == 2 and says in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("users_a_group", [50, 3, 8])
def test_ranks_share_the_shards(bundles, line, tmp_path, monkeypatch, users_a_group):
    """Seven shards, of which three ranks make two, two and three; each reads the row groups of its own shards alone."""
    dataset = regroup(line.dataset, tmp_path / "dataset", users_a_group)
    source, options = DatasetSource(dataset, 0), Options(k=4, shard_users=8)
    read = []
    original = pq.ParquetFile.iter_batches

    def iter_batches(file, *sizes, row_groups, **named):
        for batch in original(file, *sizes, row_groups=row_groups, **named):
            read.extend(batch["user"].to_pylist() if "items" in batch.schema.names else ())
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", iter_batches)
    recommend_all(bundles["path"], source, tmp_path / "alone", options)
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank, own in ((2, range(40, 50)), (1, range(24, 40)), (0, range(24))):
        monkeypatch.setenv("RANK", str(rank))
        read.clear()
        answer = recommend_all(bundles["path"], source, tmp_path / "shared", options)
        assert (answer is None) == bool(rank)
        assert set(own) <= set(read) <= set(range(own.start - users_a_group, own.stop + users_a_group))
    assert artefact.read(tmp_path / "shared", KIND).files == artefact.read(tmp_path / "alone", KIND).files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "dataset", "shared"]
    again = (tmp_path / "shared" / "manifest.json").stat().st_mtime_ns
    recommend_all(bundles["path"], source, tmp_path / "shared", options)
    assert (tmp_path / "shared" / "manifest.json").stat().st_mtime_ns == again


@pytest.mark.slow
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
    shards = {path.name: path.stat().st_mtime_ns for path in kept.glob("part-*.parquet")}
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
