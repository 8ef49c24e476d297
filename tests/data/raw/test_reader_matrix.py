"""Readers × oddities: what a stranger's table may look like, through every verb that reads raw tables.

`ODDITIES` says how the same 64 events (or 8 items) may be written; each must be read as the plain file is, or be refused by one line
that names what was not read. A verb of the command line that is not in `READS` fails here, so that a new one gets its row.
"""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from intrr_rec.cli import app
from intrr_rec.config import PrepareConfig, load_recipe
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.data.validate.validate import examine
from intrr_rec.errors import DataError
from intrr_rec.serving.batch.event_source import EventSource
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.item_index import ItemIndex

Rows = list[tuple[Any, ...]]
COLUMNS = ("user_id", "sku", "timestamp")
EVENTS: Rows = [(u, (u * 3 + n) % 8, 1_700_000_000 + 1000 * n + u) for u in range(8) for n in range(8)]
NAMES = list(COLUMNS)


def delimited(rows: Rows, separator: str = ",", header: Sequence[str] | None = COLUMNS) -> bytes:
    lines = [header, *rows] if header else rows
    return "".join(separator.join(map(str, line)) + "\n" for line in lines).encode()


def lines(rows: Rows, **more: Any) -> bytes:
    return "".join(json.dumps(dict(zip(COLUMNS, row, strict=True)) | more) + "\n" for row in rows).encode()


def parquet(rows: Rows, **more: Any) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({name: [row[n] for row in rows] for n, name in enumerate(COLUMNS)} if rows else EMPTY)
    for name, value in more.items():
        table = table.append_column(name, pa.array([value] * len(table)))
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def zst(data: bytes) -> bytes:
    return pa.Codec("zstd").compress(data, asbytes=True)


