"""A run cut off anywhere resumes to the figures, results and weights of the uninterrupted one, to the last digit."""

import json
import logging
import signal

import pytest

from intrr_rec.errors import ArtefactError, ConfigError, Stopped
from intrr_rec.evaluation.results import evaluate_run
from intrr_rec.training import trainer
from intrr_rec.training.signals import StopSignals
from intrr_rec.training.trainer import Trainer, train
from tests import tiny
from tests.training.figures import lines, story

# All that draws at random or depends on the step: dropout, negatives, warm-up and a falling learning rate. An epoch has 4 steps.
WORDS = (
    "train.learning_rate=0.01",
    "train.epochs=3",
    "model.hstu.dropout=0.2",
    "model.input_dropout=0.2",
    "model.ran.dropout=0.2",
    "model.dense={weight: 1, negatives: 8}",
    "train.schedule=linear",
    "train.warmup_steps=3",
)


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"))


@pytest.fixture(scope="module")
def whole(line, tmp_path_factory):
    """A run never interrupted, with checkpoints at validations only."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny.recipe(*WORDS), **line.inputs(), out=out)
    return story(out)


def cut_off(monkeypatch, line, out, words, owner, name, call):
    """Train until `owner.name` is called for the `call`-th time."""
    original, calls = getattr(owner, name), []

    def cut(self, *arguments, **named):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, cut)
        with pytest.raises(KeyboardInterrupt):
            train(tiny.recipe(*words), **line.inputs(), out=out)


def steps(out):
    return sorted(int(path.name[5:]) for path in (out / "checkpoints").glob("step-*"))


@pytest.mark.parametrize(
    ("every", "owner", "name", "call", "from_step"),
    [
        ("null", Trainer, "step", 6, [4]),
        pytest.param("3", Trainer, "step", 3, [], marks=pytest.mark.slow),
        ("3", Trainer, "step", 6, [3, 4]),
        pytest.param("3", Trainer, "step", 8, [4, 6], marks=pytest.mark.slow),
        pytest.param("1", Trainer, "step", 11, [9, 10], marks=pytest.mark.slow),
        ("4", trainer.Evaluator, "evaluate", 2, [4, 8]),
        ("3", trainer.Evaluator, "evaluate", 3, [9, 12]),
        ("3", Trainer, "_save", 4, [4, 6]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_cut_off_and_resumed_equals_uninterrupted(
    line, whole, tmp_path, monkeypatch, every, owner, name, call, from_step
):
    """In mid-epoch, after an epoch's last step with its figures written, and with figures written but no checkpoint."""
    words = (*WORDS, f"train.checkpoint_every={every}")
    cut_off(monkeypatch, line, tmp_path / "run", words, owner, name, call)
    assert steps(tmp_path / "run") == from_step
    train(tiny.recipe(*words), **line.inputs(), out=tmp_path / "run")
    assert story(tmp_path / "run") == whole


def test_cut_off_many_times_with_another_rhythm_each_time(line, whole, tmp_path, monkeypatch):
    for every, call in (2, 3), (3, 2), (1, 2), (5, 3):
        words = (*WORDS, f"train.checkpoint_every={every}", "train.keep_checkpoints=9")
        cut_off(monkeypatch, line, tmp_path / "run", words, Trainer, "step", call)
    assert steps(tmp_path / "run") == [2, 3, 4, 5]
    train(tiny.recipe(*WORDS), **line.inputs(), out=tmp_path / "run")
    assert story(tmp_path / "run") == whole


@pytest.mark.parametrize(
    ("look", "step"),
    [(5, 4), (17, 12), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(2, 2), (6, 5), (16, 12)])],
    ids=["valid", "test", "step", "next", "end"],
)
def test_told_to_stop_it_saves_where_it_is(line, whole, tmp_path, monkeypatch, look, step):
    """At a step, before an epoch's validation is done, and while the final results are made."""
    looks = []

    def agreed(self):
        looks.append(1)
        return signal.SIGTERM if len(looks) == look else None

    with monkeypatch.context() as patch:
        patch.setattr(StopSignals, "agreed", agreed)
        with pytest.raises(Stopped, match=f"SIGTERM: stopped, saved after step {step};") as caught:
            train(tiny.recipe(*WORDS), **line.inputs(), out=tmp_path / "run")
    assert caught.value.exit_code == 75 and max(steps(tmp_path / "run")) == step
    train(tiny.recipe(*WORDS), **line.inputs(), out=tmp_path / "run")
    assert story(tmp_path / "run") == whole


def test_a_changed_length_moves_a_falling_learning_rate_so_it_is_refused(line, tmp_path, monkeypatch):
    cut_off(monkeypatch, line, tmp_path / "run", WORDS, Trainer, "step", 6)
    with pytest.raises(ConfigError, match=r"another train\.epochs"):
        train(tiny.recipe(*WORDS, "train.epochs=9"), **line.inputs(), out=tmp_path / "run")


# Without dropout, which every part of a step draws for itself; the tables' own optimizers, so that they may move.
MOVABLE = (
    "train.learning_rate=0.01",
    "train.epochs=2",
    "train.sharding.uid=row_wise",
    "model.ran.dropout=0",
    "train.checkpoint_every=3",
)


