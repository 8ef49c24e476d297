"""An `intrr embed` job killed again and again: `python -m tests.vectors.kills at_random_points|before_any_step_on_disk DATASET FOLDER`."""

from __future__ import annotations

import functools
import itertools
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intrr_rec.io import artefact
from intrr_rec.vectors.embed import EmbedSettings, embed_dataset
from tests.vectors.encoders import SETTINGS, HashEncoder, embedded, files


def in_a_fork(work: Callable[[], object]) -> tuple[int, Callable[[], int]]:
    """Start `work` in a forked process; its id, and what waits for it and tells its exit code (negative: the signal)."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child, lambda: os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_random_points(dataset: Path, tmp_path: Path) -> None:
    whole = embedded(dataset, tmp_path / "whole", HashEncoder())
    out = tmp_path / "out"
    old = embedded(dataset, out, HashEncoder(seed="old"))
    delay = random.Random(0)
    for attempt in range(100):
        child, wait = in_a_fork(lambda: embed_dataset(dataset, out, HashEncoder(pause=0.01), SETTINGS))
        time.sleep(delay.uniform(0, 0.05 + 0.02 * attempt))
        os.kill(child, signal.SIGKILL)
        code = wait()
        assert code in (0, -signal.SIGKILL)
        artefact.read(out, "vectors")
        assert files(out) in (old, whole)
        if code == 0:
            break
    assert files(out) == whole and attempt >= 2
    assert not list(tmp_path.glob(".out.embed-*"))


def before_any_step_on_disk(dataset: Path, tmp_path: Path) -> None:
    settings = EmbedSettings(batch=8, shard_rows=24)
    whole = embedded(dataset, tmp_path / "whole", HashEncoder(), settings)
    out = tmp_path / "out"
    old = embedded(dataset, tmp_path / "old", HashEncoder(seed="old"), settings)
    seen = set()

    def killed_at_step(number: int) -> None:
        steps = itertools.count()

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def step(*args: Any, **kwargs: Any) -> Any:
                if next(steps) == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*args, **kwargs)

            return step

        for name in ("replace", "rename", "link", "fsync", "mkdir", "rmdir", "unlink"):
            setattr(os, name, counted(getattr(os, name)))
        embed_dataset(dataset, out, HashEncoder(), settings)

    for number in itertools.count():
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "old", out)
        code = in_a_fork(functools.partial(killed_at_step, number))[1]()
        artefact.read(out, "vectors")
        seen.add(files(out) == whole)
        assert files(out) in (old, whole)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert embedded(dataset, out, HashEncoder(), settings) == whole
        assert not list(tmp_path.glob(".out.embed-*"))
    assert seen == {False, True} and number > 20


if __name__ == "__main__":
    {"at_random_points": at_random_points, "before_any_step_on_disk": before_any_step_on_disk}[sys.argv[1]](
        *map(Path, sys.argv[2:])
    )
