"""The pipeline of every day, day by day: what each start does, after kills, late logs, a candidate that lost and a roll-back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from torchx.runner import get_runner

from intrr_rec.errors import ArtefactError, ConfigError, DataError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import file_hash
from intrr_rec.io.formats.records import read_texts, sealed
from intrr_rec.io.registry import read_decision, read_registry
from intrr_rec.pipeline import new_logs
from intrr_rec.pipeline.daily import Day, stages_of
from intrr_rec.pipeline.description import load_pipeline
from intrr_rec.pipeline.run import run_pipeline
from intrr_rec.pipeline.tracker import status_of
from intrr_rec.promotion.promote import roll_back
from intrr_rec.runs.run_record import read_run_record
from tests import tiny
from tests.pipeline.in_process import bring
from tests.runs.test_versions import day, vectors
from tests.sealing import write_sealed

SETTINGS = (
    "prepare.k_core=1",
    "index.levels=2",
    "index.codes=5",
    "index.dedup_codes=16",
    "index.iterations=5",
    *tiny.SMALL,
    "train.epochs=2",
)
ALL = ("prepare", "index", "train", "export", "promote")  # training leaves the test metrics
RULE = {"accuracy": None, "cold": None, "coverage": None, "latency": None, "size": {"max_ratio": 100}}


def write(folder: Path, rule: object = RULE, **changes: object) -> Path:
    (folder / "logs").mkdir(exist_ok=True)
    (folder / "rule.yaml").write_text(yaml.safe_dump(rule))
    tree = {"work": "work", "interactions": ["logs"], "vectors": "vectors.parquet", "settings": list(SETTINGS)}
    daily = {"rule": "rule.yaml", "settings": ["train.epochs=1"], "keep": 2}
    path = folder / "daily.yaml"
    path.write_text(yaml.safe_dump(tree | {"daily": daily} | changes))
    return path


def add(folder: Path, number: int) -> None:
    """The logs and vectors of a day."""
    log = day(folder, number)
    log.rename(folder / "logs" / log.name)
    vectors(folder, number)


def runs(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in (folder / "work" / "runs").iterdir()}


@pytest.fixture(scope="module")
def two_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline after its first two days; tests that change it copy it."""
    folder = tmp_path_factory.mktemp("days")
    path = write(folder)
    add(folder, 0)
    assert tuple(bring(path)) == ALL
    assert bring(path) == {}
    (first,) = runs(folder)
    add(folder, 1)
    done = bring(path)
    assert tuple(done) == ALL
    assert "--append" in done["prepare"] and "--extend" in done["index"]
    assert done["prepare"].count("--interactions") == 1 and str(folder / "logs/day1.parquet") in done["prepare"]
    assert done["train"][done["train"].index("--init-from") + 1] == str(folder / "work/runs" / first)
    return folder


def copy(source: Path, target: Path) -> Path:
    shutil.copytree(source, target, symlinks=True)
    return target / "daily.yaml"


def test_a_day_goes_on_from_the_day_before_and_a_second_start_does_nothing(two_days: Path) -> None:
    path, work = two_days / "daily.yaml", two_days / "work"
    assert bring(path) == {}
    first, second = sorted(runs(two_days).values(), key=lambda run: (run / "results.json").stat().st_mtime)
    assert [json.loads((run / "results.json").read_text())["epochs"] for run in (first, second)] == [2, 1]
    assert read_run_record(second).paths.init_from == str(first)
    registry = read_registry(work / "registry")
    assert registry is not None and registry.current == artefact.peek(work / "bundle").content_hash
    assert read_decision(work / "registry", registry.decision)["comparison"]


@pytest.mark.parametrize(
    "killed", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("index", "export", "promote")), "train"]
)
def test_a_day_that_was_killed_goes_on_where_it_stopped(two_days: Path, tmp_path: Path, killed: str) -> None:
    folder = tmp_path / "copy"
    path = copy(two_days, folder)
    add(folder, 2)
    assert tuple(bring(path, until=killed)) == ALL[: ALL.index(killed)]
    assert tuple(bring(path)) == ALL[ALL.index(killed) :]
    assert bring(path) == {}


def test_logs_of_an_earlier_day_are_added_when_they_come(two_days: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    path = copy(two_days, folder)
    late = pa.table({"user_id": [0, 1], "item_id": [3, 4], "timestamp": [50, 51]})  # between the two days
    pq.write_table(late, folder / "logs/day0-late.parquet")
    events = artefact.peek(folder / "work/dataset").counts["interactions"]
    assert tuple(bring(path)) == ALL
    assert artefact.peek(folder / "work/dataset").counts["interactions"] == events + 2


def test_a_file_that_was_changed_is_not_counted_twice(two_days: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    path = copy(two_days, folder)
    record = folder / "work/logs.json"
    was = read_texts(record, "")
    write_sealed(record, {place.replace(str(two_days), str(folder)): digest for place, digest in was.items()})
    log = folder / "logs/day1.parquet"
    table = pq.read_table(log)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), log)
    with pytest.raises(DataError, match=r"day1\.parquet: was changed after it was added"):
        bring(path)
    log.unlink()  # logs may be archived
    assert bring(path) == {}


