"""Too little address space is said before the libraries are loaded that would end the process for want of it."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import pytest

from intrr_rec.cli.process.memory import NEEDS
from tests.drills.verbs import ROWS

WORDS = {
    "train": ["--dataset", "d", "--semantic-ids", "s", "--out", "run"],
    "serve": ["bundle"],
    "embed": ["--dataset", "d", "--out", "v"],
    "prepare": ["--interactions", "logs.parquet", "--out", "d"],
    "fetch": ["described.yaml"],
}


def test_every_verb_has_a_need() -> None:
    assert set(NEEDS) == set(ROWS)


@pytest.mark.parametrize("kind", [resource.RLIMIT_AS, resource.RLIMIT_DATA])
@pytest.mark.parametrize("verb", WORDS)
def test_a_limit_below_the_need_is_one_line(verb: str, kind: int, tmp_path) -> None:
    limit = (NEEDS[verb] - 1) << 20
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "intrr_rec", verb, *WORDS[verb]],
        cwd=tmp_path,
        env={"PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(kind, (limit, limit)),
        timeout=60,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("intrr: memory: ") and f"{NEEDS[verb]:,} MB" in done.stderr
    assert not list(tmp_path.iterdir()) and time.monotonic() - started < 30