EMPTY = {name: pa.array([], pa.int64()) for name in COLUMNS}
HALF, REST = EVENTS[:32], EVENTS[32:]
WRONG = parquet([(u + 100, i, t) for u, i, t in EVENTS])
MARK = b"\xef\xbb\xbf"
INDEXED = [(n, *row) for n, row in enumerate(EVENTS)]
TYPED = ("user_id:token", "sku:token", "timestamp:float")
# What is named (the first key; a folder ends in /) and what lies there, the settings it needs.
READ: dict[str, tuple[str, dict[str, bytes], dict[str, Any]]] = {
    "brackets": ("e[1].parquet", {"e[1].parquet": parquet(EVENTS), "e1.parquet": WRONG}, {}),
    "brackets, text": (
        "e[1].csv",
        {"e[1].csv": delimited(EVENTS), "e1.csv": b"user_id,sku,timestamp\n9,9,9\n"},
        {},
    ),
    "star": ("two*.csv", {"two*.csv": delimited(EVENTS), "two2.csv": b"user_id,sku,timestamp\n9,9,9\n"}, {}),
    "question mark": ("q?.jsonl", {"q?.jsonl": lines(EVENTS), "qq.jsonl": lines([(9, 9, 9)])}, {}),
    "quotes and braces": ("it's {a,b} é.csv", {"it's {a,b} é.csv": delimited(EVENTS)}, {}),
    "pattern in a folder's name": ("d[1]/", {"d[1]/a.parquet": parquet(EVENTS), "d1/a.parquet": WRONG}, {}),
    "key=value above a file": ("user_id=all/a.parquet", {"user_id=all/a.parquet": parquet(EVENTS)}, {}),
    "key=value above text": ("timestamp=2023-11-14/a.csv", {"timestamp=2023-11-14/a.csv": delimited(EVENTS)}, {}),
    "key=value above JSON": ("sku=3/a.jsonl", {"sku=3/a.jsonl": lines(EVENTS)}, {}),
    "key=value inside, of a column that is there": ("d/", {"d/timestamp=5/a.parquet": parquet(EVENTS)}, {}),
    "sub-folders": ("d/", {"d/a.parquet": parquet(HALF), "d/x/y/b.parquet": parquet(REST)}, {}),
    "capitals and .pq": ("d/", {"d/a.PARQUET": parquet(HALF), "d/b.pq": parquet(REST)}, {}),
    "mixed formats": ("d/", {"d/a.parquet": parquet(HALF), "d/b.csv": delimited(REST)}, {}),
    "folder of text": ("d/", {"d/a.csv": delimited(HALF), "d/b.csv.gz": gzip.compress(delimited(REST))}, {}),
    "book-keeping of Spark": (
        "d/",
        {
            "d/part-0.parquet": parquet(EVENTS),
            **{f"d/{n}": b"x" for n in ("_SUCCESS", ".part-0.parquet.crc", "x.crc", "_temporary/a.csv")},
        },
        {},
    ),
    "empty part, Parquet": (
        "d/",
        {"d/a.parquet": parquet(HALF), "d/b.parquet": parquet([]), "d/c.parquet": parquet(REST)},
        {},
    ),
    "empty part, text": ("d/", {"d/a.csv": delimited(EVENTS), "d/b.csv": b"", "d/c.csv": delimited([])}, {}),
    "empty part, JSON": ("d/", {"d/a.jsonl": lines(EVENTS), "d/b.jsonl": b"", "d/c.jsonl.gz": gzip.compress(b"")}, {}),
    "index of pandas": ("x.csv", {"x.csv": delimited(INDEXED, header=("", *COLUMNS))}, {}),
    "separator at the end": ("x.csv", {"x.csv": delimited([(*e, "") for e in EVENTS], header=(*COLUMNS, ""))}, {}),
    "blanks in the header": ("x.csv", {"x.csv": delimited(EVENTS, header=("user_id", " sku", " timestamp "))}, {}),
    "tabs": ("x.tsv", {"x.tsv": delimited(EVENTS, "\t")}, {}),
    "tabs called csv": ("x.csv", {"x.csv": delimited(EVENTS, "\t")}, {}),
    "semicolons": ("x.csv", {"x.csv": delimited(EVENTS, ";")}, {}),
    "bars": ("x.txt", {"x.txt": delimited(EVENTS, "|")}, {}),
    "double colons": ("x.dat", {"x.dat": delimited(EVENTS, "::", None)}, {"column_names": NAMES}),
    "a named separator": ("x.txt", {"x.txt": delimited(EVENTS, " ")}, {"separator": " "}),
    "no header line": ("x.csv", {"x.csv": delimited(EVENTS, header=None)}, {"column_names": NAMES}),
    "a header line after all": ("x.csv", {"x.csv": delimited(EVENTS)}, {"column_names": NAMES}),
    "RecBole": ("x.inter", {"x.inter": delimited(EVENTS, "\t", TYPED)}, {}),
    "RecBole called tsv": ("x.tsv", {"x.tsv": delimited(EVENTS, "\t", TYPED)}, {}),
    "zstd": ("x.csv.zst", {"x.csv.zst": zst(delimited(EVENTS))}, {}),
    "zstd, JSON": ("x.jsonl.zst", {"x.jsonl.zst": zst(lines(EVENTS))}, {}),
    "gzip in two members": (
        "x.csv.gz",
        {"x.csv.gz": gzip.compress(delimited(HALF)) + gzip.compress(delimited(REST, header=None))},
        {},
    ),
    "gzip called csv": ("x.csv", {"x.csv": gzip.compress(delimited(EVENTS))}, {}),
    "plain text called gz": ("x.csv.gz", {"x.csv.gz": delimited(EVENTS)}, {}),
    "mark, text": ("x.csv", {"x.csv": MARK + delimited(EVENTS)}, {}),
    "mark, JSON": ("x.jsonl", {"x.jsonl": MARK + lines(EVENTS)}, {}),
    "mark, JSON gz": ("x.jsonl.gz", {"x.jsonl.gz": gzip.compress(MARK + lines(EVENTS))}, {}),
    "array of JSON": ("x.json", {"x.json": b"[" + b",\n".join(lines(EVENTS).splitlines()) + b"]"}, {}),
    "empty key, JSON": ("x.jsonl", {"x.jsonl": lines(EVENTS, **{"": 1})}, {}),
    "blank lines first": ("x.csv", {"x.csv": b"\n  \n" + delimited(EVENTS)}, {}),
    "blank lines first, no header line": (
        "x.csv",
        {"x.csv": b"\r\n\r\n" + delimited(EVENTS, header=None).replace(b"\n", b"\r\n")},
        {"column_names": NAMES},
    ),
    "marks around names": (
        "x.csv",
        {"x.csv": MARK + MARK + delimited(EVENTS, header=("user_id\u200b", "\u2060sku", "timestamp\xa0"))},
        {},
    ),
    "line ends of Windows": ("x.csv", {"x.csv": delimited(EVENTS).replace(b"\n", b"\r\n")}, {}),
}
# What is named, what lies there, and what the one line says.
REFUSED: dict[str, tuple[str, dict[str, bytes], str]] = {
    "gzip cut off": (
        "x.csv.gz",
        {"x.csv.gz": gzip.compress(delimited(EVENTS))[:-12]},
        r"x\.csv\.gz: cannot be read as csv",
    ),
    "zstd cut off": ("x.csv.zst", {"x.csv.zst": zst(delimited(EVENTS))[:-12]}, r"x\.csv\.zst: cannot be read as csv"),
    "cut off at a line's end": (
        "x.csv.gz",
        {"x.csv.gz": gzip.compress(delimited(EVENTS))[:-8]},
        r"x\.csv\.gz: cannot be read as csv",
    ),
    "another format in a folder": (
        "d/",
        {"d/a.csv": delimited(EVENTS), "d/b.xlsx": b"x"},
        r"b\.xlsx: unknown extension.*move it out",
    ),
    "no files": ("d/", {"d/_SUCCESS": b""}, r"holds no files of a table"),
    "only empty parts": ("d/", {"d/a.csv": b"", "d/b.parquet": parquet([])}, r"its 2 files hold no rows"),
    "Delta Lake": ("d/", {"d/a.parquet": parquet(EVENTS), "d/_delta_log/0.json": b"{}"}, r"is a Delta Lake table"),
    "no header line": (
        "x.csv",
        {"x.csv": delimited(EVENTS, header=None)},
        r"column '\w+'.*if (its|the) first line is data, name its columns",
    ),
    "nothing, packed": ("x.csv.gz", {"x.csv.gz": gzip.compress(b"")}, r"x\.csv\.gz: holds nothing"),
    "nothing, packed JSON": ("x.jsonl.gz", {"x.jsonl.gz": gzip.compress(b"\n")}, r"x\.jsonl\.gz: holds nothing"),
    "a title above the header": (
        "x.csv",
        {"x.csv": b"# exported\n\n" + delimited(EVENTS)},
        r"it has # exported; line 3 names it: remove the lines before that",
    ),
    "sep=; of Excel": ("x.csv", {"x.csv": b"sep=;\n" + delimited(EVENTS, ";")}, r"line 2 names it: remove the lines"),
    "two line ends": (
        "x.csv",
        {"x.csv": delimited(HALF) + delimited(REST, header=None).replace(b"\n", b"\r\n").replace(b"\r\n", b"\r", 1)},
        r"x\.csv: (cannot be read as csv \(it has line ends of several kinds|column)",
    ),
    "Latin-1 far below": (
        "x.csv",
        {"x.csv": delimited(EVENTS * 2000) + "u\xe9,1,1700000000\n".encode("latin-1")},
        r"x\.csv: cannot be read as csv .*save it as UTF-8",
    ),
    "bzip2": ("x.csv.bz2", {"x.csv.bz2": b"BZh91AY"}, r"is packed as bzip2; unpack it"),
}


