"""Every verb that writes, ended by SIGKILL at points spread over its work and its last steps, and by SIGTERM and Ctrl-C at any time.

What it writes is then absent or whole: the one before or the new one, and files that belong together are of one job. The next
run of the same verb is not disturbed, and leaves nothing of the ended one behind.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from intrr_rec.distributed.checkpoint.storage import verify
from intrr_rec.evaluation.target_ranks import read_ranks
from intrr_rec.io import artefact
from intrr_rec.io.artefact import COMPLETE, file_hash
from intrr_rec.io.formats.records import parse_json
from intrr_rec.runs.records import read_run
from intrr_rec.runs.run_files import CHECKPOINTS, INSPECTION, RANKS, RECOMMENDATIONS, RESULTS
from tests.drills.verbs import ROWS, WRITERS, Stock

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
# Drilled where their parts are: tests/vectors/test_encoder.py and tests/cluster.
# promote and rollback: tests/promotion/test_promote.py; tune: tests/pipeline/test_tuning.py
ELSEWHERE = {"embed", "pipeline", "promote", "rollback", "tune"}
WATCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "ctypes.dlsym/handle", "ctypes.dlsym")
SPREAD, LAST = 4, 8  # points of SIGKILL over the whole run, and among its last touches of the disk
FIRST = {"train": 12}  # points among the first touches of a place
# A job of training that is saved answers 75; Ctrl-C after the end of a verb ends the interpreter by the signal.
ENDS = {signal.SIGTERM: {-signal.SIGTERM, 143, 75, 0}, signal.SIGINT: {130, -signal.SIGINT, 0}}
# What verbs import for long. Ctrl-C within imports has a test of its own, and others in tests/test_cli.py.
PRELOADED = [
    *("intrr_rec.training.trainer", "intrr_rec.cli", "intrr_rec.reporting.report", "intrr_rec.reporting.validation"),
    *("intrr_rec.evaluation.compare", "intrr_rec.serving.bundle.export", "tests.drills.test_killed"),
]
WORLD: Any = SimpleNamespace(rank=0, size=1)


def run_verb(words: list[str], folder: Path, kill_at: int | None, below: str, count: Path, log: Path) -> None:
    """What the installed `intrr` does; SIGKILL at the `kill_at`-th time it touches the file system, or what lies below a folder."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.chdir(folder)
    from intrr_rec.__main__ import main

    log.with_name("begun").touch()
    touched, started = 0, time.monotonic()

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal touched
        if event in WATCHED and (not below or str(args[0]).startswith(below)):
            touched += 1
            if touched == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    sys.argv = ["intrr", *words]
    try:
        main()
    finally:
        if kill_at is None:
            count.write_text(f"{touched} {time.monotonic() - started}")


def forkserver() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def of_artefact(path: Path) -> str:
    return artefact.read(path, artefact.peek(path).kind).content_hash


def of_file(path: Path) -> str:
    text = path.read_bytes()
    if path.suffix == ".json":
        parse_json(text, str(path), "")
    elif path.suffix == ".html":
        assert text.rstrip().endswith(b"</html>"), path
    return file_hash(path)


def of_results(run: Path) -> str:
    """The results of a run, whose files must agree with one another."""
    names = [name for name in (RESULTS, INSPECTION, RANKS, RECOMMENDATIONS) if (run / name).exists()]
    if RESULTS not in names:
        return f"no results, but {names}"
    found = read_run(run)  # compares the hashes of all files
    assert set(names) == {RESULTS, INSPECTION, RANKS, RECOMMENDATIONS}
    _, rank_B = read_ranks(run, "test")
    assert found.results.test["recall@10"] == pytest.approx(np.mean((rank_B > 0) & (rank_B <= 10)), abs=1e-6)
    return str(found.results.test)


def of_run(run: Path) -> str:
    checkpoints = run / CHECKPOINTS
    for path in checkpoints.iterdir() if checkpoints.is_dir() else ():
        if (path / COMPLETE).is_file():
            verify(path, WORLD)
    return of_results(run)


WHOLE: dict[str, Callable[[Path], str]] = {
    **dict.fromkeys(("generate", "prepare", "concat-vectors", "index", "export", "recommend"), of_artefact),
    **dict.fromkeys(("validate", "plan", "compare", "report", "fetch"), of_file),
    "evaluate": of_results,
    "train": of_run,
}


