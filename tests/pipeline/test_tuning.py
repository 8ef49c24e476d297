"""`intrr tune`: what is proposed, stopped and counted, also when it is killed; trials as real jobs on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from torchx.runner import get_runner
from torchx.specs import AppState

from intrr_rec.config import load_recipe
from intrr_rec.errors import ArtefactError, ConfigError, Stopped
from intrr_rec.pipeline.tuning import search
from intrr_rec.pipeline.tuning.description import load_study
from intrr_rec.pipeline.tuning.journal import JOURNAL, WORDS
from intrr_rec.pipeline.tuning.trials import job_of, run_of
from intrr_rec.runs.metrics_file import metric_line
from tests import tiny
from tests.distributed.launch import ROOT

SEARCH = {
    "train.learning_rate": {"low": 0.0001, "high": 0.1, "log": True},
    "model.hstu.layers": {"low": 1, "high": 3},
    "model.input_dropout": {"values": [0.0, 0.5]},
}
EPOCHS = 6


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> tiny.Line:
    return tiny.make_line(tmp_path_factory.mktemp("line"))


def write(folder: Path, line: tiny.Line, **changes: Any) -> Path:
    tree = {
        "work": "study",
        "dataset": str(line.dataset),
        "semantic_ids": str(line.semantic_ids),
        "settings": list(tiny.SMALL),
        "search": SEARCH,
        "trials": 8,
        "prune": {"trials": 2, "epochs": 1},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(tree | changes))
    return path


class Killed(BaseException):
    """What SIGKILL is to a process that is this one."""


class Status:
    def __init__(self, state: AppState) -> None:
        self.state = state

    def is_terminal(self) -> bool:
        return self.state != AppState.RUNNING


class Jobs:
    """A scheduler whose jobs write a validation each time they are asked after: better the nearer the learning rate is to 0.01."""

    def __init__(self, die_after: int | None = None, state: AppState = AppState.SUCCEEDED) -> None:
        self.die_after, self.end = die_after, state
        self.asked, self.cancelled = 0, set()
        self.runs: dict[str, tuple[Path, float]] = {}

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, app: Any, scheduler: str, options: Any) -> str:
        words = " ".join(app.roles[0].args)
        run = Path(words.partition("--out ")[2].split()[0])
        rate = float(words.partition("train.learning_rate=")[2].split()[0])
        handle = f"{scheduler}://{len(self.runs)}-{id(self)}"
        self.runs[handle] = (run, 1 / (1 + abs(rate - 0.01)))
        return handle

    def status(self, handle: str) -> Status | None:
        self.asked += 1
        if self.die_after is not None and self.asked > self.die_after:
            raise Killed
        if handle not in self.runs:
            return None  # another process's
        if handle in self.cancelled:
            return Status(AppState.CANCELLED)
        run, value = self.runs[handle]
        if self.end != AppState.SUCCEEDED:
            return Status(self.end)
        run.mkdir(parents=True, exist_ok=True)
        figures = run / "metrics.jsonl"
        done = figures.read_text().count("\n") if figures.is_file() else 0
        if done == EPOCHS:
            (run / "checkpoints").mkdir(exist_ok=True)
            (run / "results.json").write_text("{}")
            return Status(AppState.SUCCEEDED)
        record = {"split": "valid", "step": done + 1, "epoch": done + 1, "recall@10": value * (done + 1) / EPOCHS}
        with open(figures, "a") as file:
            file.write(metric_line(record) + "\n")
        return Status(AppState.RUNNING)

    def cancel(self, handle: str) -> None:
        self.cancelled.add(handle)


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("optuna", reason="requirements/tune.txt installs it")
    monkeypatch.setattr(search, "POLL_SECONDS", 0)

    def of(**how: Any) -> Jobs:
        made = Jobs(**how)
        monkeypatch.setattr(search, "own_runner", lambda: made)
        return made

    return of


def trials_of(path: Path) -> list[tuple[str, dict[str, Any], float | None]]:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    study = load_study(path)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(study.work / JOURNAL)))
    found = optuna.load_study(study_name="intrr", storage=storage).get_trials()
    return [(each.state.name, each.user_attrs[WORDS], each.value) for each in found]


@pytest.mark.slow
def test_a_study_that_is_killed_proposes_and_finds_what_it_would_have(
    line: tiny.Line, tmp_path: Path, jobs: Any
) -> None:
    whole = write(tmp_path, line, work="whole")
    jobs()
    best = search.tune(whole, show=False)
    expected = trials_of(whole)
    assert len(expected) == 8 and {state for state, _, _ in expected} == {"COMPLETE", "PRUNED"}
    values = [value for state, _, value in expected if state == "COMPLETE"]
    study = load_study(whole)
    number = next(n for n, (_, _, value) in enumerate(expected) if value == max(values))
    assert best == run_of(study, number)
    made, asked = load_recipe(study.work / "best.yaml"), study.recipe_of(expected[number][1])
    assert made == asked and made.train.learning_rate == expected[number][1]["train.learning_rate"]
    kept = {int(run.parent.name) for run in study.work.glob("trials/*/checkpoints")}
    ranked = sorted((n for n, each in enumerate(expected) if each[0] == "COMPLETE"), key=lambda n: -expected[n][2])
    assert kept == set(ranked[:3])

    killed = write(tmp_path, line, work="killed")
    for die_after in (0, 3, 1, 9, 5):
        jobs(die_after=die_after)
        with pytest.raises(Killed):
            search.tune(killed, show=False)
        with open(load_study(killed).work / JOURNAL, "ab") as journal:
            journal.write(b'{"op_code":')  # a line that was being written
    jobs()
    search.tune(killed, show=False)
    assert trials_of(killed) == expected


@pytest.mark.slow
def test_several_at_once_and_more_later(line: tiny.Line, tmp_path: Path, jobs: Any, capsys: Any) -> None:
    jobs()
    search.tune(write(tmp_path, line, trials=4, at_once=3, prune=None), show=False)
    more = write(tmp_path, line, trials=5, at_once=2, prune=None)
    search.tune(more, show=False)
    found = trials_of(more)
    assert [state for state, _, _ in found] == ["COMPLETE"] * 5
    capsys.readouterr()
    search.tune(more, show=True)
    assert capsys.readouterr().out.count("complete") == 4  # and one best


@pytest.mark.slow
def test_trial_after_trial_that_fails_ends_the_search(line: tiny.Line, tmp_path: Path, jobs: Any) -> None:
    jobs(state=AppState.FAILED)
    with pytest.raises(Stopped, match=r"3 trials in a row failed; the last: local_cwd://\S+ is FAILED"):
        search.tune(write(tmp_path, line), show=False)


@pytest.mark.slow
def test_another_search_in_the_same_folder_is_refused(line: tiny.Line, tmp_path: Path, jobs: Any) -> None:
    jobs()
    path = write(tmp_path, line, trials=1)
    search.tune(path, show=False)
    with pytest.raises(ConfigError, match="holds a study with another settings"):
        search.tune(write(tmp_path, line, trials=1, settings=[*tiny.SMALL, "train.seed=1"]), show=False)
    (load_study(path).work / JOURNAL).write_text("no json\n[]\n")
    with pytest.raises(ArtefactError, match="is not the journal of a study"):
        search.tune(path, show=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"search": {"train.learning_rat": {"low": 0.1, "high": 0.2}}}, "did you mean 'train.learning_rate'"),
        (
            {"search": {"index.codes": {"low": 1, "high": 2}}},
            "a trial is one training; search within model, train, evaluate",
        ),
        ({"search": {"model.input_dropout": {"low": 0.5, "high": 1.5}}}, "search: .*input_dropout"),
        ({"search": {"train.epochs": {"low": 2}}}, "give low and high, or values"),
        ({"search": {"train.epochs": {"low": 0, "high": 5, "log": True}}}, "log needs low > 0"),
        ({"search": {"train.epochs": {"lo": 2, "high": 3}}}, "unknown key 'search.train.epochs.lo'"),
        ({"serch": {}}, "unknown key 'serch'; did you mean 'search'"),
        ({"work": "s3://bucket/study"}, "'work': is a URL"),
    ],
)
def test_a_mistake_in_the_file_is_named(line: tiny.Line, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_study(write(tmp_path, line, **changes))


def test_a_trial_is_a_training_job_of_any_scheduler(line: tiny.Line, tmp_path: Path) -> None:
    place = {"scheduler": "slurm", "options": {"partition": "main"}, "job": {"j": "2x2", "h": "cpu_large"}}
    study = load_study(write(tmp_path, line, **place))
    values: dict[str, Any] = {"train.learning_rate": 0.01, "model.input_dropout": 0.5}
    with get_runner() as runner:
        info = runner.dryrun(job_of(study, 7, values), "slurm", {**study.options})
    script = str(info)
    assert f"--out {study.work}/trials/0007" in script.replace("'", "")
    assert "train.learning_rate=0.01" in script and "model.input_dropout=0.5" in script and "29507" in script
    assert script.count("intrr_rec") >= 2  # a replica a node


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trials_are_jobs_on_this_machine_and_go_on_after_a_kill(line: tiny.Line, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="requirements/tune.txt installs it")
    words = [
        *tiny.SMALL,
        "train.epochs=200",
        "train.patience=200",
        "train.validate_every=4",
        "train.keep_checkpoints=1",
    ]
    one = {"train.learning_rate": {"values": [0.01, 1e-12]}}
    asked = {"settings": words, "search": one, "trials": 2, "prune": {"trials": 1, "epochs": 8}, "seed": 3}
    path = write(tmp_path, line, **asked)
    command = [sys.executable, "-m", "intrr_rec", "tune", str(path)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
    figures = run_of(load_study(path), 0) / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not figures.is_file() or figures.read_text().count("\n") < 9:
        assert first.poll() is None and time.monotonic() < deadline, first.stderr and first.stderr.read()
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)  # its job outlives it, and is waited for
    first.wait()
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert "trial 0: goes on" in done.stderr and "next: intrr report --run" in done.stderr
    found = trials_of(path)
    rates = [values["train.learning_rate"] for _, values, _ in found]
    assert [state for state, _, _ in found] == ["COMPLETE", "PRUNED"] and rates == [0.01, 1e-12], done.stderr
    assert not (run_of(load_study(path), 1) / "results.json").exists()
    assert load_recipe(tmp_path / "study/best.yaml").train.learning_rate == 0.01
