"""Settings that somebody else wrote, and streams that are closed: one line each, soon, and no code runs."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.table import Table

from intrr_rec.config import load_recipe
from intrr_rec.data.raw import download
from intrr_rec.data.raw.descriptors import Descriptor, Download, load_descriptor
from intrr_rec.data.raw.download import fetch
from intrr_rec.errors import ArtefactError, ConfigError, DataError
from intrr_rec.io.console import PlainConsole, PlainFormatter
from intrr_rec.io.disk.places import url_of
from intrr_rec.io.stores.storage import Folder
from intrr_rec.pipeline.description import load_pipeline
from intrr_rec.pipeline.tuning.description import load_study


def tower(first: str, floor: str) -> str:
    """Mappings that each hold the one before nine times."""
    floors = (floor.format(i=i, all=",".join([f"*a{i - 1}"] * 9)) for i in range(1, 12))
    return first + "".join(floors)


ALIASES = tower("a0: &a0 [x,x,x,x,x,x,x,x,x]\n", "a{i}: &a{i} [{all}]\n")
HOSTILE: dict[str, bytes | str] = {
    "aliases of aliases": ALIASES,
    "a setting of aliases": ALIASES + "train: {epochs: *a11}\n",
    "merges of merges": tower("a0: &a0 {k0: 1}\n", "a{i}: &a{i}\n  <<: [{all}]\n"),
    "deep lists": "[" * 20_000,
    "deep settings": "train: {epochs: " + "[" * 100 + "]" * 100 + "}",
    "deep mappings": "".join(" " * i + "a:\n" for i in range(3000)),
    "code": "!!python/object/apply:os.system ['touch PWNED']",
    "code in a setting": "train: {epochs: !!python/object/new:os.system ['touch PWNED']}",
    "a name of Python": "train: {epochs: !!python/name:os.system }",
    "refers to itself": "train: &t\n  epochs: *t\n",
    "a list of itself": "&a [*a]",
    "an unknown alias": "train: {epochs: *nothing}",
    "text": "hello",
    "a number": "3",
    "a zero byte": "a: \0",
    "no UTF-8": b"train: {epochs: \xff}",
    "UTF-16": "train: {epochs: 1}".encode("utf-16"),
    "large": "#" * (1 << 20) + "\n",
    "a section twice": "train: {epochs: 1}\ntrain: {epochs: 2}\n",
    "a key twice": "train: {epochs: 1, epochs: 2}",
    "no number": "train: {learning_rate: .nan}",
    "no end": "train: {learning_rate: .inf}",
    "below zero": "train: {learning_rate: -1}",
    "five thousand digits": "train: {epochs: " + "9" * 5000 + "}",
    "a float beyond floats": "train: {epochs: 1e400}",
    "a date": "train: {epochs: 2001-01-01}",
    "bytes": "train: {epochs: !!binary aGVsbG8=}",
    "a set": "train: !!set {a, b}",
    "two documents": "train: {epochs: 1}\n---\ntrain: {epochs: 2}\n",
    "a number as key": "1: 2",
    "null as key": "~: 1",
    "a list as key": "? [a]\n: 1\n",
    "a truth as key": "yes: 1",
    "a date as key": "2001-01-01: 1",
    "an unknown key": "trian: {epochs: 1}",
}
READERS: dict[str, Callable[[Path], Any]] = {
    "recipe": load_recipe,
    "descriptor": load_descriptor,
    "pipeline": load_pipeline,
    "study": load_study,
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("kind", READERS)
def test_hostile_settings_are_refused_soon(kind: str, what: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    text, file = HOSTILE[what], tmp_path / "settings.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    started = time.monotonic()
    with pytest.raises(ConfigError) as refusal:
        READERS[kind](file)
    assert str(file) in str(refusal.value) and "\n" not in str(refusal.value)
    assert time.monotonic() - started < 10 and not Path("PWNED").exists()


@pytest.mark.parametrize("word", ["[" * 20_000, "!!python/name:os.system ", "&a [*a]", ".inf", ".nan", "{a: 1, a: 2}"])
def test_hostile_words_are_refused(word: str) -> None:
    with pytest.raises(ConfigError):
        load_recipe(None, [f"train.learning_rate={word}"])


def test_a_merge_within_bounds_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(
        "train: &t {epochs: 7}\nevaluate:\n  beam: 9\nindex:\n  <<: {levels: 2}\n  codes: 8\n"
    )
    recipe = load_recipe(tmp_path / "r.yaml")
    assert (recipe.train.epochs, recipe.index.levels, recipe.index.codes) == (7, 2, 8)


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHON": sys.executable}
    return subprocess.run(
        ["bash", "-c", f'intrr() {{ "$PYTHON" -m intrr_rec "$@"; }}; {script}'],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "script",
    [
        "intrr runs . >&-",
        "intrr runs . 2>&-",
        "intrr runs . 0<&- 1>&- 2>&-",
        "intrr --help | head -1",
        "intrr runs nowhere 0<&- 1>&- 2>&-; test $? = 2",
    ],
)
def test_closed_streams_end_no_verb(script: str, tmp_path: Path) -> None:
    done = shell(script, tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


def test_what_a_file_says_moves_no_cursor(tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text('"\\e[2J\\e]0;title\\aFORGED\\r\\nintrr: all is well": 1\n')
    done = shell("intrr validate --interactions nothing --config evil.yaml", tmp_path)
    said = done.stderr.splitlines()[-1]
    assert done.returncode == 2 and "FORGED" in said and not set("\x1b\x07\r") & set(done.stderr), done.stderr


EVIL = "\x1b[2J\x1b]0;title\x07name\r\nFORGED\x9b1m"


def test_what_a_table_shows_moves_no_cursor() -> None:
    page = io.StringIO()
    screen = PlainConsole(file=page, force_terminal=True, color_system=None, width=100, markup=False)
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    screen.print(table)
    screen.print(EVIL)
    assert page.getvalue().count("FORGED") == 4 and not set("\x1b\x07\r\x9b") & set(page.getvalue())


def test_what_a_log_line_says_begins_no_other_line(caplog: pytest.LogCaptureFixture) -> None:
    record = logging.LogRecord("intrr_rec", logging.INFO, __file__, 1, "wrote %s", (EVIL,), None)
    said = PlainFormatter("%(levelname)s %(message)s").format(record)
    assert said.split("\n")[1].startswith("  ") and not set("\x1b\x07\r\x9b") & set(said)


def test_names_of_folders_and_values_of_logs_move_no_cursor(tmp_path: Path) -> None:
    folder = tmp_path / "evil\x1b[31m"
    folder.mkdir()
    (folder / "logs.csv").write_text(
        "user_id,item_id,timestamp\n" + "".join(f"u{i % 3},\x1b[31mi{i % 2},{i}\n" for i in range(30))
    )
    done = shell("intrr runs .; intrr validate --interactions */logs.csv --out page.html prepare.k_core=1", tmp_path)
    said = done.stdout + done.stderr
    assert "\x1b" not in said and "Traceback" not in said, said


def test_what_a_descriptor_calls_a_file_moves_no_cursor(tmp_path: Path) -> None:
    (tmp_path / "source.csv").write_text("a\n")
    wanted = {"url": f"file://{tmp_path}/source.csv", "to": f"{EVIL[:12]}x"}
    (tmp_path / "d.yaml").write_text(yaml.safe_dump({"title": EVIL, "interactions": "x", "download": [wanted]}))
    done = shell("intrr fetch d.yaml --data data", tmp_path)
    assert done.returncode == 0 and len(list((tmp_path / "data").iterdir())) == 1, done.stderr
    said = done.stdout + done.stderr
    assert not set("\x1b\x07\x9b") & set(said) and "Traceback" not in said, said


@pytest.mark.parametrize(
    "url",
    [
        "reference://x::file://{0}/refs.json",
        "REFERENCE://x::file://{0}/refs.json",
        "simplecache::file://{0}/source.csv",
        "filecache://x::file://{0}/source.csv",
        "zip://source.csv::file://{0}/a.zip",
        "dir://x::memory://y",
    ],
)
def test_no_url_has_a_file_say_what_else_is_opened(url: str, tmp_path: Path) -> None:
    """The files of `reference://` hold templates that fsspec runs; a URL comes from a descriptor or the record of a run."""
    url = url.format(tmp_path)
    refs = {"version": 1, "templates": {"u": "{{ 7 * 7 }}"}, "refs": {"x": ["{{ cycler.__init__.__globals__ }}"]}}
    (tmp_path / "refs.json").write_text(json.dumps(refs))
    descriptor = Descriptor(title="t", interactions="x", download=(Download(url=url, to="x"),))
    with pytest.raises(DataError, match="are not opened"):
        fetch(descriptor, tmp_path / "data")
    assert not (tmp_path / "data").exists()
    if url_of(url):
        with pytest.raises(ArtefactError, match="are not opened"):
            Folder.at(url)


@pytest.mark.parametrize("length", ["junk", "-1", "9" * 5000, ""])
def test_a_server_that_tells_no_length_is_one_line(length: str, tmp_path: Path, monkeypatch: Any) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/x.csv"
        descriptor = Descriptor(title="t", interactions="x", download=(Download(url=url, to="x"),))
        try:
            fetch(descriptor, tmp_path / "data")
        except DataError as error:
            assert url in str(error) and "\n" not in str(error)
        server.shutdown()
