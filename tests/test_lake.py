"""Every verb on local paths and on URLs of an object store, with the same result; nothing stays behind on this machine's disk."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import yaml

import intrr_rec as ir
from intrr_rec.cli import app
from intrr_rec.cli.process.errors import run_verbs
from intrr_rec.io import artefact
from intrr_rec.io.formats.records import parse_json
from intrr_rec.io.stores import scratch
from intrr_rec.io.stores.storage import Folder, location
from tests.conftest import s3_environment
from tests.vectors.encoders import HashEncoder

pytestmark = pytest.mark.slow
SMALL = [
    *("model.window=8", "model.hstu.layers=2", "model.hstu.width=16", "model.hstu.heads=2", "model.ran.hidden=16"),
    *("train.batch_users=16", "train.epochs=2", "train.checkpoint_every=5", "evaluate.beam=20"),
]
INDEX = ["index.levels=2", "index.codes=6", "index.dedup_codes=16"]
PREPARE = ["prepare.k_core=1", "prepare.time_column=timestamp"]
VERBS = sorted((info.name or info.callback.__name__) for info in app.registered_commands if info.callback)
ARTEFACTS = ("logs", "dataset", "text", "vectors", "ids", "bundle", "recommended")


@dataclass
class Lake:
    """A place where the line was run.

    Attributes:
        here: the working folder of the verbs.
        codes: exit code of each verb.
        said: what it printed.
    """

    at: str
    here: Path
    codes: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)

    def verb(self, *words: str) -> None:
        """Run a verb of the command line, in this process."""
        said = self.here.parent / "said.txt"
        with pytest.MonkeyPatch.context() as patch, open(said, "w+") as printed:
            patch.setattr(sys, "argv", ["intrr", *words])
            patch.setattr(sys, "stdout", printed)
            patch.setattr(sys, "stderr", printed)
            self.codes[words[0]] = run_verbs(app, "intrr")
        self.said[words[0]] = said.read_text()

    def line(self) -> None:
        """The whole line."""
        at, files = self.at, self.here.parent
        logs = ("--interactions", f"{at}/logs/interactions", "--items", f"{at}/logs/items")
        self.verb("generate", "--out", f"{at}/logs", "--users", "120", "--items", "60", "--dimension", "8")
        self.verb("describe", f"{at}/logs/interactions", f"{at}/logs/items")
        self.verb("validate", *logs, "--out", f"{at}/logs.html", *PREPARE)
        self.verb("prepare", *logs, "--out", f"{at}/dataset", *PREPARE)
        ir.embed(f"{at}/dataset", f"{at}/text", encoder=HashEncoder())
        self.codes["embed"] = 0
        parts = ("--vectors", f"text={at}/text", "--vectors", f"made={at}/logs/vectors:embedding")
        self.verb("concat-vectors", "--dataset", f"{at}/dataset", *parts, "--out", f"{at}/vectors")
        ids = ("--dataset", f"{at}/dataset", "--semantic-ids", f"{at}/ids")
        self.verb("index", *ids[:2], "--vectors", f"{at}/vectors", "--out", f"{at}/ids", *INDEX)
        self.verb("inspect-ids", *ids, "--prefix", "1")
        self.verb("plan", "--items", "1000", "--ranks", "2", "--out", f"{at}/plan.json")
        self.verb("train", *ids, "--out", f"{at}/run", *SMALL)
        self.verb("evaluate", f"{at}/run", "evaluate.beam=10")
        self.verb("report", "--run", f"{at}/run")
        self.verb("compare", "--run", f"{at}/run", "--run", f"{at}/run", "--out", f"{at}/compared.json")
        self.verb("runs", f"{at}/run")
        self.verb("export", f"{at}/run", "--out", f"{at}/bundle")
        self.verb("recommend", "--bundle", f"{at}/bundle", "--dataset", f"{at}/dataset", "--out", f"{at}/recommended")
        for _ in range(2):  # the second is no worse than the first, and so can be rolled back
            self.verb("promote", f"{at}/bundle", "--over", f"{at}/registry", "--on", f"{at}/dataset")
            self.verb("export", f"{at}/run", "--out", f"{at}/bundle", "--rows", "bfloat16")
        self.verb("rollback", f"{at}/registry")
        self.verb("export", f"{at}/run", "--out", f"{at}/delta", "--over", f"{at}/registry")
        tree = {"title": "t", "interactions": "got.parquet"}
        source = files / "source" / "got.parquet"
        source.parent.mkdir()
        source.write_bytes(b"x")
        (files / "t.yaml").write_text(yaml.safe_dump(tree | {"download": [{"url": f"file://{source}"}]}))
        self.verb("fetch", str(files / "t.yaml"), "--data", str(files / "data"))  # a local folder alone
        asked = {"work": f"{at}/piped", "interactions": [f"{at}/logs/interactions"], "vectors": f"{at}/logs/vectors"}
        (files / "pipe.yaml").write_text(yaml.safe_dump(asked | {"settings": [*PREPARE, *INDEX, *SMALL]}))
        self.verb("pipeline", str(files / "pipe.yaml"), "--status")
        tree = {
            "work": str(files / "tuned"),
            "dataset": f"{at}/dataset",
            "semantic_ids": f"{at}/ids",
            "settings": SMALL,
        }
        tree |= {"search": {"train.learning_rate": {"values": [0.01]}}, "trials": 1}
        (files / "study.yaml").write_text(yaml.safe_dump(tree))
        self.verb("tune", str(files / "study.yaml"))
        self.verb("settings", "train")
        self.verb("doctor")


@pytest.fixture(scope="module")
def lakes(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lake]:
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment(endpoint).items():
            patch.setenv(name, value)
        pafs.S3FileSystem(endpoint_override=endpoint, allow_bucket_creation=True).create_dir("lake")
        for kind in ("local", "s3"):
            files = tmp_path_factory.mktemp(kind)
            (files / "cwd").mkdir()
            patch.chdir(files / "cwd")
            patch.setenv(scratch.SCRATCH, str(files / "scratch"))
            made[kind] = Lake(str(files / "lake") if kind == "local" else "s3://lake/line", files / "cwd")
            made[kind].line()
            assert not list((files / "cwd").iterdir()), "a verb wrote into the working folder"
            assert not list(files.glob("scratch/*")), "copies stay behind"
    return made


@pytest.fixture(autouse=True)
def environment(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_environment(endpoint).items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "serve"])
@pytest.mark.parametrize("kind", ["local", "s3"])
def test_every_verb_ends_well(lakes: dict[str, Lake], kind: str, verb: str) -> None:
    lake = lakes[kind]
    assert lake.codes.get(verb) == 0, lake.said.get(verb, "has no line in Lake.line")
    assert scratch.SCRATCH not in os.environ or os.environ[scratch.SCRATCH] not in lake.said.get(verb, "")
    assert not re.search(r"/job-\w+/(in|out|run)-", lake.said.get(verb, "")), "a copy is named instead of its URL"


@pytest.mark.parametrize("name", ARTEFACTS)
def test_artefacts_are_the_same_here_and_there(lakes: dict[str, Lake], name: str) -> None:
    here, there = (artefact.peek(location(f"{lakes[kind].at}/{name}")) for kind in ("local", "s3"))
    assert artefact.read(location(f"{lakes['s3'].at}/{name}"), there.kind) == there
    if name in (
        "bundle",
        "recommended",
    ):  # of a run whose plan, and so its checkpoint's hash, tells of the machine's memory
        assert here.counts == there.counts
    else:
        assert here.content_hash == there.content_hash


def test_runs_measure_the_same_here_and_there(lakes: dict[str, Lake]) -> None:
    here, there = (
        parse_json(Folder.at(location(f"{lakes[kind].at}/run")).read("results.json"), kind, "")["test"]
        for kind in ("local", "s3")
    )
    assert here == there and here


def test_pages_and_figures_lie_there(lakes: dict[str, Lake]) -> None:
    store = Folder.at("s3://lake/line")
    for name in ("logs.html", "plan.json", "compared.json", "run/report.html", "run/metrics.jsonl", "run/config.yaml"):
        assert store.has(name), name
    assert not [name for name in store.names() if ".lease" in name or "probe" in name]


@pytest.mark.parametrize("kind", ["local", "s3"])
def test_a_bundle_is_served(lakes: dict[str, Lake], kind: str) -> None:
    words = [sys.executable, "-m", "intrr_rec", "serve", f"{lakes[kind].at}/bundle", "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as served:
        try:
            assert served.stderr is not None
            where = next(found[0] for line in served.stderr if (found := re.search(r"http://[\d.:]+", line)))
            assert urllib.request.urlopen(f"{where}/healthz", timeout=20).status == 200
            served.send_signal(signal.SIGTERM)
            assert served.wait(30) == 0
        finally:
            served.kill()


def test_a_taken_name_and_a_foreign_folder_are_refused(lakes: dict[str, Lake]) -> None:
    lake = lakes["s3"]
    lake.verb("generate", "--out", "s3://lake/line/dataset", "--users", "10", "--items", "10")
    assert lake.codes["generate"] == 2
    assert "s3://lake/line/dataset: exists and is not a 'logs' artefact; choose another --out" in lake.said["generate"]


@pytest.mark.parametrize("verb", ["prepare", "train", "export", "index", "serve", "evaluate"])
def test_a_url_of_no_store_ends_in_one_line_before_any_work(lakes: dict[str, Lake], verb: str, tmp_path: Path) -> None:
    url, lake = "quux://bucket/x", Lake("", tmp_path / "cwd")
    words = {
        "prepare": ["--interactions", url, "--out", "d"],
        "train": ["--dataset", "d", "--semantic-ids", "s", "--out", url],
        "export": ["run", "--out", url],
        "index": ["--dataset", "d", "--vectors", url, "--out", "s"],
        "serve": [url],
        "evaluate": [url],
    }[verb]
    lake.verb(verb, *words)
    assert lake.codes[verb] == 2
    assert lake.said[verb].count("\n") == 1 and f"{url}: no file system for such a URL" in lake.said[verb]


def test_the_pipeline_runs_with_nothing_but_urls(lakes: dict[str, Lake]) -> None:
    lake = lakes["s3"]
    file = lake.here.parent / "pipe.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "intrr_rec", "pipeline", str(file)],
        capture_output=True,
        text=True,
        cwd=lake.here,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\bdone\b", done.stdout)) == 5
    lake.verb("pipeline", str(file), "--status")
    assert len(re.findall(r"\bdone\b", lake.said["pipeline"])) == 5
    assert artefact.peek("s3://lake/line/piped/bundle").kind == "bundle"
