"""Every verb on a full disk, a nearly full one, a read-only one, and with too little memory.

It ends with exit code 2 and one line that names the place, or the memory, and no input; nothing half-written stays.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer

from intrr_rec.cli import app
from tests.drills.mounts import disk, fill, lock_up
from tests.drills.verbs import READERS, ROWS, WRITERS, Stock

SECONDS = 240
BLOCK = 4096
LOG = re.compile(r"^\d{4}-\d\d-\d\d |^\s*$")
MEGABYTES = (500, 1_000, 2_000, 4_000)
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class End:
    """How a verb ended: its exit code, the lines it complained with, all that it printed."""

    code: int
    lines: list[str]
    text: str

    def __str__(self) -> str:
        return f"exit {self.code}\n{self.text[-3000:]}"


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    return Stock.make(tmp_path_factory.mktemp("stock"))


def run(words: list[str], folder: Path, *, limit: int | None = None, out: str | None = None) -> End:
    """Run `intrr` there, within `limit` bytes of address space; `out` takes its standard output."""

    def bound() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with open(out or os.devnull, "w") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "intrr_rec", *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            preexec_fn=bound,
        )
    lines = [line for line in done.stderr.splitlines() if line.startswith("intrr: ")]
    return End(done.returncode, lines, done.stderr)


def require_one_line(end: End, *says: str) -> None:
    assert end.code == 2 and len(end.lines) == 1 and "Traceback" not in end.text, end
    for words in says:
        assert re.search(words, end.lines[0]), end


def test_every_verb_has_a_row() -> None:
    assert set(typer.main.get_command(app).commands) == set(ROWS)  # type: ignore[attr-defined]


def leave_a_block(place: Path) -> None:
    fill(place)
    os.truncate(place / "filler", (place / "filler").stat().st_size - BLOCK)


STATES = {"full": fill, "nearly full": leave_a_block, "read-only": lock_up}
# The file that `fetch` brings here fits in the block that is left. On a nearly full disk a pipeline's jobs fail, not the pipeline.
FIT = {("fetch", "nearly full"), ("pipeline", "nearly full"), ("tune", "nearly full")}
DRILLS = [
    pytest.param(verb, state, id=f"{verb}, {name}")
    for name, state in STATES.items()
    for verb in WRITERS
    if (verb, name) not in FIT
]


@pytest.mark.parametrize(("verb", "state"), DRILLS)
def test_a_place_that_cannot_be_written(stock: Stock, tmp_path: Path, verb: str, state: Callable[[Path], None]) -> None:
    row = ROWS[verb]
    with disk(tmp_path / "disk", 8_000) as place:
        words = row.given(stock, place)
        before = snapshot(place)
        state(place)
        end = run([verb, *words], stock.folder)
        if row.small and state is leave_a_block and end.code == 0:
            assert (place / str(row.writes)).stat().st_size
            return
        if verb == "embed" and state is leave_a_block:
            pytest.skip("its model is not there, which is said first")
        require_one_line(end, re.escape(str(place)), "cannot be written")
        assert str(stock.folder) not in end.lines[0], f"blames an input: {end}"
        after = snapshot(place)
        after.pop("filler", None)
        kept = {name for name in after if not (row.resumes and name.startswith(row.resumes))}
        assert {name: after[name] for name in kept & set(before)} == before
        if not (verb == "train" and state is leave_a_block):  # a run folder is begun, and goes on
            assert kept == set(before), f"left behind {sorted(kept - set(before))}"


def snapshot(place: Path) -> dict[str, bytes]:
    """All files below a disk."""
    return {str(file.relative_to(place)): file.read_bytes() for file in place.rglob("*") if file.is_file()}


@pytest.mark.parametrize("verb", READERS)
def test_an_output_that_takes_nothing(stock: Stock, verb: str) -> None:
    end = run([verb, *ROWS[verb].given(stock, stock.folder)], stock.folder, out="/dev/full")
    require_one_line(end, "standard output: cannot be written: the disk is full")


# What no handler of ours can answer: the words of OpenBLAS, the C++ runtime and the loader as they end a process.
ABORTED = re.compile(r"OpenBLAS error|terminate called|thread-local data: ABORT|Fatal Python error|std::bad_alloc")


# A pipeline is its jobs; `embed` has no model here, and `serve` does not end: that both refuse is in test_memory.py.
NOT_HERE = {"pipeline", "tune", "embed", "serve"}


@pytest.mark.parametrize("verb", [verb for verb in ROWS if verb not in NOT_HERE])
def test_too_little_memory(stock: Stock, tmp_path: Path, verb: str) -> None:
    row = ROWS[verb]
    for megabytes in MEGABYTES:
        place = tmp_path / str(megabytes)
        place.mkdir()
        words = row.given(stock, place)
        before = snapshot(place)
        end = run([verb, *words], stock.folder, limit=megabytes << 20)
        if end.code == 0:
            return
        if end.code < 0 or ABORTED.search(end.text):  # while a native library was loaded, before the verb began
            assert snapshot(place) == before, end
            continue
        require_one_line(end, "memory")
        assert str(stock.folder) not in end.lines[0], f"blames an input: {end}"
        if row.writes and not row.resumes and verb != "train":
            assert snapshot(place) == before
