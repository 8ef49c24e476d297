"""Starts a group of real processes on this machine, as a launcher would: ranks and their meeting point by environment."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

from tests.tiny import Line

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 150


def free_port() -> int:
    """A port that is free, and stays so.

    It lies below those that Linux hands to whoever asks for any (32,768 and up), which may be taken before a launcher binds it.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port


def environment(**extra: str) -> dict[str, str]:
    """This process's environment, with one thread a rank and the checkout importable."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "MASTER_ADDR": "127.0.0.1", **extra}


def train_all(
    folder: Path,
    line: Line,
    runs: Mapping[Path, Sequence[str]],
    world_size: int,
    init_from: Mapping[Path, Path] | None = None,
) -> None:
    """Train each run folder's list of overrides, one after another, with `world_size` processes; some from another run.

    Ranks that hang are killed and their output is shown: a stuck collective is a failure, not a stuck suite.
    """
    place = [str(path.absolute()) for path in astuple(line)]
    jobs = [
        {"line": place, "overrides": list(words), "out": str(out), "port": free_port()} for out, words in runs.items()
    ]
    for job, out in zip(jobs, runs, strict=True):
        job["init_from"] = str(init_from[out]) if init_from else None
    (folder / "jobs.json").write_text(json.dumps(jobs))
    words = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "tests.distributed.worker",
        str(folder / "jobs.json"),
        str(world_size),
    ]
    with open(folder / "ranks.log", "w") as log:
        group = subprocess.Popen(
            words, cwd=ROOT, env=environment(), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        code = group.wait(TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(group.pid, signal.SIGKILL)
        code = group.wait()
    assert code == 0, (folder / "ranks.log").read_text()[-5000:]