def test_other_threads_parts_and_places_of_the_table_give_the_same_figures(line, tmp_path, monkeypatch):
    train(tiny.recipe(*MOVABLE), **line.inputs(), out=tmp_path / "whole")
    changed = ("train.loader.workers=3", "train.accumulate=2", "train.sharding.uid=table_wise")
    cut_off(monkeypatch, line, tmp_path / "run", MOVABLE, Trainer, "step", 6)
    cut_off(monkeypatch, line, tmp_path / "run", (*MOVABLE, *changed), Trainer, "step", 2)  # from 3 or 4 to 6
    train(tiny.recipe(*MOVABLE), **line.inputs(), out=tmp_path / "run")
    for one, two in zip(lines(tmp_path / "whole"), lines(tmp_path / "run"), strict=True):
        assert two.pop("split") == one.pop("split")
        assert two == pytest.approx(one, rel=1e-5)
    tests = [json.loads((tmp_path / run / "results.json").read_text())["test"] for run in ("whole", "run")]
    assert tests[0] == pytest.approx(tests[1], rel=1e-5)


@pytest.mark.parametrize(
    ("place", "line_of"),
    [
        (
            "data_parallel",
            r"trains this table with rowwise_adagrad, the dense Adam trains it there; resume with row_wise or table_wise",
        ),
        (
            "column_wise",
            r"trains this table with rowwise_adagrad, adagrad trains it there; resume with row_wise or table_wise",
        ),
        (
            "auto",
            r"rowwise_adagrad, and the planner may choose a place with another optimizer; resume with row_wise or",
        ),
    ],
)
def test_a_place_where_another_optimizer_trains_the_table_is_refused(line, tmp_path, monkeypatch, place, line_of):
    cut_off(monkeypatch, line, tmp_path / "run", MOVABLE, Trainer, "step", 5)
    kept = (tmp_path / "run/config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=line_of):
        train(tiny.recipe(*MOVABLE, f"train.sharding.uid={place}"), **line.inputs(), out=tmp_path / "run")
    assert (tmp_path / "run/config.yaml").read_bytes() == kept


def test_from_a_place_that_the_planner_chose_the_plan_tells_the_optimizer(line, tmp_path, monkeypatch):
    words = (*MOVABLE, "train.sharding.uid=auto")
    cut_off(monkeypatch, line, tmp_path / "run", words, Trainer, "step", 5)
    plan = json.loads((tmp_path / "run/plan.json").read_text())
    (uid,) = (table for table in plan["tables"] if table["name"] == "uid")
    cut_off(monkeypatch, line, tmp_path / "run", (*words, f"train.sharding.uid={uid['sharding']}"), Trainer, "step", 1)


def spoil(folder, file="__0_0.distcp"):
    """Flip one bit."""
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)


def test_a_damaged_checkpoint_is_skipped_and_named(line, whole, tmp_path, monkeypatch, caplog):
    words, checkpoints = (*WORDS, "train.checkpoint_every=3"), tmp_path / "run" / "checkpoints"
    cut_off(monkeypatch, line, tmp_path / "run", words, Trainer, "step", 8)
    spoil(checkpoints / "step-00000006")
    with caplog.at_level(logging.WARNING, "intrr_rec"):
        cut_off(monkeypatch, line, tmp_path / "run", (*WORDS, "train.checkpoint_every=5"), Trainer, "step", 3)
    (said,) = [record.message for record in caplog.records if "skipped" in record.message]
    assert "step-00000006: is damaged (__0_0.distcp is not what was written)" in said
    assert steps(tmp_path / "run") == [4, 5]  # what was skipped does not count among the newest
    train(tiny.recipe(*words), **line.inputs(), out=tmp_path / "run")
    assert story(tmp_path / "run") == whole


def test_no_checkpoint_that_is_whole_is_one_clear_error(line, tmp_path, monkeypatch):
    cut_off(monkeypatch, line, tmp_path / "run", (*WORDS, "train.checkpoint_every=3"), Trainer, "step", 8)
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    for folder in (tmp_path / "run/checkpoints").glob("step-*"):
        (folder / "complete.json").unlink()
    with pytest.raises(
        ArtefactError, match=r"none of its checkpoints can be used \(.*step-00000006: .*; put back a whole"
    ):
        train(tiny.recipe(*WORDS), **line.inputs(), out=tmp_path / "run")
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("words", [(), ("train.ema_decay=0.5",)], ids=["weights", "average"])
def test_the_newest_checkpoint_stands_in_for_a_damaged_best_and_that_is_said(line, tmp_path, caplog, words):
    run = tmp_path / "run"
    train(tiny.recipe("train.epochs=3", "evaluate.validation_beam=20", *words), **line.inputs(), out=run)
    newest, best = run / "checkpoints/step-00000012", run / "checkpoints/best"
    there = evaluate_run(run, [])
    assert there["checkpoint"] == "best"
    spoil(best)
    with caplog.at_level(logging.WARNING, "intrr_rec"):
        found = evaluate_run(run, [])
    (said,) = [record.message for record in caplog.records if "stands in" in record.message]
    assert "best: is damaged (__0_0.distcp is not what" in said and "step-00000012 stands in for it" in said
    assert (found["checkpoint"], found["best_epoch"]) == ("step-00000012", 3)
    newest_figures = [record for record in lines(run, "valid") if record["step"] == 12]
    assert found["valid"]["recall@10"] == newest_figures[0]["recall@10"]
    spoil(newest)
    spoil(run / "checkpoints/step-00000008")
    with pytest.raises(ArtefactError, match="none of its checkpoints can be used"):
        evaluate_run(run, [])


def test_as_many_checkpoints_as_asked_stay(line, tmp_path):
    words = ("train.checkpoint_every=1", "train.keep_checkpoints=3")
    train(tiny.recipe(*words), **line.inputs(), out=tmp_path / "run")
    there = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert there == ["best", "step-00000006", "step-00000007", "step-00000008"]
    state = json.loads((tmp_path / "run/checkpoints/step-00000007/state.json").read_text())
    assert (state["epoch"], state["epoch_step"], state["step"]) == (1, 3, 7)
