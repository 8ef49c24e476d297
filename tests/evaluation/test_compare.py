"""Comparisons from run folders: what is printed and written, who is A and who is B, and what is refused."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.evaluation.compare import COMPARED, compare_runs
from intrr_rec.evaluation.metrics import NAMES, as_means, metrics_by_user
from tests.sealing import write_run_record, write_sealed

USERS = 600


def run_folder(path, ranks, dataset="a" * 64, seed=0, users=None):
    """What `intrr evaluate` leaves, as far as comparisons read it: two parts, users of the test split in no order."""
    order = np.random.default_rng(seed).permutation(len(ranks))
    users = np.arange(len(ranks)) if users is None else users
    rank = pa.array(ranks[order], mask=ranks[order] == 0)
    table = pa.table({"user_id": users[order], "split": ["test"] * len(ranks), "rank": rank})
    valid = pa.table({"user_id": users, "split": ["valid"] * len(ranks), "rank": np.ones_like(ranks)})
    (path / "ranks").mkdir(parents=True)
    pq.write_table(pa.concat_tables([table.slice(0, 100), valid]), path / "ranks" / "part-00000.parquet")
    pq.write_table(table.slice(100), path / "ranks" / "part-00001.parquet")
    test = as_means(metrics_by_user(torch.from_numpy(ranks)).sum(0), len(ranks))
    write_run_record(path, dataset)
    write_sealed(path / "results.json", {"name": path.name, "seed": seed, "test": test})
    return path


def drawn(hit, seed):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(USERS) < hit, rng.integers(1, 30, USERS), 0)


@pytest.fixture
def pair(tmp_path):
    return run_folder(tmp_path / "good", drawn(0.6, 1)), run_folder(tmp_path / "bad", drawn(0.3, 2), seed=1)


def test_two_runs_first_less_second(pair, tmp_path, capsys):
    found = compare_runs(pair, (), 0, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == found
    assert found["users"] == USERS and found["runs"] == {"a": [str(pair[0])], "b": [str(pair[1])]}
    tests = [json.loads((run / "results.json").read_text())["test"] for run in pair]
    for name in COMPARED:
        record = found["metrics"][name]
        assert record["difference"] == pytest.approx(tests[0][name] - tests[1][name])
        assert (record["a"]["mean"], record["b"]["mean"]) == pytest.approx((tests[0][name], tests[1][name]))
        assert 0 < record["low"] < record["difference"] < record["high"] and record["p_value"] < 0.05
    printed = capsys.readouterr().out
    assert "good - bad" in printed and f"{found['metrics']['recall@10']['difference']:+.4f}" in printed
    swapped = compare_runs(pair[1:], pair[:1], 0, None)
    assert swapped["metrics"]["ndcg@5"]["difference"] == -found["metrics"]["ndcg@5"]["difference"]


def test_users_are_paired_whatever_their_order(tmp_path):
    ranks = drawn(0.5, 3)
    one, two = (run_folder(tmp_path / str(seed), ranks, seed=seed) for seed in range(2))
    for record in compare_runs([one, two], (), 0, None)["metrics"].values():
        assert (record["difference"], record["low"], record["high"], record["p_value"]) == (0, 0, 0, 1)


def test_seeds_are_averaged_by_user_and_their_deviation_is_shown(tmp_path, capsys):
    ranks = [[drawn(0.5, 10 + seed) for seed in range(3)], [drawn(0.45, 20 + seed) for seed in range(2)]]
    sides = [
        [run_folder(tmp_path / f"{side}{seed}", found, seed=seed) for seed, found in enumerate(given)]
        for side, given in zip("ab", ranks, strict=True)
    ]
    found = compare_runs(*sides, 0, None)
    per_user = [np.mean([metrics_by_user(torch.from_numpy(r)).numpy() for r in given], axis=0) for given in ranks]
    for name in COMPARED:
        column = NAMES.index(name)
        difference_B = (per_user[0] - per_user[1])[:, column]
        record = found["metrics"][name]
        assert record["difference"] == pytest.approx(difference_B.mean())
        error = difference_B.std() / np.sqrt(USERS)
        assert record["high"] - record["low"] == pytest.approx(2 * 1.96 * error, rel=0.06)
        means = [metrics_by_user(torch.from_numpy(r)).numpy()[:, column].mean() for r in ranks[0]]
        assert record["a"] == pytest.approx({"mean": np.mean(means), "sd": np.std(means, ddof=1), "runs": 3})
    assert "±" in capsys.readouterr().out


@pytest.mark.parametrize(("runs", "against"), [(1, 0), (3, 0)])
def test_the_number_of_runs_is_checked(tmp_path, runs, against):
    with pytest.raises(ConfigError, match=f"{runs} --run without --against"):
        compare_runs([tmp_path] * runs, [tmp_path] * against, 0, None)


def test_what_cannot_be_compared_is_refused_and_nothing_is_written(pair, tmp_path):
    out = tmp_path / "out.json"

    def refused(other, match):
        with pytest.raises(ArtefactError, match=match):
            compare_runs([pair[0], other], (), 0, out)
        assert not out.exists()

    refused(run_folder(tmp_path / "elsewhere", drawn(0.5, 5), dataset="c" * 64), "was trained on dataset cccccccccccc")
    others = run_folder(tmp_path / "others", drawn(0.5, 5), users=np.arange(USERS) + 1)
    refused(others, "its ranks are of other users")
    stale = run_folder(tmp_path / "stale", drawn(0.5, 5))
    results = json.loads((stale / "results.json").read_text())
    write_sealed(stale / "results.json", results | {"test": results["test"] | {"ndcg@5": 0.9}})
    refused(stale, "of two evaluations; run `intrr evaluate --run")
    for part in (stale / "ranks").iterdir():
        part.write_bytes(b"torn")
    refused(stale, "ranks: cannot be read")
    for part in (stale / "ranks").iterdir():
        part.unlink()
    (stale / "ranks").rmdir()
    refused(stale, r"has no ranks/, the rank of each user's target; run `intrr evaluate --run")
