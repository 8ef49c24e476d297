"""Runs as records: spreads against the textbook, and refusals where a spread would mislead."""

import math
import statistics

import pytest

from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.runs.records import read_run, summarize
from tests.sealing import write_run_record, write_sealed


def run_folder(path, test, dataset="a" * 64):
    write_run_record(path, dataset)
    write_sealed(path / "results.json", {"seed": 0, "test": test})
    return path


def test_mean_and_sample_deviation_of_every_metric(tmp_path):
    values = {"recall@10": [0.0612, 0.0655, 0.0630], "ndcg@10": [0.035, 0.037, 0.036]}
    runs = [
        read_run(run_folder(tmp_path / str(seed), {name: found[seed] for name, found in values.items()}))
        for seed in range(3)
    ]
    spreads = summarize(runs)
    assert list(spreads) == sorted(values)
    for name, found in values.items():
        assert math.isclose(spreads[name].mean, statistics.mean(found))
        assert math.isclose(spreads[name].sd, statistics.stdev(found))
        assert spreads[name].runs == 3
    assert str(spreads["ndcg@10"]) == "0.0360 ± 0.0010"


def test_one_run_has_no_deviation(tmp_path):
    spread = summarize([read_run(run_folder(tmp_path / "run", {"recall@10": 0.05}))])["recall@10"]
    assert (spread.mean, spread.sd, str(spread)) == (0.05, None, "0.0500")


def test_what_cannot_be_summarised_is_refused(tmp_path):
    one = read_run(run_folder(tmp_path / "one", {"recall@10": 0.05}))
    elsewhere = read_run(run_folder(tmp_path / "elsewhere", {"recall@10": 0.05}, dataset="c" * 64))
    other = read_run(run_folder(tmp_path / "other", {"recall@5": 0.05}))
    with pytest.raises(
        ArtefactError, match=r"elsewhere: was trained on dataset cccccccccccc, but .*one on aaaaaaaaaaaa"
    ):
        summarize([one, elsewhere])
    with pytest.raises(ArtefactError, match="other: has other test metrics"):
        summarize([one, other])
    with pytest.raises(ConfigError, match="named twice"):
        summarize([one, other.__class__(tmp_path / "." / "one", one.results, one.dataset_hash)])
    with pytest.raises(ConfigError, match="no runs"):
        summarize([])


def test_what_is_no_evaluated_run_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match="not a run folder"):
        read_run(tmp_path)
    folder = run_folder(tmp_path / "my run", {})
    with pytest.raises(ArtefactError, match=r"has no test metrics; run `intrr evaluate --run '.*my run'`"):
        read_run(folder)
    (folder / "results.json").unlink()
    with pytest.raises(ArtefactError, match="has no test metrics"):
        read_run(folder)
    (folder / "run.json").write_text("{}")
    with pytest.raises(ArtefactError, match="has no 'sha256'"):
        read_run(folder)