def lay(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def histories(path: Path) -> dict[str, list[tuple[str, int]]]:
    """User → (item, time), ids as text, which every way of writing them shares."""
    data = Dataset.open(path)
    assert data.timestamps_E is not None
    users, items = data.user_ids().to_pylist(), data.item_ids().to_pylist()
    events = [(str(items[i]), int(t)) for i, t in zip(data.items_E, data.timestamps_E, strict=True)]
    return {str(user): events[data.offsets[u] : data.offsets[u + 1]] for u, user in enumerate(users)}


RIGHT = {
    str(user): [(str(i), t) for u, i, t in sorted(EVENTS, key=lambda event: event[2]) if u == user] for user in range(8)
}


def by_prepare(path: Path, out: Path, settings: dict[str, Any]) -> None:
    prepare_dataset([path], None, out / "dataset", PrepareConfig(item_column="sku", k_core=1, **settings))
    assert histories(out / "dataset") == RIGHT


def by_validate(path: Path, out: Path, settings: dict[str, Any]) -> None:
    found = examine("logs", [path], None, PrepareConfig(item_column="sku", k_core=1, **settings))
    for error in found.of("error"):
        raise DataError(error.says)
    assert found.raw is not None and (found.raw.interactions, found.raw.users) == (64, 8)


def by_append(path: Path, out: Path, settings: dict[str, Any]) -> None:
    """Onto a dataset of one user more, prepared by the same settings."""
    config = PrepareConfig(item_column="sku", k_core=1, keep_rows=True, **settings)
    (out / "one.parquet").write_bytes(parquet([(99, i, i + 1) for i in range(3)]))
    prepare_dataset([out / "one.parquet"], None, out / "dataset", config)
    prepare_dataset([path], None, out / "dataset", PrepareConfig(), append=True)
    assert {user: events for user, events in histories(out / "dataset").items() if user != "99"} == RIGHT


def by_items(path: Path, out: Path, settings: dict[str, Any]) -> None:
    """The same file as an item table: its times, each of which is there once, are the ids."""
    config = PrepareConfig(
        item_column="sku",
        k_core=1,
        items_column="timestamp",
        **{f"items_{name}": value for name, value in settings.items()},
    )
    (out / "logs.parquet").write_bytes(parquet([(u, t, t) for u, _, t in EVENTS]))
    prepare_dataset([out / "logs.parquet"], path, out / "dataset", config)
    table = pq.ParquetFile(out / "dataset" / "items.parquet").read()
    wanted = {t: (str(u), str(i)) for u, i, t in EVENTS}
    found = zip(*(table[name].to_pylist() for name in ("item_id", "user_id")), strict=True)
    assert {t: str(u) for t, u in found} == {t: u for t, (u, _) in wanted.items()}


def by_recommend(path: Path, out: Path, settings: dict[str, Any]) -> None:
    source = EventSource(path, PrepareConfig(item_column="sku", k_core=1, **settings))
    index = ItemIndex(pa.array([str(item) for item in range(8)], pa.large_string()), None)
    (found,) = source.shards(100, out, cast(Bundle, SimpleNamespace(items=SimpleNamespace(index=index))))
    assert found.times_E is not None
    events = list(zip(map(str, found.items_E.tolist()), found.times_E.tolist(), strict=True))
    spans = zip(found.user_ids.to_pylist(), found.offsets, found.offsets[1:], strict=False)
    assert {str(user): events[start:end] for user, start, end in spans} == RIGHT
    assert not list(out.iterdir())


WAYS: dict[str, Callable[[Path, Path, dict[str, Any]], None]] = {
    "prepare": by_prepare,
    "validate": by_validate,
    "prepare --append": by_append,
    "prepare --items": by_items,
    "recommend": by_recommend,
}
ARTEFACTS = "reads artefacts of ours, or nothing"
READS: dict[str, str | tuple[str, ...]] = {
    "prepare": ("prepare", "prepare --append", "prepare --items"),
    "validate": ("validate",),
    "recommend": ("recommend",),
    **dict.fromkeys(("index", "concat-vectors", "train", "export"), "vectors, by vectors/table.py; artefacts"),
    **dict.fromkeys(("generate", "embed", "inspect-ids", "plan", "evaluate", "serve"), ARTEFACTS),
    **dict.fromkeys(
        ("report", "compare", "promote", "rollback", "doctor", "settings", "pipeline", "tune", "runs"), ARTEFACTS
    ),
    "describe": "tables by the reader of prepare, which it is given no settings for: a proposal, tests/data/raw/test_describe.py",
    "fetch": "official formats, by formats.py",
}


def test_every_verb_says_what_it_reads() -> None:
    verbs = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert verbs == set(READS), "a new verb: say in READS what it reads, and give its way a row in WAYS"
    assert set(WAYS) == {way for ways in READS.values() if isinstance(ways, tuple) for way in ways}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("oddity", READ)
def test_it_is_read_as_the_plain_file_is(tmp_path: Path, way: str, oddity: str) -> None:
    named, files, settings = READ[oddity]
    lay(tmp_path / "in", files)
    (tmp_path / "out").mkdir()
    if (way, oddity) == ("prepare --items", "mixed formats"):  # the content of items has types, which text has not
        with pytest.raises(DataError, match=r"b\.csv: column 'user_id' has type VARCHAR, but BIGINT in .*a\.parquet"):
            WAYS[way](tmp_path / "in" / named, tmp_path / "out", settings)
        return
    WAYS[way](tmp_path / "in" / named, tmp_path / "out", settings)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("oddity", REFUSED)
def test_it_is_refused_by_name(tmp_path: Path, way: str, oddity: str) -> None:
    named, files, says = REFUSED[oddity]
    lay(tmp_path / "in", files)
    (tmp_path / "out").mkdir()
    if way == "prepare --items":
        says = says.replace("user_id|sku", "timestamp")
    with pytest.raises(DataError, match=says) as error:
        WAYS[way](tmp_path / "in" / named, tmp_path / "out", {})
    assert "\n" not in str(error.value)


def test_a_folder_of_a_partition_gives_the_column_that_its_files_lack(tmp_path: Path) -> None:
    for kind, rows in (("buy", HALF), ("view", REST)):
        lay(tmp_path / "logs", {f"kind={kind}/part-0.parquet": parquet(rows)})
    config = PrepareConfig(item_column="sku", k_core=1, event_column="kind", event_weights={"buy": 1})
    prepare_dataset([tmp_path / "logs"], None, tmp_path / "ds", config)
    assert set(histories(tmp_path / "ds")) == {str(user) for user in range(4)}


@pytest.mark.parametrize("mark", [" ", "^", "\x01", "   "])
def test_the_separator_that_is_told_works(tmp_path: Path, mark: str) -> None:
    lay(tmp_path, {"x.txt": delimited(EVENTS, mark)})
    with pytest.raises(DataError, match="its fields have another separator: set ") as error:
        prepare_dataset([tmp_path / "x.txt"], None, tmp_path / "ds", PrepareConfig(item_column="sku", k_core=1))
    told = shlex.split(str(error.value).rpartition(": set ")[2])
    config = load_recipe(None, ["prepare.item_column=sku", "prepare.k_core=1", *told]).prepare
    prepare_dataset([tmp_path / "x.txt"], None, tmp_path / "ds", config)
    assert histories(tmp_path / "ds") == RIGHT


def test_all_columns_that_a_file_lacks_are_named_in_one_line_that_can_be_copied(tmp_path: Path) -> None:
    lay(tmp_path, {"x.csv": delimited(EVENTS, header=("userId", "movie", "Timestamp"))})
    with pytest.raises(DataError, match="no column 'user_id', 'sku', 'timestamp'; it has userId") as error:
        prepare_dataset([tmp_path / "x.csv"], None, tmp_path / "ds", PrepareConfig(item_column="sku", k_core=1))
    told = "prepare.user_column=userId prepare.item_column=NAME prepare.time_column=Timestamp"
    assert str(error.value).endswith(f"; name them by {told}")


@pytest.mark.parametrize("name", ["item_id=5", "ds[1]", "user=2"])
def test_an_artefact_may_lie_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "one.parquet").write_bytes(parquet(HALF))
    (tmp_path / "two.parquet").write_bytes(parquet(REST))
    out = tmp_path / name / "dataset"
    prepare_dataset([tmp_path / "one.parquet"], None, out, PrepareConfig(item_column="sku", k_core=1, keep_rows=True))
    prepare_dataset([tmp_path / "two.parquet"], None, out, PrepareConfig(), append=True)
    assert histories(out) == RIGHT
    assert pq.ParquetFile(out / "items.parquet").schema_arrow.names == ["item", "item_id", "first_seen"]
    shutil.rmtree(out)


