"""The guard calls slower what is slower, and only that."""

import json
from pathlib import Path

import pytest

from benchmarks.speed import guard
from intrr_rec.errors import ArtefactError

KEPT = {"tolerance": 1.25, "ratios": dict.fromkeys(guard.CASES, 2.0)}


def test_slower_is_what_passes_the_tolerance():
    first, *others = guard.CASES
    found = dict.fromkeys(others, 2.49) | {first: 2.51}
    assert guard.slower(found, KEPT) == [first]
    assert guard.slower(dict.fromkeys(guard.CASES, 0.1), KEPT) == []


def test_a_processor_without_a_record_is_held_to_the_slowest_kind(caplog):
    first, *others = guard.CASES
    kinds = {
        "one": {"ratios": dict.fromkeys(guard.CASES, 2.0)},
        "two": {"ratios": dict.fromkeys(others, 1.0) | {first: 3.0}},
    }
    assert guard.bound(kinds, "two") == {"tolerance": guard.TOLERANCE, "ratios": kinds["two"]["ratios"]}
    assert not caplog.text
    kept = guard.bound(kinds, "three")
    assert kept == {"tolerance": guard.TOLERANCE_ELSEWHERE, "ratios": dict.fromkeys(others, 2.0) | {first: 3.0}}
    assert "no record of three" in caplog.text
    assert guard.slower(dict.fromkeys(guard.CASES, 3.51), kept) == others


def test_the_records_hold_several_kinds_that_differ_less_than_the_tolerance_elsewhere():
    kinds = guard.read_baseline(guard_records())
    assert len(kinds) >= 3
    for name in guard.CASES:
        ratios = [kind["ratios"][name] for kind in kinds.values()]
        assert max(ratios) < guard.TOLERANCE_ELSEWHERE * min(ratios)


def guard_records():
    return Path(guard.__file__).parents[1] / "guard.json"


@pytest.mark.parametrize("text", [None, "{}", json.dumps({"kinds": {"one": {"ratios": {"another case": 1.0}}}})])
def test_a_baseline_that_is_missing_or_of_other_cases_is_refused(tmp_path, text):
    path = tmp_path / "guard.json"
    if text:
        path.write_text(text)
    with pytest.raises(ArtefactError, match="--record"):
        guard.read_baseline(path)


@pytest.mark.slow
@pytest.mark.parametrize("processor", [None, "another"])
def test_what_was_recorded_here_holds_and_a_tenth_of_it_does_not(tmp_path, monkeypatch, processor):
    path = tmp_path / "guard.json"
    assert guard.bench_guard(path, record=True, rounds=3)
    [kept] = json.loads(path.read_text())["kinds"].values()
    if processor:
        monkeypatch.setattr(guard, "_processor", lambda: processor)
    for factor, holds in ((10, True), (0.1, False)):
        ratios = {name: ratio * factor for name, ratio in kept["ratios"].items()}
        path.write_text(json.dumps({"kinds": {"here": {"ratios": ratios}}}))
        assert guard.bench_guard(path, record=False, rounds=1) == holds