@pytest.mark.parametrize("text", ["", "[]", '{"a": "b"}', "{", json.dumps(sealed({"a": 1}))])
def test_a_damaged_record_is_one_line(two_days: Path, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "copy"
    path = copy(two_days, folder)
    for name in ("logs.json", "jobs.json"):
        (folder / "work" / name).write_text(text)
        with pytest.raises(ArtefactError, match=rf"{name}: .*; remove it, and "):
            bring(path) if name == "logs.json" else run_pipeline(path, show=True)
        (folder / "work" / name).unlink()


@pytest.mark.parametrize("job", ["junk", "://", "nowhere://a/b"])
def test_a_forged_job_is_one_line(job: str) -> None:
    with get_runner() as runner, pytest.raises(ArtefactError, match="its scheduler cannot be asked"):
        status_of(runner, job)


def test_each_file_of_logs_is_read_once_a_start(
    two_days: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = tmp_path / "copy", []
    path = copy(two_days, folder)
    late = pa.table({"user_id": [0, 1], "item_id": [3, 4], "timestamp": [50, 51]})
    pq.write_table(late, folder / "logs/day0-late.parquet")
    monkeypatch.setattr(new_logs, "file_hash", lambda path: read.append(path.name) or file_hash(path))
    assert tuple(bring(path)) == ALL
    assert sorted(read) == sorted(path.name for path in (folder / "logs").iterdir())


def test_a_candidate_that_lost_or_was_rolled_back_is_judged_once_and_the_next_day_starts_from_what_is_served(
    two_days: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    path = copy(two_days, folder)
    registry = folder / "work/registry"
    roll_back(registry)
    assert bring(path) == {}  # today's bundle stays rolled back
    first = min(runs(folder).values(), key=lambda run: (run / "results.json").stat().st_mtime)
    write(folder, RULE | {"size": {"max_ratio": 1e-9}})
    add(folder, 2)
    done = bring(path)
    assert done["train"][done["train"].index("--init-from") + 1] == str(first)
    found = read_registry(registry)
    assert found is not None and found.current != artefact.peek(folder / "work/bundle").content_hash
    assert bring(path) == {}


def test_a_decision_that_was_not_carried_out_is_taken_again(two_days: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    path = copy(two_days, folder)
    before = (folder / "work/registry/registry.json").read_bytes()
    add(folder, 2)
    bring(path)
    (folder / "work/registry/registry.json").write_bytes(before)
    # the bundle of the first day went with the promotion; what is served is there
    assert tuple(bring(path)) == ("promote",)


@pytest.mark.slow
def test_old_runs_go_but_for_those_in_the_registry(two_days: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    path = copy(two_days, folder)
    served = set(runs(folder))
    write(folder, RULE | {"size": {"max_ratio": 1e-9}})
    for number in (2, 3, 4):
        add(folder, number)
        bring(path)
    assert served < set(runs(folder)) and len(runs(folder)) == 4  # two that are newest, two of the registry


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"daily": {"server": []}}, "unknown key 'daily.server'; did you mean 'servers'"),
        ({"daily": {"servers": ["localhost:1"]}}, "'daily.servers': localhost:1: is not the address of a server"),
        ({"daily": {"keep": 1}}, "'daily.keep'"),
        ({"daily": {"settings": ["index.codes=6"]}}, "daily.settings: index stays as it was"),
        ({"daily": {"settings": ["train.epoch=6"]}}, "unknown key 'train.epoch'"),
        ({"daily": {"rule": "no.yaml"}}, "no.yaml"),
        ({"settings": ["model.kind=sasrec"]}, "model.kind sasrec has no bundle"),
        ({"vectors": None}, "give either 'vectors', a place of item vectors, or 'embed'"),
        ({"embed": {}}, "give either 'vectors'"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        stages_of(load_pipeline(write(tmp_path, **changes)))


def test_another_preparation_than_that_of_the_first_day_is_refused(two_days: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    path = copy(two_days, folder)
    write(folder, settings=[*SETTINGS, "prepare.k_core=2"])
    with pytest.raises(ConfigError, match=r"prepare.k_core: 2 was asked for, but .* was prepared with 1"):
        bring(path)


@pytest.mark.slow
def test_runs_without_their_semantic_ids_are_not_started_from(tmp_path: Path) -> None:
    path = write(tmp_path)
    for number in (0, 1):
        add(tmp_path, number)
        bring(path, until="train" if number else None)
    for kept in tmp_path.glob("work/semantic_ids@*"):
        shutil.rmtree(kept)
    with pytest.raises(ArtefactError, match="the Semantic IDs of no run are kept any more"):
        Day(load_pipeline(path)).train()
