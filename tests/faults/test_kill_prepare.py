"""`intrr prepare` killed at chosen points of its work: the old dataset or the new one, whole, and the next run is not disturbed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from itertools import chain
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.data.dataset import KIND
from intrr_rec.io.artefact import read

WATCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "ctypes.dlsym/handle", "ctypes.dlsym")
POINTS = 8  # spread over the whole run, and as many again over its end, where the dataset takes its place


def run_prepare(words: list[str], kill_at: int | None, count: Path) -> None:
    """What the installed `intrr` does; SIGKILL at the `kill_at`-th time it touches the file system."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    from intrr_rec.cli import main

    touched = 0

    def watch(event: str, _: object) -> None:
        nonlocal touched
        if event in WATCHED:
            touched += 1
            if touched == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    sys.argv = ["intrr", "prepare", *words]
    try:
        main()
    finally:
        if kill_at is None:
            count.write_text(str(touched))


def forkserver() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["intrr_rec.data.prepare.prepare", "intrr_rec.cli", "tests.faults.test_kill_prepare"]
    )
    return context


@pytest.mark.slow
def test_sigkill_leaves_the_old_dataset_or_the_new_one(tmp_path: Path) -> None:
    rows = [(user, (user + step) % 9, step) for user in range(30) for step in range(3 + user % 5)]
    columns = dict(zip(("user_id", "item_id", "timestamp"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), tmp_path / "logs.parquet")
    out, count = tmp_path / "out" / "dataset", tmp_path / "count"
    context = forkserver()

    def prepare(shortest: int, kill_at: int | None = None) -> int | None:
        words = ["--interactions", str(tmp_path / "logs.parquet"), "--out", str(out)]
        words += ["prepare.k_core=1", f"prepare.min_sequence={shortest}"]
        process = context.Process(target=run_prepare, args=(words, kill_at, count))
        process.start()
        process.join(120)
        return process.exitcode

    assert prepare(3) == 0
    whole = {3: read(out, KIND)}
    assert prepare(4) == 0
    total = int(count.read_text())  # of a run that replaces a dataset
    whole[4] = read(out, KIND)
    assert whole[3].counts != whole[4].counts
    spread = {total * point // POINTS for point in range(1, POINTS)} | set(range(total - POINTS, total))
    seen = {"old": 0, "new": 0}
    # Runs differ by a few touches (a library imported for the first time, say): go on until one comes to its end.
    for kill_at in chain(sorted(spread), range(total, total + 50)):
        before = read(out, KIND)
        wanted = 3 if before == whole[4] else 4
        code = prepare(wanted, kill_at)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        now = read(out, KIND)  # hashes every file
        assert now in (before, whole[wanted])
        seen["old" if now == before else "new"] += 1
    assert seen["old"] >= POINTS // 2 and seen["new"], seen  # the version before is kept after the new one is in place
    assert code == 0
    assert prepare(3) == 0
    assert read(out, KIND) == whole[3]
    assert [path.name for path in out.parent.iterdir()] == ["dataset"]
