"""The generator: equal bytes for equal seeds, rows that do not depend on files, and signals that are really there."""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.data.synthetic import generator
from intrr_rec.data.synthetic.generator import World, generate_logs
from intrr_rec.data.synthetic.returns import RETURNS
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.io import artefact

TABLES = ("interactions", "items", "vectors")
USERS, ITEMS = 6_000, 2_000


def small(out: Path, **changes: Any) -> dict[str, pa.Table]:
    generate_logs(out, **({"n_users": 300, "n_items": 500, "seed": 3, "dimension": 10} | changes))
    return {name: pq.read_table(out / name) for name in TABLES}


def column(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy()


def matrix(vectors: pa.Table) -> np.ndarray:
    flat = vectors["embedding"].combine_chunks().flatten().to_numpy()
    return flat.reshape(vectors.num_rows, -1).astype(np.float32)


@pytest.fixture(scope="module", params=[0, 1])
def world(request: pytest.FixtureRequest) -> World:
    return World(n_items=ITEMS, seed=request.param)


@pytest.fixture(scope="module")
def events(world: World) -> tuple[np.ndarray, np.ndarray]:
    table = world.interactions(np.arange(USERS))
    return column(table, "user_id"), column(table, "item_id")


def test_equal_seeds_give_equal_bytes_and_others_do_not(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        small(tmp_path / name, seed=seed)
    a, b, c = (artefact.read(tmp_path / name, "logs") for name in "abc")
    assert a.files == b.files and a.content_hash == b.content_hash
    assert not set(a.files.values()) & set(c.files.values())


def test_features_leave_the_rest_as_it_is_and_have_four_values_each(tmp_path: Path) -> None:
    plain, rich = small(tmp_path / "plain"), small(tmp_path / "rich", features=True)
    assert rich["interactions"].drop(["action", "device"]).equals(plain["interactions"])
    assert rich["items"].drop(["season"]).equals(plain["items"]) and rich["vectors"].equals(plain["vectors"])
    users = pq.read_table(tmp_path / "rich/users")
    assert users["user_id"].to_pylist() == list(range(300)) and not (tmp_path / "plain/users").exists()
    for values in (
        *(rich["interactions"][name] for name in ("action", "device")),
        rich["items"]["season"],
        users["plan"],
    ):
        counts = [row["counts"] for row in values.value_counts().to_pylist()]
        assert len(counts) == 4 and min(counts) > 0.8 * len(values) / 4


@pytest.mark.parametrize("signal", ["action", "context", "item", "user"])
def test_the_style_that_follows_is_another_for_each_value(signal: str) -> None:
    """Of steps from one style under one value most lead to one style, where the value carries the signal, and few where it does not."""
    shares = {}
    for signals in ((signal,), ()):
        world = World(n_items=80, seed=0, features=True, signals=signals)
        table, people = world.interactions(np.arange(3000)), world.users(np.arange(3000))
        user, item = column(table, "user_id"), column(table, "item_id")
        season = np.array(world.items(np.arange(80))["season"].to_pylist())
        value = {
            "action": np.array(table["action"].to_pylist())[:-1],
            "context": np.array(table["device"].to_pylist())[1:],
            "item": season[item[:-1]],
            "user": np.array(people["plan"].to_pylist())[user[:-1]],
        }[signal]
        style, inside = world.style(item), user[1:] == user[:-1]
        ways = Counter(
            zip(style[:-1][inside].tolist(), value[inside].tolist(), style[1:][inside].tolist(), strict=True)
        )
        best: Counter[tuple[int, str]] = Counter()
        for (source, word, _), count in ways.items():
            best[source, word] = max(best[source, word], count)
        shares[signals] = sum(best.values()) / inside.sum()
    assert shares[signal,] > 0.6 and shares[()] < 0.5


def test_a_signal_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"generate: no signal 'acton'; did you mean 'action'\?"):
        small(tmp_path / "logs", signals=["acton"])


def test_users_return_as_their_logs_say() -> None:
    """Soon: within hours. Often: mostly to what they had most. Periodic: after days. Mixed: all of these, and some items never."""
    shares, waits, favourites = {}, {}, {}
    for kind in set(RETURNS) - {"late"}:
        log = World(n_items=500, seed=0, events_per_user=30, dimension=4, returns=kind).interactions(np.arange(300))
        item, times, user = (column(log, name) for name in ("item_id", "timestamp", "user_id"))
        had: dict[tuple[int, int], list[int]] = {}
        found, most = [], []
        for person, each, moment in zip(user.tolist(), item.tolist(), times.tolist(), strict=True):
            past = had.setdefault((person, each), [])
            if past:
                found.append(moment - past[-1])
                most.append(len(past) > 1)
            past.append(moment)
        shares[kind], waits[kind], favourites[kind] = len(found) / len(item), np.median(found) / 86_400, np.mean(most)
    assert all(0.25 < share < 0.65 for share in shares.values()), shares
    assert waits["soon"] < 0.1 and waits["periodic"] > 3
    assert favourites["often"] > 0.7 > max(favourites["soon"], favourites["periodic"])
    with pytest.raises(ConfigError, match=r"generate: no returns 'son'; did you mean 'soon'\?"):
        World(n_items=500, seed=0, returns="son")


def test_late_returns_lie_hundreds_of_events_back() -> None:
    log = World(n_items=20_000, seed=0, events_per_user=1200, dimension=4, returns="late").interactions(np.arange(6))
    item, user = column(log, "item_id"), column(log, "user_id")
    apart = []
    for person in np.unique(user):
        last: dict[int, int] = {}
        for place, each in enumerate(item[user == person].tolist()):
            if each in last:
                apart.append(place - last[each])
            last[each] = place
    near = np.abs(np.array(apart)[:, None] - [150, 700, 2000]) < 12
    assert near.any(axis=1).mean() > 0.9
    assert all(near[:, :2].mean(axis=0) > 0.15) and len(apart) > 0.2 * len(item)


def test_rows_do_not_depend_on_the_files_they_are_cut_into(tmp_path: Path) -> None:
    whole, cut = small(tmp_path / "whole"), small(tmp_path / "cut", shard=77)
    assert all(whole[name].equals(cut[name]) for name in TABLES)
    assert len(list((tmp_path / "cut" / "items").iterdir())) == 7


def test_tables_agree_with_each_other_and_with_the_manifest(tmp_path: Path) -> None:
    tables = small(tmp_path / "logs")
    log, items, vectors = (tables[name] for name in TABLES)
    assert column(items, "item_id").tolist() == column(vectors, "item_id").tolist() == list(range(500))
    assert set(column(log, "user_id")) == set(range(300))
    assert column(log, "item_id").min() >= 0 and column(log, "item_id").max() < 500
    assert log.schema.types == [pa.int64()] * 3
    assert vectors.schema.field("embedding").type.list_size == 10
    assert vectors.schema.field("embedding").type.value_type == pa.float16()
    manifest = artefact.read(tmp_path / "logs", "logs")
    assert manifest.counts == {"users": 300, "items": 500, "interactions": log.num_rows}
    assert manifest.config == {"users": 300, "items": 500, "seed": 3, "events_per_user": 12, "dimension": 10}


def test_an_item_is_a_function_of_its_id_alone(world: World) -> None:
    everything, some = np.arange(ITEMS), np.array([1999, 0, 1234, 7])
    assert world.items(everything).take(some).equals(world.items(some))
    assert (matrix(world.vectors(everything))[some] == matrix(world.vectors(some))).all()


def test_a_user_is_a_function_of_the_id_alone(world: World) -> None:
    whole = world.interactions(np.arange(50))
    alone = pa.concat_tables([world.interactions(np.array([user])) for user in range(50)])
    assert whole.equals(alone.combine_chunks())


@settings(max_examples=40, deadline=None)
@given(
    n_items=st.integers(1, 3_000),
    seed=st.integers(-(1 << 63), 1 << 64),
    events_per_user=st.integers(1, 30),
    dimension=st.integers(1, 9),
)
def test_any_size_is_well_formed(n_items: int, seed: int, events_per_user: int, dimension: int) -> None:
    world = World(n_items=n_items, seed=seed, events_per_user=events_per_user, dimension=dimension)
    ids = np.arange(n_items)
    assert sorted(world._ids(world._position(ids))) == ids.tolist()
    np.testing.assert_allclose(np.linalg.norm(matrix(world.vectors(ids)), axis=1), 1, atol=2e-3)
    titles = world.items(ids)["title"].to_pylist()
    assert all(title and "None" not in title for title in titles)
    log = world.interactions(np.arange(40))
    users, items, times = (column(log, name) for name in ("user_id", "item_id", "timestamp"))
    assert ((items >= 0) & (items < n_items)).all()
    assert (np.diff(times)[np.diff(users) == 0] > 0).all()
    lengths = np.bincount(users, minlength=40)
    assert lengths.min() >= min(5, events_per_user) and lengths.max() <= 2 * events_per_user


def test_histories_survive_the_five_core_and_rarely_repeat(events: tuple[np.ndarray, np.ndarray]) -> None:
    users, items = events
    assert np.bincount(users, minlength=USERS).min() >= 5
    assert np.bincount(items, minlength=ITEMS).min() >= 5
    assert 11 < len(users) / USERS < 13
    assert len(np.unique(users * ITEMS + items)) > 0.999 * len(users)


def test_popularity_is_skewed(events: tuple[np.ndarray, np.ndarray]) -> None:
    counts = np.sort(np.bincount(events[1], minlength=ITEMS))[::-1]
    # under uniform draws the head's tenth would hold about 13 % (Poisson) of the events
    assert counts[: ITEMS // 10].sum() > 0.17 * counts.sum()
    assert counts[0] > 5 * counts[-1]


def test_vectors_follow_the_tree(world: World) -> None:
    """Cosine rises with the depth of the common path: none < department < category < style."""
    ids = np.arange(ITEMS)
    x = matrix(world.vectors(ids))
    cosine = x @ x.T
    paths = np.array([path.split(" > ") for path in world.items(ids)["categories"].to_pylist()])
    depth = np.zeros((ITEMS, ITEMS), dtype=np.int8)
    for level in range(1, 4):
        _, node = np.unique([" > ".join(path[:level]) for path in paths], return_inverse=True)
        depth += node[:, None] == node[None, :]
    np.fill_diagonal(depth, -1)
    means = [cosine[depth == level].mean() for level in range(4)]
    assert abs(means[0]) < 0.1
    assert all(deeper > shallower + 0.1 for shallower, deeper in pairwise(means)), means


def test_texts_name_the_path(world: World) -> None:
    for row in world.items(np.arange(100)).to_pylist():
        _, category, style = row["categories"].split(" > ")
        assert f" {style} {category} No. " in row["title"]
        assert row["text"].startswith(f"{row['title']} by {row['brand']}, from the ")
    assert len(set(world.items(np.arange(ITEMS))["title"].to_pylist())) == ITEMS


def test_collaboration_and_content_both_beat_popularity(world: World, events: tuple[np.ndarray, np.ndarray]) -> None:
    """Leave-one-out Recall@10 of three rankings: most popular, successors of the last item, its nearest vectors."""
    users, items = events
    is_last = np.append(users[1:] != users[:-1], True)
    target, query = items[is_last], items[np.flatnonzero(is_last) - 1]

    def recall(score_UI: np.ndarray) -> float:
        top = np.argpartition(-score_UI, 10, axis=1)[:, :10]
        return float((top == target[:, None]).any(axis=1).mean())

    popular = np.bincount(items[~is_last], minlength=ITEMS)
    successors_II = np.zeros((ITEMS, ITEMS), dtype=np.float32)
    trained = ~is_last[:-1] & ~is_last[1:]
    np.add.at(successors_II, (items[:-1][trained], items[1:][trained]), 1)
    x = matrix(world.vectors(np.arange(ITEMS)))
    cosine_II = x @ x.T
    np.fill_diagonal(cosine_II, -1)

    by_popularity = recall(np.broadcast_to(popular, (1, ITEMS)))
    by_collaboration, by_content = recall(successors_II[query]), recall(cosine_II[query])
    assert 0.005 < by_popularity < 0.03
    assert by_collaboration > max(0.15, 5 * by_popularity)
    assert by_content > max(0.06, 2 * by_popularity)
    assert by_collaboration > by_content + 0.05


def test_hidden_successors_are_not_near_in_content(world: World, events: tuple[np.ndarray, np.ndarray]) -> None:
    """Among an item's most frequent successors many lie in departments that only the hidden links explain."""
    users, items = events
    same_user = users[1:] == users[:-1]
    pairs, counts = np.unique(items[:-1][same_user] * ITEMS + items[1:][same_user], return_counts=True)
    frequent = pairs[counts >= 5]
    a, b = np.divmod(frequent, ITEMS)
    far = world.style(a) % 8 != world.style(b) % 8
    assert len(frequent) > 500
    assert far.mean() > 0.3


MEASURE = """
import resource, sys
from pathlib import Path
from typing import Any
from intrr_rec.data.synthetic.generator import generate_logs
n = int(sys.argv[2])
generate_logs(Path(sys.argv[1]), n_users=n // 20, n_items=n, seed=0, events_per_user=3, dimension=8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_catalogue(tmp_path: Path) -> None:
    """A million items peak where a hundred thousand do; held whole, their texts alone would take 150 MB."""

    def peak_mb(n_items: int) -> int:
        words = [sys.executable, "-c", MEASURE, str(tmp_path / str(n_items)), str(n_items)]
        return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

    assert peak_mb(1_000_000) < peak_mb(100_000) + 40


def test_events_over_a_hundred_million_items_reach_them_all() -> None:
    world = World(n_items=10**8, seed=0, dimension=16)
    log = world.interactions(np.arange(10**6, 10**6 + 2_000))
    items = column(log, "item_id")
    assert len(np.unique(items)) > 0.7 * len(items)
    assert np.histogram(items, bins=20, range=(0, 10**8))[0].min() > 0.03 * len(items)
    assert matrix(world.vectors(items[:100])).shape == (100, 16)


def test_a_crash_leaves_the_old_artefact_and_no_debris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "logs"
    small(out)
    before = (out / "manifest.json").read_text()

    def fail(self: World, ids_B: np.ndarray) -> pa.Table:
        raise OSError("disk full")

    monkeypatch.setattr(World, "vectors", fail)
    for target in (out, tmp_path / "fresh"):
        with pytest.raises(OSError, match="disk full"):
            small(target, seed=9)
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]
    assert (out / "manifest.json").read_text() == before
    artefact.read(out, "logs")


def test_an_old_artefact_is_replaced_and_foreign_files_are_not(tmp_path: Path) -> None:
    small(tmp_path / "logs", shard=100)
    small(tmp_path / "logs")
    assert len(json.loads((tmp_path / "logs" / "manifest.json").read_text())["files"]) == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ArtefactError, match="not a 'logs' artefact"):
        small(tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"n_users": 0}, "users is 0"),
        ({"n_items": 0}, "items is 0"),
        ({"n_items": 1 << 40}, "items is 1099511627776"),
        ({"events_per_user": 0}, "events_per_user is 0"),
        ({"dimension": -1}, "dimension is -1"),
        ({"shard": 0}, "shard is 0"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path: Path, changes: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        small(tmp_path / "logs", **changes)
    assert not list(tmp_path.iterdir())


def test_progress_counts_every_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []

    @contextmanager
    def record(total: int) -> Iterator[Callable[[int], None]]:
        yield counted.append
        assert sum(counted) == total

    monkeypatch.setattr(generator, "progress_bar", record)
    small(tmp_path / "logs", shard=77)
    assert sum(counted) == 300 + 2 * 500
