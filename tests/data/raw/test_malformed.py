"""Broken files of every kind: one clear line from `intrr prepare` and `intrr validate`, exit code 2, nothing half-written."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec import cli
from intrr_rec.config import PrepareConfig
from intrr_rec.data.validate.validate import examine

GOOD = "user_id,item_id,timestamp\n" + "".join(f"u{u},i{i},{100 * i + u}\n" for u in range(40) for i in range(5))
NAMES = GOOD.splitlines()[0].split(",")
LONG = "x" * 10**6


def parquet(**columns: object) -> bytes:
    """The good rows as Parquet, with `columns` in place of theirs."""
    rows = [line.split(",") for line in GOOD.splitlines()[1:]]
    table = {
        "user_id": [row[0] for row in rows],
        "item_id": [row[1] for row in rows],
        "timestamp": [int(row[2]) for row in rows],
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(table | columns), buffer)
    return buffer.getvalue()


def lines(**changed: object) -> bytes:
    """The good rows as JSON lines, the last with `changed`."""
    rows = [line.split(",") for line in GOOD.splitlines()[1:]]
    records = [dict(zip(NAMES, row, strict=True)) | {"timestamp": int(row[2])} for row in rows]
    records[-1] |= changed
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def csv(row: str, encoding: str = "utf-8") -> bytes:
    return (GOOD + row + "\n").encode(encoding)


def damaged(whole: bytes, at: int) -> bytes:
    return whole[:at] + bytes(byte ^ 0xFF for byte in whole[at : at + 40]) + whole[at + 40 :]


def footer(whole: bytes) -> int:
    """Where the metadata of a Parquet file begins."""
    return len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")


GZIPPED = gzip.compress(GOOD.encode())
# name of the case → files, and words of the line
CASES: dict[str, tuple[dict[str, bytes], str]] = {
    "parquet cut off": ({"x.parquet": parquet()[:-300]}, "x.parquet: cannot be read as parquet"),
    "parquet cut to its magic": ({"x.parquet": b"PAR1"}, "x.parquet: cannot be read as parquet"),
    "parquet with damaged pages": ({"x.parquet": damaged(parquet(), 40)}, "x.parquet: cannot be read as parquet"),
    "parquet with a damaged footer": (
        {"x.parquet": damaged(parquet(), footer(parquet()))},
        "x.parquet: cannot be read as parquet",
    ),
    "text called parquet": ({"x.parquet": GOOD.encode()}, "x.parquet: cannot be read as parquet"),
    "parquet without rows": (
        {"x.parquet": parquet(**{name: pa.array([], pa.int64()) for name in NAMES})},
        "x.parquet: holds no rows",
    ),
    "gzip cut off": ({"x.csv.gz": GZIPPED[:-30]}, "x.csv.gz: cannot be read as csv"),
    "gzip damaged": ({"x.csv.gz": damaged(GZIPPED, 200)}, "x.csv.gz: cannot be read as csv"),
    "gzip cut off, JSON": ({"x.jsonl.gz": gzip.compress(lines())[:-30]}, "x.jsonl.gz: cannot be read as json"),
    "bzip2": ({"x.csv.bz2": bz2.compress(GOOD.encode())}, "x.csv.bz2: is packed as bzip2; unpack it"),
    "Latin-1": ({"x.csv": csv("ü,i1,5", "latin-1")}, "x.csv: cannot be read as csv"),
    "UTF-16": ({"x.csv": GOOD.encode("utf-16")}, "x.csv: cannot be read as csv"),
    "Latin-1 JSON": ({"x.jsonl": lines(user_id="ü").replace(rb"\u00fc", b"\xfc")}, "x.jsonl: cannot be read as json"),
    "NUL bytes": ({"x.csv": csv("\0" * 100)}, "x.csv: cannot be read as csv"),
    "id of a million characters": ({"x.csv": csv(f"{LONG},i1,5")}, "row 201: 'xxxx"),
    "id of a million characters, JSON": ({"x.jsonl": lines(item_id=LONG)}, "column 'item_id', row 200: '\"xxxx"),
    "id of a million characters, Parquet": (
        {"x.parquet": parquet(user_id=[LONG, *["u"] * 199])},
        "(1,000,000 characters) is too long for an id",
    ),
    "quote never closed": ({"x.csv": csv('"u1,i1,5' + "\nu1,i2,6" * 500)}, "x.csv: cannot be read as csv"),
    "negative time": ({"x.csv": csv("u1,i1,-5")}, "column 'timestamp', row 201: '-5' is not a timestamp"),
    "negative time, Parquet": ({"x.parquet": parquet(timestamp=[*range(199), -1])}, "row 200: -1 is not a timestamp"),
    "time past 64 bits": ({"x.csv": csv("u1,i1,99999999999999999999")}, "row 201: '99999999999999999999' is not a"),
    "time past 64 bits, JSON": ({"x.jsonl": lines(timestamp=10**30)}, "column 'timestamp', row 200"),
    "time past the calendar": ({"x.csv": csv("u1,i1,99999-01-01")}, "row 201: '99999-01-01' is not a timestamp"),
    "unsigned 64-bit time": (
        {"x.parquet": parquet(timestamp=pa.array([2**64 - 1] * 200, pa.uint64()))},
        "column 'timestamp', row 1: 18446744073709551615 is not a timestamp",
    ),
    "time not a number": (
        {"x.parquet": parquet(timestamp=[float("nan"), *map(float, range(199))])},
        "column 'timestamp', row 1: nan is not a timestamp",
    ),
    "infinite time": (
        {"x.parquet": parquet(timestamp=[float("inf"), *map(float, range(199))])},
        "column 'timestamp', row 1: inf is not a timestamp",
    ),
    "ids change their type": (
        {"a.parquet": parquet(), "b.parquet": parquet(user_id=list(range(200)))},
        "column 'user_id': ids are strings in",
    ),
    "a column is renamed": (
        {"a.parquet": parquet(), "b.parquet": parquet().replace(b"item_id", b"item_ix")},
        "b.parquet: no column 'item_id'; it has user_id, item_ix, timestamp; did you mean 'item_ix'?",
    ),
    "time becomes a truth value": (
        {"a.parquet": parquet(), "b.parquet": parquet(timestamp=[True] * 200)},
        "b.parquet: column 'timestamp' has type BOOLEAN",
    ),
    "ids become lists": (
        {"a.parquet": parquet(), "b.parquet": parquet(item_id=[["i1"]] * 200)},
        "b.parquet: column 'item_id' has type VARCHAR[]",
    ),
    "a row grows a column": ({"x.csv": csv("u1,i1,5,6")}, "x.csv: cannot be read as csv"),
    "two headers": ({"x.csv": csv("user_id,item_id,timestamp")}, "row 201: 'timestamp' is not a timestamp"),
    "a page instead of data": (
        {"x.csv": b"<!DOCTYPE html>\n<html><body>404</body></html>\n"},
        "x.csv: no column 'user_id'",
    ),
    "an array cut off": (
        {"x.json": b"[" + b",".join(lines().splitlines())[:-9]},
        "x.json: cannot be read as json",
    ),
    "values, not objects": ({"x.jsonl": b"1\n2\n"}, "x.jsonl: cannot be read as json (its lines are no objects)"),
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*words: object) -> str:
        """The one line on stderr of a command that must be refused."""
        monkeypatch.setattr(sys, "argv", ["intrr", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        assert stop.value.code == 2, said.err
        assert said.err.startswith("intrr: ") and said.err.count("\n") == 1, said.err
        assert len(said.err) < 1_000, f"{len(said.err)} characters are no line to read"
        return said.err

    return call


@pytest.mark.parametrize("case", CASES)
def test_a_broken_file_is_one_line_and_leaves_nothing(tmp_path: Path, run: Callable[..., str], case: str) -> None:
    files, says = CASES[case]
    (tmp_path / "logs").mkdir()
    given = []
    for name, content in files.items():
        (tmp_path / "logs" / name).write_bytes(content)
        given += ["--interactions", tmp_path / "logs" / name]
    out = tmp_path / "out" / "dataset"
    assert says in run("prepare", *given, "--out", out, "prepare.k_core=1")
    assert not out.parent.exists() or not list(out.parent.iterdir())
    found = examine("logs", given[1::2], None, PrepareConfig(k_core=1))
    assert any(says in error.says for error in found.of("error"))


@pytest.mark.parametrize("case", ["parquet cut off", "negative time", "ids change their type"])
def test_validate_ends_in_the_same_line(tmp_path: Path, run: Callable[..., str], case: str) -> None:
    files, says = CASES[case]
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    given = [word for name in files for word in ("--interactions", tmp_path / name)]
    assert says in run("validate", *given, "--out", tmp_path / "page.html", "prepare.k_core=1")
    assert all(name in (tmp_path / "page.html").read_text() for name in files)


def test_a_file_one_may_not_read_is_one_line(tmp_path: Path, run: Callable[..., str]) -> None:
    log = tmp_path / "x.csv"
    log.write_text(GOOD)
    log.chmod(0)
    if os.access(log, os.R_OK):
        pytest.skip("this user may read everything")
    assert "x.csv" in run("prepare", "--interactions", log, "--out", tmp_path / "d")


def test_a_folder_of_shards_names_the_broken_one(tmp_path: Path, run: Callable[..., str]) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for n in range(3):
        (shards / f"part-{n}.parquet").write_bytes(parquet() if n != 1 else parquet()[:-100])
    assert "part-1.parquet" in run("prepare", "--interactions", shards, "--out", tmp_path / "d", "prepare.k_core=1")
    assert "part-1.parquet" in run("validate", "--interactions", shards, "--out", tmp_path / "v.html")
