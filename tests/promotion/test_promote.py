"""Promotion and roll-back: who wins, what is written, what a kill leaves, on a disk and in a store."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from intrr_rec.cli import app
from intrr_rec.config.promotion import PromotionRule, load_rule
from intrr_rec.data.dataset import Dataset
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.io import artefact
from intrr_rec.io.registry import current_of, decisions, read_decision, read_registry
from intrr_rec.promotion import promote as module
from intrr_rec.promotion.compare_on import COMPARED, Comparison, Standing
from intrr_rec.promotion.judge import Costs, judge
from intrr_rec.promotion.promote import promote, roll_back
from intrr_rec.serving.bundle.bundle import Bundle
from tests.promotion.days import Days, make_days

LENIENT = PromotionRule.model_validate(
    {"accuracy": {"max_loss": 0.99}, "cold": None, "coverage": {"max_loss": 0.99}, "latency": None}
)
IMPOSSIBLE = PromotionRule.model_validate(
    {"accuracy": None, "cold": None, "coverage": None, "latency": None, "size": {"max_ratio": 0.001}}
)


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Days:
    return make_days(tmp_path_factory.mktemp("days"))


def hashes(days: Days) -> list[str]:
    return [artefact.peek(bundle).content_hash for bundle in days.bundles]


def test_a_month_of_decisions_and_a_rollback(days: Days, tmp_path: Path) -> None:
    registry, on, (old, new) = tmp_path / "registry", days.line.dataset, hashes(days)
    first = promote(days.bundles[0], registry, on, LENIENT)
    assert first["promoted"] and first["reason"] == "nothing was served before"
    kept = promote(days.bundles[1], registry, on, IMPOSSIBLE)
    assert not kept["promoted"] and kept["reason"].startswith("size: ")
    assert (read_registry(registry).current, read_registry(registry).previous) == (old, None)
    won = promote(days.bundles[1], registry, on, LENIENT)
    assert won["promoted"] and won["reason"] == "every part of the rule holds"
    assert [check["part"] for check in won["checks"]] == ["accuracy", "accuracy", "coverage", "size"]
    assert (read_registry(registry).current, read_registry(registry).previous) == (new, old)
    assert Bundle.load(registry).manifest.content_hash == new

    assert promote(days.bundles[1], registry, on, LENIENT) == read_decision(registry, 3)  # it is current already
    assert decisions(registry) == [1, 2, 3]
    back = roll_back(registry)
    assert (back.current, back.previous) == (old, new)
    assert Bundle.load(registry).manifest.content_hash == old
    assert "rolled back" in read_decision(registry, 4)["reason"]
    assert roll_back(registry).current == new
    for place in (registry / "bundles").iterdir():
        artefact.read(place, "bundle")


def test_only_the_current_and_the_previous_bundle_stay(days: Days, tmp_path: Path) -> None:
    registry, third = tmp_path / "registry", tmp_path / "third"
    from intrr_rec.serving.bundle.export import write_bundle

    write_bundle(days.today, third, "bfloat16")
    for bundle in (*days.bundles, third):
        promote(bundle, registry, days.line.dataset, LENIENT)
    there = {artefact.peek(place).content_hash for place in (registry / "bundles").iterdir()}
    assert there == {hashes(days)[1], artefact.peek(third).content_hash}


@pytest.mark.parametrize("name", ["_put", "write_decision", "write_record"])
def test_a_kill_at_any_step_leaves_the_current_one_and_the_same_command_goes_on(
    days: Days, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    registry, on, (old, new) = tmp_path / "registry", days.line.dataset, hashes(days)
    promote(days.bundles[0], registry, on, LENIENT)

    def die(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(module, name, die)
        promote(days.bundles[1], registry, on, LENIENT)
    assert read_registry(registry).current == old and Bundle.load(registry).manifest.content_hash == old
    assert decisions(registry) == [1], "a decision that took no effect does not stay"
    promote(days.bundles[1], registry, on, LENIENT)
    assert read_registry(registry).current == new and read_decision(registry, 2)["promoted"]


def test_what_cannot_be_promoted_is_one_line(days: Days, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    with pytest.raises(ArtefactError, match="no such bundle"):
        promote(tmp_path / "none", registry, days.line.dataset, LENIENT)
    assert not registry.exists()
    with pytest.raises(ArtefactError, match="is no registry"):
        roll_back(tmp_path)
    promote(days.bundles[0], registry, days.line.dataset, LENIENT)
    with pytest.raises(ArtefactError, match="has no bundle before the current one"):
        roll_back(registry)
    torn = tmp_path / "torn"
    shutil.copytree(days.bundles[1], torn)
    (torn / "settings.json").write_text("{}")
    with pytest.raises(ArtefactError, match="was altered"):
        promote(torn, registry, days.line.dataset, LENIENT)
    record = json.loads((registry / "registry.json").read_text())
    (registry / "registry.json").write_text(json.dumps(record | {"current": "0" * 64}))
    with pytest.raises(ArtefactError, match="was altered"):
        Bundle.load(registry)


def test_two_jobs_do_not_decide_at_once(days: Days, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    with module._held(registry), pytest.raises(ArtefactError, match="another job is deciding there"):
        promote(days.bundles[0], registry, days.line.dataset, LENIENT)


def test_the_shipped_rule_is_the_default_and_mistakes_are_named(tmp_path: Path) -> None:
    shipped = Path(__file__).parents[2] / "configs" / "promotion.yaml"
    assert load_rule(shipped) == PromotionRule() == load_rule(None)
    file = tmp_path / "rule.yaml"
    for text, said in [
        ("acuracy: {}", "unknown key 'acuracy'; did you mean 'accuracy'"),
        ("accuracy: {max_loss: 2}", "accuracy.max_loss"),
        ("size: {max_ratio: -1}", "size.max_ratio"),
    ]:
        file.write_text(text)
        with pytest.raises(ConfigError, match=said.replace(".", r"\.").replace("{", r"\{")):
            load_rule(file)


def comparison(dataset: Dataset, candidate: float, current: float, users: int = 4_000) -> Comparison:
    """Two models that find each of some users' targets with given chances; a tenth of the targets is cold."""
    rng = np.random.default_rng(0)
    standings = [
        Standing(
            Path(name), "bundle", 10, np.repeat(rng.random((users, 1)) < hit, len(COMPARED), 1) * 1.0, 10, 0, cover
        )
        for name, hit, cover in (("candidate", candidate, 0.5), ("current", current, 0.6))
    ]
    return Comparison(dataset, standings, np.arange(users) < users // 10, 0)


@pytest.mark.parametrize(
    ("hits", "rule", "passed"),
    [
        ((0.30, 0.30), {"accuracy": {"max_loss": 0.1}}, True),
        ((0.30, 0.30), {"accuracy": {"max_loss": 0.0}}, False),  # equal, but not shown to be no worse
        ((0.35, 0.30), {"accuracy": {"max_loss": 0.0}}, True),
        ((0.25, 0.30), {"accuracy": {"max_loss": 0.1}}, False),
        ((0.25, 0.30), {"cold": {"max_loss": 0.1, "min_users": 400}}, False),
        ((0.25, 0.30), {"cold": {"max_loss": 0.1, "min_users": 401}}, None),
        ((0.30, 0.30), {"coverage": {"max_loss": 0.1}}, False),
        ((0.30, 0.30), {"coverage": {"max_loss": 0.2}}, True),
        ((0.30, 0.30), {"latency": {"max_ratio": 1.5}}, False),
        ((0.30, 0.30), {"latency": {"max_ratio": 2}}, True),
        ((0.30, 0.30), {"size": {"max_ratio": 1.0}}, False),
        ((0.30, 0.30), {"size": {"max_ratio": 1.1}}, True),
    ],
)
def test_each_part_of_a_rule(days: Days, hits: tuple[float, float], rule: dict, passed: bool | None) -> None:
    none = dict.fromkeys(PromotionRule.model_fields)
    costs = Costs((2.0, 1.0), (3.0, 2.0), (110, 100))
    checks = judge(PromotionRule.model_validate(none | rule), comparison(Dataset.open(days.line.dataset), *hits), costs)
    assert {check.passed for check in checks} == {passed} and {check.part for check in checks} == set(rule)


def test_the_verbs_say_who_won_and_why(days: Days, tmp_path: Path) -> None:
    registry, rule = str(tmp_path / "registry"), tmp_path / "rule.yaml"
    rule.write_text("cold: null\nlatency: {requests: 10, max_ratio: 100}\naccuracy: {max_loss: 0.99}\n")

    def said(*words: str) -> str:
        done = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
        assert done.exit_code == 0, done.output
        return done.output

    words = ("--over", registry, "--on", str(days.line.dataset), "--rule", str(rule))
    assert "decision 1: promoted: nothing was served before" in said("promote", str(days.bundles[0]), *words)
    found = said("promote", str(days.bundles[1]), *words)
    for text in ("latency", "median of a request", "size", "coverage", "decision 2: promoted: every part"):
        assert text in found, found
    assert "decision 3: rolled back from" in said("rollback", registry)
    ids = said("compare", "--on", str(days.line.dataset), "--run", registry, "--run", str(days.bundles[1]))
    assert "A - B" in ids


def test_a_registry_in_a_store(days: Days, bucket: object) -> None:
    registry, on, (old, new) = "s3://bucket/registry", days.line.dataset, hashes(days)
    for bundle in days.bundles:
        assert promote(bundle, registry, on, LENIENT)["promoted"]
    assert Bundle.load(registry).manifest.content_hash == new
    assert roll_back(registry).current == old
    assert artefact.peek(current_of(registry)).content_hash == old
    assert Bundle.load(registry).manifest.content_hash == old
