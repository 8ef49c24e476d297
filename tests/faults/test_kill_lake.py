"""SIGKILL at random moments of verbs that work on URLs: nothing half-written is seen, and the same command goes on to the same end."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact
from intrr_rec.io.stores.storage import Folder
from tests.conftest import s3_environment
from tests.test_lake import INDEX, PREPARE, SMALL

pytestmark = pytest.mark.slow
KILLS = {"generate": 6, "prepare": 8, "index": 8, "train": 12}
PLACES = {"generate": "logs", "prepare": "dataset", "index": "ids", "train": "run"}
LAKE, WHOLE = "s3://drill/killed", "s3://drill/whole"


def run(words: list[str], environment: dict[str, str]) -> None:
    """What the installed `intrr` does."""
    os.environ |= environment
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    from intrr_rec.cli import main

    sys.argv = ["intrr", *words]
    main()


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(
        ["intrr_rec.cli", "intrr_rec.training.trainer", "intrr_rec.semantic_ids.build", "duckdb"]
    )
    return made


def commands(at: str) -> dict[str, list[str]]:
    dataset, ids = ("--dataset", f"{at}/dataset"), f"{at}/ids"
    return {
        "generate": ["--out", f"{at}/logs", "--users", "120", "--items", "60", "--dimension", "8"],
        "prepare": ["--interactions", f"{at}/logs/interactions", "--out", f"{at}/dataset", *PREPARE],
        "index": [*dataset, "--vectors", f"{at}/logs/vectors", "--out", ids, *INDEX],
        "train": [*dataset, "--semantic-ids", ids, "--out", f"{at}/run", *SMALL],
    }


@pytest.mark.timeout(1800)
def test_killed_at_random_moments_the_line_ends_the_same(
    context: ForkServerContext, endpoint: str, bucket: pafs.FileSystem, tmp_path: Path
) -> None:
    bucket.create_dir("drill")
    environment = s3_environment(endpoint) | {"INTRR_SCRATCH": str(tmp_path / "scratch"), "OMP_NUM_THREADS": "1"}
    rng, took = random.Random(24), {}
    for verb, words in commands(WHOLE).items():
        begun = time.monotonic()
        child = context.Process(target=run, args=([verb, *words], environment))
        child.start()
        child.join()
        assert child.exitcode == 0, verb
        took[verb] = time.monotonic() - begun
    for verb, words in commands(LAKE).items():
        latest, killed = 0.95 * took[verb], 0
        while killed < KILLS[verb]:
            child = context.Process(target=run, args=([verb, *words], environment))
            child.start()
            child.join(rng.uniform(0.0, latest))
            child.kill()
            child.join()
            require_whole(LAKE)
            if child.exitcode == -9:
                killed += 1
            else:  # It came to its end: the next starts anew, and is killed earlier.
                latest *= 0.8
                bucket.delete_dir(f"drill/killed/{PLACES[verb]}")
        child = context.Process(target=run, args=([verb, *words], environment))
        child.start()
        child.join(300)
        assert child.exitcode == 0, f"{verb} does not go on"
        require_whole(LAKE)
    for name in ("logs", "dataset", "ids"):
        assert artefact.peek(f"{LAKE}/{name}").content_hash == artefact.peek(f"{WHOLE}/{name}").content_hash
    results = [json.loads(Folder.at(f"{at}/run").read("results.json"))["test"] for at in (LAKE, WHOLE)]
    assert results[0] == results[1]
    lines = [Folder.at(f"{at}/run").read("metrics.jsonl").count(b"\n") for at in (LAKE, WHOLE)]
    assert lines[0] == lines[1]
    assert len(list((tmp_path / "scratch").iterdir())) == 0, "what killed jobs left was not removed"


def require_whole(at: str) -> None:
    """Every artefact is whole or absent, and every checkpoint."""
    for name, kind in {"logs": "logs", "dataset": "dataset", "ids": "semantic ids"}.items():
        if Folder.at(f"{at}/{name}").has("manifest.json"):
            artefact.read(f"{at}/{name}", kind)
    from intrr_rec.distributed.checkpoint.storage import files_of, read_state

    store = Folder.at(f"{at}/run")
    for name in store.names("checkpoints"):
        place = f"{at}/run/{name.rpartition('/')[0]}"
        if name.endswith("/complete.json"):
            folder, sums = files_of(place)
            assert all(folder.hash(file) == expected for file, expected in sums.items())
            try:
                assert read_state(place)["step"] >= 0
            except ArtefactError as error:
                raise AssertionError(place) from error
