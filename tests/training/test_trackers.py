"""A run in MLflow's local store and in Weights & Biases' offline files, beside the run folder; a tracker that fails, and one that resumes."""

from __future__ import annotations

import json
import logging
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from intrr_rec.config import Section, load_recipe, same_run, save_recipe
from intrr_rec.errors import ConfigError
from intrr_rec.runs.metrics_file import metric_lines
from intrr_rec.training.resuming import _require_same_recipe
from intrr_rec.training.trackers.tracker import TrackedRun, Tracker
from intrr_rec.training.trainer import train
from tests import tiny


class Kept(Tracker):
    """Keeps what it is given, or fails."""

    class Config(Section):
        fails: bool = False

    told: ClassVar[list[tuple[str, Any]]] = []

    def __init__(self, config: Any) -> None:
        self.fails = config.fails

    def begin(self, run: TrackedRun) -> str:
        self.told.append(("begin", run))
        return run.id or "seven"

    def log(self, figures: Mapping[str, float], step: int) -> None:
        if self.fails:
            raise ConnectionError("nobody there")
        self.told.append(("log", (step, dict(figures))))

    def summarize(self, figures: Mapping[str, float]) -> None:
        self.told.append(("summarize", dict(figures)))

    def end(self, *, finished: bool) -> None:
        self.told.append(("end", finished))


KEPT = f"track.tracker={__name__}:Kept"


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> tiny.Line:
    return tiny.make_line(tmp_path_factory.mktemp("line"))


@pytest.fixture(autouse=True)
def forget() -> None:
    Kept.told.clear()


def test_a_tracker_gets_every_figure_and_the_same_run_when_training_goes_on(line: tiny.Line, tmp_path: Path) -> None:
    run = tmp_path / "a run"
    made = train(tiny.recipe("train.epochs=1", KEPT, "track.tags={team: search}"), out=run, **line.inputs())
    names = [name for name, _ in Kept.told]
    assert names == ["begin", "log", "log", "summarize", "end"]
    begun = Kept.told[0][1]
    assert begun.name == "a run" and begun.id is None and begun.tags["team"] == "search"
    assert begun.settings["model.hstu.layers"] == 2 and begun.settings["train.epochs"] == 1
    assert len(begun.tags["dataset"]) == 64
    assert Kept.told[-2][1] == {f"test/{name}": value for name, value in made["test"].items()}
    assert Kept.told[-1][1] is True

    Kept.told.clear()
    train(tiny.recipe("train.epochs=2", KEPT, "track.tags={team: ads}"), out=run, **line.inputs())
    assert Kept.told[0][1].id == "seven"
    logged = [figures for name, figures in Kept.told if name == "log"]
    written = metric_lines(run / "metrics.jsonl")[-2:]
    assert [step for step, _ in logged] == [each["step"] for each in written]
    assert logged[0][1]["train/loss"] == written[0]["loss"]