def test_ids_are_text_in_all_files_as_soon_as_one_is(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(delimited(HALF))
    (tmp_path / "b.csv").write_bytes(delimited([(u, "A3" if i == 3 else i, t) for u, i, t in REST]))
    prepare_dataset(
        [tmp_path / "a.csv", tmp_path / "b.csv"], None, tmp_path / "ds", PrepareConfig(item_column="sku", k_core=1)
    )
    data = Dataset.open(tmp_path / "ds")
    assert "A3" in data.item_ids().to_pylist() and "3" in data.item_ids().to_pylist()
    assert data.user_ids().to_pylist() == list(range(8))
    (tmp_path / "all.csv").write_bytes(delimited(EVENTS))
    (tmp_path / "items.csv").write_text("sku,title\nB-7,other\n3,three\n")
    prepare_dataset(
        [tmp_path / "all.csv"], tmp_path / "items.csv", tmp_path / "ds", PrepareConfig(item_column="sku", k_core=1)
    )
    assert set(Dataset.open(tmp_path / "ds").item_ids().to_pylist()) == {str(n) for n in range(8)}
    prepare_dataset(
        [tmp_path / "all.csv"], None, tmp_path / "ds", PrepareConfig(item_column="sku", k_core=1, id_type="string")
    )
    assert Dataset.open(tmp_path / "ds").user_ids().to_pylist() == [str(n) for n in range(8)]


def test_names_and_types_that_are_numbers_are_the_words_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(delimited([(*e, e[0] % 2) for e in EVENTS], header=("1", "2", "3", "4")))
    tree = {
        "user_column": 1,
        "item_column": 2,
        "time_column": 3,
        "event_column": 4,
        "event_weights": {1: 1},
        "k_core": 1,
    }
    prepare_dataset([tmp_path / "x.csv"], None, tmp_path / "ds", PrepareConfig.model_validate(tree))
    assert set(histories(tmp_path / "ds")) == {"1", "3", "5", "7"}
