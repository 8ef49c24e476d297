"""The line at a window of 4,096: trains, is stopped, resumes, evaluates, exports, serves; within a bound of memory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.serving.process import serving

WINDOW, USERS, ITEMS = 4096, 8, 500
# The scores of one head of one block of whole histories would take 64 MiB, the dense head's masks of a step 1.6 GiB.
PEAK_GIB = 2.0
SMALL = ("model.hstu.width=32", "model.hstu.heads=2", "model.ran.hidden=32", "model.dense.negatives=64")


def intrr(*words: str) -> list[str]:
    return [sys.executable, "-m", "intrr_rec", *words]


def run(*words: str) -> str:
    done = subprocess.run(intrr(*words), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_line_at_a_window_of_4096(tmp_path: Path) -> None:
    logs, dataset, ids, folder = (str(tmp_path / name) for name in ("logs", "dataset", "ids", "run"))
    sizes = ("--users", str(USERS), "--items", str(ITEMS), "--events-per-user", "3000", "--dimension", "16")
    run("generate", "--out", logs, *sizes)
    run("prepare", "--interactions", f"{logs}/interactions", "--items", f"{logs}/items", "--out", dataset)
    line = ("--dataset", dataset, "--vectors", f"{logs}/vectors")
    run("index", *line, "--out", ids, "index.levels=2", "index.codes=32")
    recipe = ("--config", "long", f"model.window={WINDOW}", "train.epochs=2", *SMALL)
    train = ("train", *line, "--semantic-ids", ids, "--out", folder, *recipe)

    first = subprocess.Popen(intrr(*train), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while first.poll() is None and time.monotonic() < deadline and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    assert first.stderr is not None
    stopped = first.stderr.read()
    assert first.wait() == 75, stopped[-3000:]
    resumed = subprocess.Popen(intrr(*train), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert resumed.stderr is not None
    said = resumed.stderr.read()
    _, status, usage = os.wait4(resumed.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, said[-3000:]
    assert usage.ru_maxrss / 2**20 < PEAK_GIB

    run("evaluate", "--run", folder)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results
    bundle = tmp_path / "bundle"
    run("export", folder, "--out", str(bundle))
    with serving(bundle, "serve.max_history=5000", "serve.history_cache_mb=64") as server:
        short, long = ([place % ITEMS for place in range(length)] for length in (50, 4000))
        seconds, items = {}, dict[int, list[str]]()
        for history in (short, long, short, long):
            started = time.monotonic()
            answer = server.recommend(history=history, k=10)
            seconds[len(history)] = time.monotonic() - started
            assert answer.status == 200 and len(answer.body["items"]) == 10
            found = [each["item"] for each in answer.body["items"]]
            assert items.setdefault(len(history), found) == found  # the second time, of the keys and values kept
        assert seconds[4000] < 5
        newest = [n % ITEMS for n in range(WINDOW)]
        # The oldest events beyond the window change nothing.
        longer = server.recommend(history=[*[7] * 300, *newest], k=10)
        exact = server.recommend(history=newest, k=10)
        assert longer.body["items"] == exact.body["items"]