def test_a_tracker_that_fails_is_a_warning_and_training_goes_on(
    line: tiny.Line, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = tiny.recipe("train.epochs=1", KEPT, "track.kept.fails=true")
    with caplog.at_level(logging.WARNING, "intrr_rec.training.tracking"):
        train(asked, out=tmp_path / "run", **line.inputs())
    said = [record.getMessage() for record in caplog.records if record.name == "intrr_rec.training.tracking"]
    assert said == [
        f"track.tracker: {__name__}:Kept has not taken figures (ConnectionError: nobody there); metrics.jsonl has them, and "
        "training goes on"
    ]
    assert (tmp_path / "run/results.json").is_file()


def test_a_stopped_run_is_not_finished(line: tiny.Line, tmp_path: Path) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny.recipe(KEPT), out=tmp_path / "run", on_figures=interrupt, **line.inputs())
    assert Kept.told[-1] == ("end", False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["track.tracker=mlfow"], "did you mean 'mlflow'"),
        (["track.tracker=mlflow", "track.mlflow.uri=https://me:secret@host/"], "MLFLOW_TRACKING_PASSWORD"),
        (["track.wandb.mode=of"], "'online' or 'offline'"),
    ],
)
def test_a_mistake_is_named(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_recipe(None, words)


def test_a_tracker_that_cannot_begin_writes_nothing(
    line: tiny.Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"track\.tracker: (wandb has no key|the package wandb is not installed)"):
        train(tiny.recipe("track.tracker=wandb"), out=tmp_path / "run", **line.inputs())
    assert not (tmp_path / "run/config.yaml").exists()


def test_another_tracker_is_the_same_run(tmp_path: Path) -> None:
    save_recipe(load_recipe(None, ["track.tracker=mlflow"]), tmp_path / "config.yaml")
    assert same_run(tmp_path / "config.yaml", load_recipe(None, []))


@pytest.mark.parametrize(("was", "now"), [("{action: {view: 0.2}}", "{}"), ("{}", "{action: {view: 0.2}}")])
def test_a_run_with_a_setting_more_or_less_is_another_run(tmp_path: Path, was: str, now: str) -> None:
    save_recipe(load_recipe(None, [f"train.target_weights={was}"]), tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"holds a run with another train\.target_weights"):
        _require_same_recipe(load_recipe(None, [f"train.target_weights={now}"]), tmp_path)
    _require_same_recipe(load_recipe(None, [f"train.target_weights={was}", "track.tags={a: b}"]), tmp_path)


@pytest.mark.slow
def test_mlflow_keeps_a_run_in_a_store_beside_the_runs(
    line: tiny.Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="requirements/mlflow.txt installs it")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = ("track.tracker=mlflow", "track.mlflow.experiment=shop", "track.tags={team: search}")
    run = tmp_path / "runs/monday"
    for epochs in (1, 2):  # the second goes on
        made = train(tiny.recipe(f"train.epochs={epochs}", *words), out=run, **line.inputs())
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("shop").experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == "monday"
    assert found.data.tags["intrr_rec.team"] == "search" and found.data.params["model.hstu.layers"] == "2"
    assert found.data.metrics["test/recall_at_10"] == made["test"]["recall@10"]
    written = [each for each in metric_lines(run / "metrics.jsonl") if each["split"] == "train"]
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(each.step, each.value) for each in history] == [(each["step"], each["loss"]) for each in written]

    with pytest.raises(ConfigError, match=r"track\.tracker: mlflow cannot open the run"):
        train(
            tiny.recipe(*words, f"track.mlflow.uri=sqlite:///{run}/config.yaml/x.db"),
            out=tmp_path / "other",
            **line.inputs(),
        )


def log_records(data: bytes) -> Iterator[bytes]:
    """Records of a file in LevelDB's log format: blocks of 32 KB, parts of records with a header of CRC, length and type."""
    assert data[:4] == b":W&B"
    at, record = 7, b""
    while at + 7 <= len(data):
        if (left := 32_768 - at % 32_768) < 7:
            at += left
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


@pytest.mark.slow
def test_weights_and_biases_keeps_a_run_in_files(line: tiny.Line, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="requirements/wandb.txt installs it")
    from wandb.proto import wandb_internal_pb2

    run = tmp_path / "monday"
    words = ("train.epochs=1", "track.tracker=wandb", "track.wandb.mode=offline", "track.wandb.project=shop")
    made = train(tiny.recipe(*words), out=run, **line.inputs())
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    records, end = [], time.monotonic() + 60
    while not (records and records[-1].HasField("exit")):  # its service ends the file after `finish` has returned
        assert time.monotonic() < end, records
        records = [wandb_internal_pb2.Record.FromString(data) for data in log_records(file.read_bytes())]
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for record in records:
        if record.HasField("history"):
            items = record.history.item
            rows.append({each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in items})
        for each in record.summary.update:
            summary[each.key or "/".join(each.nested_key)] = json.loads(each.value_json)
        if record.HasField("run"):
            assert (record.run.project, record.run.display_name) == ("shop", "monday")
    losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    written = [each for each in metric_lines(run / "metrics.jsonl") if each["split"] == "train"]
    assert losses == [(each["step"], each["loss"]) for each in written]
    assert summary["test/recall@10"] == made["test"]["recall@10"]
