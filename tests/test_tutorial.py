"""The tutorial, walked as it is written: from an empty folder, in a terminal that is not UTF-8, on a small log of MovieLens' form."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import requests

from tests.distributed.launch import free_port

TUTORIAL = Path(__file__).parents[1] / "docs/tutorial.md"
BLOCK = re.compile(r"^```(bash|python|yaml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
USERS, ITEMS, GENRES = 60, 40, ("unknown", "Action", "Comedy", "Drama")


def write_movielens(folder: Path) -> None:
    """Ratings, items and genres as the archive of MovieLens 100K holds them."""
    folder.mkdir()
    rng = random.Random(0)
    (folder / "u.genre").write_text("".join(f"{name}|{n}\n" for n, name in enumerate(GENRES)) + "\n")
    rows = [
        f"{user}\t{item}\t{rng.choice((3, 4, 5))}\t{880_000_000 + 86_400 * place + user}\n"
        for user in range(1, USERS + 1)
        for place, item in enumerate(rng.sample(range(1, ITEMS + 1), 24))
    ]
    rng.shuffle(rows)
    (folder / "u.data").write_text("".join(rows))
    names = ("Café", "River", "Storm", "Garden", "Night")
    lines = [
        f"{n}|{names[n % 5]} of {n} (1995)|01-Jan-1995||http://none|{'|'.join(str(int(n % 4 == g)) for g in range(4))}\n"
        for n in range(1, ITEMS + 1)
    ]
    (folder / "u.item").write_text("".join(lines), encoding="latin-1")


def steps() -> list[tuple[str, str]]:
    """(kind, text) of each block after the installation's, in order; a block of commands is one step a command."""
    found: list[tuple[str, str]] = []
    for kind, text in BLOCK.findall(TUTORIAL.read_text(encoding="utf-8"))[1:]:
        commands = text.replace("\\\n", " ").splitlines() if kind == "bash" else [text]
        found += [(kind, command) for command in commands]
    return found


def test_the_tutorial_walks_the_line() -> None:
    verbs = [text.split()[1] for kind, text in steps() if kind == "bash" and text.startswith("intrr")]
    assert verbs == [
        "validate",
        "prepare",
        "embed",
        "index",
        "train",
        "evaluate",
        "report",
        "runs",
        "export",
        "recommend",
        "serve",
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_the_tutorial_works_as_written(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    write_movielens(tmp_path / "ml-100k")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    terminal = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "OMP_NUM_THREADS": "1"}
    env = {key: value for key, value in os.environ.items() if key != "PYTHONIOENCODING"} | terminal | {"PATH": path}
    for kind, text in steps():
        if kind != "bash":
            (tmp_path / {"python": "make_csv.py", "yaml": "movies.yaml"}[kind]).write_text(text, encoding="utf-8")
        elif text.startswith("intrr serve"):
            serve(text, tmp_path, env)
        else:
            command = text.replace("index.codes=32", "index.codes=4 index.gate.min_distinct_rate=null")  # forty items
            done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    table = pq.read_table(sorted((tmp_path / "work/recommendations").rglob("*.parquet")))
    assert len(set(table["user_id"].to_pylist())) == USERS
    assert (tmp_path / "runs/first/report.html").is_file()


def serve(command: str, folder: Path, env: dict[str, str]) -> None:
    """Start the server of the tutorial at a free port, ask it, and end it."""
    port = free_port()
    with subprocess.Popen([*command.split(), "--port", str(port)], cwd=folder, env=env) as server:
        try:
            address, end = f"http://127.0.0.1:{port}", time.monotonic() + 120
            while time.monotonic() < end:
                try:
                    assert requests.get(f"{address}/readyz", timeout=5).ok
                    break
                except requests.ConnectionError:
                    time.sleep(0.2)
            asked = {"history": [1, 2], "timestamps": [880_000_000, 880_086_400], "time": 880_200_000, "k": 5}
            answer = requests.post(f"{address}/recommend", json=asked, timeout=30)
            assert answer.ok and len(answer.json()["items"]) == 5, answer.text
            assert "IntRR" in requests.get(address, timeout=30).text
        finally:
            server.send_signal(signal.SIGTERM)
    assert server.returncode == 0
