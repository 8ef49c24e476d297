"""What lies around a verb: the encoding of its terminal, a project that was moved, launchers and what they leave behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.drills.verbs import INDEX, Stock

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """A project that lies in another folder than the one it was made in."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "here").mkdir()
    stock = Stock.make(folder / "here")
    (folder / "here").rename(folder / "there")
    there = folder / "there"
    line = type(stock.line)(there / "dataset", there / "semantic_ids", there / "vectors.parquet")
    return Stock(there, line, there / "run", there / "bundle")


def call(stock: Stock, *words: str, **environment: str) -> tuple[int, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=stock.folder,
        env=kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=280,
    )
    return done.returncode, done.stdout.decode("latin-1")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_any_encoding_of_a_terminal(moved: Stock, encoding: str) -> None:
    for words in (
        ["--help"],
        ["validate", "--interactions", moved.logs, "--out", "page.html", "prepare.k_core=1"],
        ["inspect-ids", "--semantic-ids", "semantic_ids", "--dataset", "dataset", "--item", "3"],
    ):
        code, text = call(moved, "intrr_rec", *words, PYTHONIOENCODING=encoding)
        assert code == 0 and "Error" not in text, text


@pytest.mark.parametrize(
    "words", [["evaluate", "--run", "run"], ["export", "run", "--out", "new"], ["report", "--run", "run"]]
)
def test_a_moved_project_goes_on(moved: Stock, words: list[str]) -> None:
    code, text = call(moved, "intrr_rec", *words)
    assert code == 0, text


def test_torchrun_hands_the_run_over(moved: Stock) -> None:
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "intrr_rec")
    code, text = call(moved, *launcher, "evaluate", "run")
    assert code == 0 and "Traceback" not in text, text


@pytest.mark.parametrize(
    ("verb", "environment", "says"),
    [
        ("recommend", {"RANK": "0"}, "WORLD_SIZE is not set"),
        ("index", {"RANK": "0"}, "WORLD_SIZE is not set"),
        ("index", {"RANK": "0", "WORLD_SIZE": "2", "INTRR_RANKS_TIMEOUT": "3"}, ""),
    ],
)
def test_variables_that_a_launcher_left_are_one_line(
    moved: Stock, tmp_path: Path, verb: str, environment: dict[str, str], says: str
) -> None:
    words = {
        "recommend": ["--bundle", "bundle", "--dataset", "dataset"],
        "index": ["--dataset", "dataset", "--vectors", "vectors.parquet", *INDEX],
    }[verb]
    code, text = call(moved, "intrr_rec", verb, *words, "--out", f"{tmp_path}/out", **environment)
    line = [line for line in text.splitlines() if line.startswith("intrr: ")]
    assert code == 2 and len(line) == 1 and says in line[0] and "Traceback" not in text, text
    assert not list(tmp_path.iterdir()), "nothing half-written"