@dataclass
class Drill:
    """A verb with its words and where it writes."""

    verb: str
    words: list[str]
    stock: Stock
    place: Path
    scratch: Path

    @property
    def target(self) -> Path:
        return self.place / str(ROWS[self.verb].writes)

    def start(self, kill_at: int | None = None, below: str = "") -> Any:
        words = [self.verb, *self.words]
        given = (words, self.stock.folder, kill_at, below, self.scratch / "count", self.scratch / "log")
        begun = self.scratch / "begun"
        begun.unlink(missing_ok=True)
        process = forkserver().Process(target=run_verb, args=given)
        process.start()
        while process.is_alive() and not begun.exists():  # what comes before is not the command's
            time.sleep(0.001)
        return process

    def run(self, kill_at: int | None = None, below: str = "") -> int:
        process = self.start(kill_at, below)
        process.join(240)
        assert process.exitcode is not None, "hangs"
        return int(process.exitcode)

    def counted(self) -> tuple[int, float]:
        """How often the last run touched the file system, and its seconds."""
        touched, seconds = (self.scratch / "count").read_text().split()
        return int(touched), float(seconds)

    def said(self) -> str:
        return (self.scratch / "log").read_text()

    def state(self) -> str:
        """What lies there, which must be whole."""
        return WHOLE[self.verb](self.target) if self.target.exists() else "absent"

    def beside(self) -> set[str]:
        return {str(path.relative_to(self.place)) for path in self.place.iterdir()}


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock.make(tmp_path_factory.mktemp("stock"))


@pytest.fixture
def drill(stock: Stock, tmp_path: Path, verb: str) -> Drill:
    place = tmp_path / "place"
    place.mkdir()
    return Drill(verb, ROWS[verb].given(stock, place), stock, place, tmp_path)


def test_every_verb_that_writes_is_drilled() -> None:
    assert set(WHOLE) | ELSEWHERE == set(WRITERS)


@pytest.mark.parametrize("verb", WHOLE)
def test_sigkill_leaves_the_old_one_or_the_new_one(drill: Drill) -> None:
    before = drill.state()
    assert drill.run() == 0, drill.said()
    new, names = drill.state(), drill.beside()
    total = drill.counted()[0]
    points = {total * point // SPREAD for point in range(1, SPREAD)} | set(range(max(1, total - LAST), total))
    for kill_at in sorted(points):
        code = drill.run(kill_at)
        assert code in (-signal.SIGKILL, 0), drill.said()  # runs differ by a few touches
        state = drill.state()
        assert state in (before, new) or (state.startswith("no results") and drill.verb in ("evaluate", "train"))
    assert drill.run() == 0, drill.said()
    assert (drill.state(), drill.beside()) == (new, names)


@pytest.mark.parametrize("verb", WHOLE)
def test_the_first_job_in_a_place_goes_on_after_sigkill_at_its_first_writes(drill: Drill) -> None:
    whole = drill.place.with_name("kept")
    shutil.copytree(drill.place, whole)
    for kill_at in range(1, FIRST.get(drill.verb, 3) + 1):
        shutil.rmtree(drill.place)
        shutil.copytree(whole, drill.place)
        code = drill.run(kill_at, below=str(drill.place))
        assert code in (-signal.SIGKILL, 0), drill.said()  # it may touch less
        assert drill.run() == 0, (kill_at, drill.said())
        drill.state()


@pytest.mark.parametrize("sign", ENDS)
@pytest.mark.parametrize("verb", WHOLE)
def test_a_signal_at_any_time_is_no_traceback(drill: Drill, sign: signal.Signals) -> None:
    rng = random.Random(f"{drill.verb} {sign}")
    before = drill.state()
    assert drill.run() == 0, drill.said()
    new, names, lasted = drill.state(), drill.beside(), drill.counted()[1]
    if drill.verb == "train":
        shutil.rmtree(drill.target)
    for _ in range(4):
        process = drill.start()
        time.sleep(rng.uniform(0, 1.1 * lasted))
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(process.pid, sign)
        process.join(240)
        assert process.exitcode in ENDS[sign], (process.exitcode, drill.said())
        assert "Traceback" not in drill.said(), drill.said()
        state = drill.state()
        assert state in (before, new) or drill.verb == "train", state
    assert drill.run() == 0, drill.said()
    assert (drill.state(), drill.beside()) == (new, names)


def test_ctrl_c_while_the_command_starts_is_one_line(stock: Stock, tmp_path: Path) -> None:
    """The installed command, interrupted from the first moment that is ours on; before it Python itself answers."""
    words = [sys.executable, "-c", "import sys, signal; print(flush=True); from intrr_rec.__main__ import main; main()"]
    words += ["compare", *ROWS["compare"].given(stock, tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for pause in (0.03, 0.06, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 2.0):
        with subprocess.Popen(
            words, cwd=stock.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(pause)
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=240)[1]
        assert process.returncode in ENDS[signal.SIGINT], (pause, said)
        lines = [line for line in said.splitlines() if line.startswith("intrr: ")]
        assert "Traceback" not in said and len(lines) == (process.returncode == 130), (pause, said)
