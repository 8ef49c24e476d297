"""The guard calls slower what is slower, and only that."""

import json

import pytest

from benchmarks.speed import guard
from intrr_rec.errors import ArtefactError

KEPT = {"tolerance": 1.25, "ratios": dict.fromkeys(guard.CASES, 2.0)}


def test_slower_is_what_passes_the_tolerance():
    first, *others = guard.CASES
    found = dict.fromkeys(others, 2.49) | {first: 2.51}
    assert guard.slower(found, KEPT) == [first]
    assert guard.slower(dict.fromkeys(guard.CASES, 0.1), KEPT) == []


@pytest.mark.parametrize("text", [None, "{}", json.dumps({"ratios": {"another case": 1.0}})])
def test_a_baseline_that_is_missing_or_of_other_cases_is_refused(tmp_path, text):
    path = tmp_path / "guard.json"
    if text:
        path.write_text(text)
    with pytest.raises(ArtefactError, match="--record"):
        guard.read_baseline(path)


@pytest.mark.slow
def test_what_was_recorded_here_holds_and_a_tenth_of_it_does_not(tmp_path, caplog):
    path = tmp_path / "guard.json"
    assert guard.bench_guard(path, record=True, rounds=3)
    kept = json.loads(path.read_text())
    loose, strict = ({name: ratio * factor for name, ratio in kept["ratios"].items()} for factor in (10, 0.1))
    for ratios, holds in ((loose, True), (strict, False)):
        path.write_text(json.dumps(kept | {"ratios": ratios}))
        assert guard.bench_guard(path, record=False, rounds=1) == holds
    path.write_text(json.dumps(kept | {"ratios": strict, "processor": "another"}))
    assert guard.bench_guard(path, record=False, rounds=1)
    assert "NOTHING IS GUARDED" in caplog.text
