"""`intrr index` killed at random points: the old artefact or the new one, whole, and the next run is not disturbed."""

import multiprocessing
import os
import random
import sys
import time

import numpy as np
import pytest

from intrr_rec.semantic_ids.artefact import SemanticIds
from tests.semantic_ids.catalogue import make_catalogue

TRIES = 6
SETTINGS = ["index.levels=2", "index.codes=24", "index.dedup_codes=64"]


def run_index(words):
    """What the installed `intrr` does, in a process of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    from intrr_rec.cli import main

    sys.argv = ["intrr", "index", *words]
    main()


@pytest.fixture(scope="module")
def processes():
    """Processes forked off one that has torch imported already: only the work itself is left to kill."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["intrr_rec.semantic_ids.extend", "tests.semantic_ids.test_kill"])
    return context


def test_sigkill_leaves_the_old_artefact_or_the_new_one(processes, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    dataset, vectors_path = make_catalogue(tmp_path / "in", range(300), vectors)
    out = tmp_path / "out" / "ids"

    def start(seed):
        words = ["--dataset", dataset, "--vectors", vectors_path, "--out", out, *SETTINGS, f"index.seed={seed}"]
        process = processes.Process(target=run_index, args=([str(word) for word in words],))
        process.start()
        return process

    def finish(seed):
        """Returns the manifest and the seconds until it was there; the end of an interpreter may take as long again."""
        before, began = stamp(), time.monotonic()
        process = start(seed)
        while stamp() == before and process.exitcode is None:
            time.sleep(0.002)
        seconds = time.monotonic() - began
        process.join(60)
        assert process.exitcode == 0
        return SemanticIds.open(out).manifest, seconds

    def stamp():
        try:
            return (out / "manifest.json").stat().st_ino
        except FileNotFoundError:
            return None

    finish("0")  # the first start of all imports torch
    old, seconds = finish("0")
    rng = random.Random(0)
    seen = {"old": 0, "new": 0}
    for attempt in range(TRIES):
        began, process = time.monotonic(), start(attempt + 1)
        # Half of the kills fall where the artefact is written, near the end.
        process.join(seconds * (rng.uniform(0.75, 1.05) if attempt % 2 else rng.uniform(0.05, 1.0)))
        process.kill()
        killed_after = time.monotonic() - began
        process.join(60)
        now = SemanticIds.open(out).manifest  # hashes every file
        if now.config["seed"] == old.config["seed"]:
            assert now == old
            seen["old"] += 1
        else:
            assert now.config["seed"] == attempt + 1
            seen["new"] += 1
            seconds = min(seconds, killed_after)  # what was timed beside a busy machine is too long for an idle one
        old = now
    assert seen["old"], "no kill came before the end, so nothing was tested"
    manifest, _ = finish("99")
    assert manifest.config["seed"] == 99
    assert [path.name for path in out.parent.iterdir()] == ["ids"]
