"""The door: a user's mistake is one line on stderr and exit code 2, and --help costs no heavy import."""

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from intrr_rec import cli, doctor
from intrr_rec.cli.process.order import GROUPS, OTHER
from intrr_rec.errors import DataError
from tests import tiny

VERBS = (
    "generate",
    "validate",
    "fetch",
    "prepare",
    "index",
    "train",
    "evaluate",
    "compare",
    "report",
    "doctor",
)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["intrr", *words])
        code: int | str | None = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return int(code or 0), captured.out, captured.err

    return call


def assert_one_line(code: int, err: str, *says: str) -> None:
    assert code == 2
    assert err.startswith("intrr: ") and err.count("\n") == 1 and err.endswith("\n"), err
    for words in says:
        assert words in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["prepair"], "prepair"),
        (["prepare", "--interactoins", "x"], "--interactoins"),
        (["prepare", "--interactions", "x.parquet"], "--out"),
        (["generate", "--out", "x", "--users", "many"], "--users"),
        (["generate", "--out", "x", "--users", "0"], "--users"),
    ],
)
def test_a_mistyped_command_is_one_line(run: Run, tmp_path: Path, words: list[str], says: str) -> None:
    code, _, err = run(*words)
    assert_one_line(code, err, says)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("prepare.k_cores=3", "did you mean 'prepare.k_core'?"),
        ("prepare.k_core=0", "prepare.k_core"),
        ("prepare.k_core", "is not an override"),
    ],
)
def test_a_wrong_setting_is_one_line_and_writes_nothing(run: Run, tmp_path: Path, override: str, says: str) -> None:
    out = tmp_path / "dataset"
    code, _, err = run("prepare", "--interactions", str(tmp_path / "logs.csv"), "--out", str(out), override)
    assert_one_line(code, err, says)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_recipe_is_named(run: Run, tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere.yaml")
    code, _, err = run("prepare", "--interactions", "x", "--out", str(tmp_path / "d"), "--config", missing)
    assert_one_line(code, err, missing)


def test_a_message_of_several_lines_is_folded_into_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise DataError("logs.csv: row 3\n  has no time;\n  give one")

    monkeypatch.setattr(doctor, "diagnose", fail)
    code, _, err = run("doctor")
    assert_one_line(code, err, "logs.csv: row 3 has no time; give one")


def test_a_fault_of_ours_keeps_its_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(doctor, "diagnose", fail)
    with pytest.raises(ZeroDivisionError):
        run("doctor")


@pytest.mark.parametrize("code", [0, 1])
def test_doctor_leaves_with_its_verdict(run: Run, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(doctor, "diagnose", lambda: code)
    assert run("doctor")[0] == code


def test_an_interrupt_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(doctor, "diagnose", interrupted)
    code, _, err = run("doctor")
    assert code == 130
    assert err.count("\n") == 1 and "interrupted" in err


def test_ctrl_c_within_a_query_of_duckdb_is_one_line() -> None:
    # One thread: another of DuckDB's would read this range to its end before the query returns.
    program = (
        "import os, signal, sys, threading, duckdb\nfrom intrr_rec import cli, doctor\n"
        "def diagnose():\n"
        "    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    duckdb.sql('set threads = 1')\n"
        "    duckdb.sql('select sum(range % 7) from range(1000000000000)').fetchall()\n"
        "doctor.diagnose = diagnose\nsys.argv = ['intrr', 'doctor']\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (130, 1), done.stderr
    assert "interrupted; nothing half-written" in done.stderr


@pytest.mark.parametrize(("place", "out"), [("doctor", "whole\n"), ("cli", "")])
def test_ctrl_c_within_an_import(tmp_path: Path, place: str, out: str) -> None:
    """In the midst of the work it waits for the end of the import, before the work it ends at once."""
    (tmp_path / "slow.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nprint('whole')\n")
    program = (
        "import sys, time\nfrom intrr_rec import __main__, cli, doctor\n"
        f"code = compile('import slow; time.sleep(30)', {place}.__file__, 'exec')\n"
        "doctor.diagnose = lambda: exec(code)\nsys.argv = ['intrr', 'doctor']\n__main__.main()"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=env)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (130, out, 1), done.stderr
    assert "interrupted; nothing half-written" in done.stderr


def test_help_names_every_verb_without_heavy_imports() -> None:
    program = (
        "import sys\nsys.argv = ['intrr', '--help']\nfrom intrr_rec.cli import main\n"
        "try:\n    main()\nfinally:\n    print('HEAVY', sorted({'torch', 'torchrec', 'duckdb', 'pyarrow', 'pydantic', 'yaml', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    assert [verb for verb in VERBS if verb not in done.stdout] == []


ABSENT = ("--dataset", "absent", "--semantic-ids", "absent", "--out", "out")


@pytest.mark.parametrize(
    "words",
    [
        ["runs"],
        ["settings"],
        ["pipeline", "absent.yaml", "--status"],
        ["train", *ABSENT],
        ["index", "--dataset", "absent", "--vectors", "absent", "--out", "out"],
        ["evaluate", "absent"],
        ["export", "absent", "--out", "out"],
        ["recommend", "--bundle", "absent", "--events", "absent", "--out", "out"],
        ["promote", "absent", "--over", "out", "--on", "absent"],
        ["serve", "absent"],
        ["serve", "absent", "--workers", "2"],
    ],
    ids=lambda words: words[0],
)
def test_what_only_looks_at_files_does_without_torch(words: list[str], tmp_path: Path) -> None:
    program = (
        f"import sys\nsys.argv = ['intrr', *{words!r}]\nfrom intrr_rec.cli import main\n"
        "try:\n    main()\nfinally:\n    print('HEAVY', sorted({'torch', 'torchrec'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert "HEAVY []" in done.stdout, done


@pytest.mark.slow
def test_a_terminal_and_a_log_show_that_training_has_begun_before_torch_is_there(tmp_path: Path) -> None:
    line = tiny.make_line(tmp_path)
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is imported')\n")
    words = ["train", "--dataset", line.dataset, "--semantic-ids", line.semantic_ids, "--out", tmp_path / "run"]
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    started = subprocess.Popen(
        [sys.executable, "-m", "intrr_rec", *map(str, words)], env=environment, stderr=theirs, stdout=subprocess.DEVNULL
    )
    os.close(theirs)
    said = b""
    with suppress(OSError):  # the other end is closed
        while part := os.read(ours, 4096):
            said += part
    started.wait(60)
    environment["PYTHONUNBUFFERED"] = "1"
    piped = subprocess.run([sys.executable, "-m", "intrr_rec", *map(str, words)], env=environment, capture_output=True)
    for shown in (said, piped.stderr):
        assert b"loading PyTorch" in shown, shown
        assert shown.index(b"loading PyTorch") < shown.index(b"torch is imported")


@pytest.mark.parametrize(("typed", "whole"), [("intrr tra", "train"), ("intrr train --se", "--semantic-ids")])
def test_the_shell_completes_verbs_and_options(typed: str, whole: str) -> None:
    asked = {"_INTRR_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    program = "import sys\nsys.argv = ['intrr']\nfrom intrr_rec.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | asked)
    assert done.stdout.split() == [whole], done


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(run: Run, verb: str) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0
    assert f"intrr {verb}" in out


@pytest.mark.slow
def test_under_torchrun_the_mistake_is_what_the_log_ends_with() -> None:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "1",
        "-m",
        "intrr_rec",
    ]
    words = ["--", "train", "--dataset", "d", "--semantic-ids", "i", "--out", "o", "trian.epochs=1"]
    ended = subprocess.run([*launcher, *words], capture_output=True, text=True)
    assert ended.returncode == 1
    *_, last, frame = ended.stderr.splitlines()
    assert set(frame) == {"="} and last.endswith("intrr: command line: unknown key 'trian'; did you mean 'train'?"), (
        ended
    )


def test_the_version_is_told(run: Run) -> None:
    assert run("--version") == (0, f"intrr_rec {cli.__version__}\n", "")


def test_short_help_is_help_of_every_verb(run: Run) -> None:
    assert run("-h") == run("--help")
    assert run("train", "-h") == run("train", "--help")


def test_help_lists_every_verb_under_a_heading_in_the_order_of_the_line(run: Run) -> None:
    _, said, _ = run("--help")
    assert OTHER not in said
    places = [said.index(f" {verb} ") for group in GROUPS.values() for verb in group]
    assert places == sorted(places)
    assert sum(map(len, GROUPS.values())) == len(cli.app.registered_commands)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("item_id", "index --dataset OUT --vectors VECTORS --out BESIDE/semantic_ids"),
        ("item_id,title", "embed --dataset OUT --out BESIDE/vectors"),
        ("item_id,name", "embed --dataset OUT --text-column name --out BESIDE/vectors"),
    ],
)
def test_after_prepare_comes_a_command_that_works_on_its_items(
    run: Run, tmp_path: Path, header: str, words: str
) -> None:
    logs, items, out = tmp_path / "logs.csv", tmp_path / "items.csv", tmp_path / "dataset"
    logs.write_text("user_id,item_id,timestamp\n" + "".join(f"{n % 4},{n % 5},{n}\n" for n in range(40)))
    items.write_text(
        header + "\n" + "".join(f"{n}{',Name' * header.count(',')} {n}\n".replace(f" {n}\n", "\n") for n in range(5))
    )
    code, _, said = run(
        "prepare", "--interactions", str(logs), "--items", str(items), "--out", str(out), "prepare.k_core=1"
    )
    told = words.replace("OUT", str(out)).replace("BESIDE", str(tmp_path))
    assert code == 0 and said.endswith(f"next: intrr {told}\n"), said


def test_a_verb_ends_with_the_command_that_comes_next(run: Run, tmp_path: Path) -> None:
    logs, out = tmp_path / "logs", tmp_path / "data set"
    assert run("generate", "--out", str(logs), "--users", "60", "--items", "20")[0] == 0
    inputs = ["--interactions", str(logs / "interactions"), "--items", str(logs / "items")]
    code, _, said = run("prepare", *inputs, "--out", str(out), "prepare.k_core=1")
    assert code == 0
    assert said.endswith(f"{out} is written; next: intrr embed --dataset '{out}' --out {tmp_path / 'vectors'}\n"), said
