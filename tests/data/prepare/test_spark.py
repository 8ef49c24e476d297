"""Spark must write the very bytes that DuckDB writes, or say the very line; the page walks a cluster of two workers."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import KIND, Dataset
from intrr_rec.data.prepare import spark, writer
from intrr_rec.data.prepare.engines import EngineChoice
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ConfigError, UserError
from intrr_rec.io import artefact
from tests.data.prepare.test_filters import COLUMNS, configured, naive, write
from tests.data.prepare.test_prepare import sequences
from tests.distributed.launch import free_port

PAGE = Path(__file__).parents[3] / "docs/preparation.md"
SPARK = EngineChoice("spark", "local[2]", 1.0)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One session of Spark for the tests that take it: it takes longer to start than a small preparation."""
    pytest.importorskip("pyspark", reason="requirements/spark.txt is not installed (make test-slow does it)")
    if shutil.which("java") is None:
        pytest.skip("NO JAVA HERE: Spark needs Java 17")
    with pytest.MonkeyPatch.context() as patch:
        start, folder = spark._session, tmp_path_factory.mktemp("session")
        patch.setattr(spark, "_session", lambda choice, scratch, size: start(choice, folder, 0))
        patch.setattr(spark.SparkEngine, "close", lambda engine: None)
        yield
        from pyspark.sql import SparkSession

        SparkSession.getActiveSession().stop()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_spark_writes_the_bytes_of_duckdb(tmp_path: Path, session: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every filter, the moments of a split in time, string ids beyond ASCII, equal times and times within a second, several files, an item table of types that Spark lacks; features of events, targets and the rows as read; many files of sequences."""
    rng = np.random.default_rng(0)
    names = ["é", "Z", "a", "10", "9", "ü x", "𝄞", "~"]
    events = [
        (f"{names[u % 8]}{u // 8}", f"{names[i % 8]}{i}", int(t) / 4, ["view", "buy", "noise"][k])
        for u, i, t, k in zip(*(rng.integers(0, top, 900) for top in (40, 24, 200, 3)), strict=True)
    ]
    logs = [write(tmp_path / "b.parquet", events[:500]), write(tmp_path / "a.parquet", events[500:])]
    for path in logs:
        pq.write_table(with_features(pq.read_table(path)), path, row_group_size=90)
    items = tmp_path / "items.parquet"
    small = pa.array([1, 2], pa.uint8())
    pq.write_table(pa.table({"item_id": ["a2", "Z1"], "n": small, "t": pa.array([1, 2], pa.time64("us"))}), items)
    config = configured(
        min_weight=2, deduplicate="event", max_sequence=40, k_core=3, split="global_time", keep_rows=True,
        features=FEATURES, targets={"place": ["it's", "Z"], "price": {"at_least": 0.5}, "flag": True},
    )  # fmt: skip
    monkeypatch.setattr(writer, "PART_EVENTS", 60)
    one = prepare_dataset(logs, items, tmp_path / "one", config)
    two = prepare_dataset(logs, items, tmp_path / "two", config, SPARK)
    expected = {user: [(item, int(t)) for item, t in history] for user, history in naive(events, config).items()}
    assert sequences(Dataset.open(tmp_path / "two")) == expected
    assert 0 < one.counts["interactions"] < 900
    assert sum(name.startswith("sequences/") for name in one.files) > 3
    assert (two.files, two.content_hash) == (one.files, one.content_hash)
    numbers = Dataset.open(tmp_path / "two").features
    assert all(column.clock or len(np.unique(numbers.of_events(column))) > 1 for column in numbers.columns)
    assert json.loads((tmp_path / "two/statistics.json").read_text())["targets"] < one.counts["interactions"]
    with pytest.raises(ConfigError, match="takes the name for a pattern"):
        prepare_dataset([logs[0].rename(tmp_path / "b*.parquet")], None, tmp_path / "three", PrepareConfig(), SPARK)


FEATURES = {
    "event": {
        "kind": {"kind": "categorical", "asked": True},
        "price": "numeric",
        "even": {"kind": "numeric", "column": "price", "scale": "log", "buckets": 7},
        "as_text": {"kind": "categorical", "column": "price", "size": 50, "min_count": 2},
        "flag": "boolean",
        "place": {"kind": "categorical", "hash_buckets": 9},
        "small": {"kind": "categorical", "column": "count", "hash_buckets": 40},
        "sent": {"kind": "timestamp_parts", "column": "sent", "parts": ["day", "month"]},
        "clock": {"kind": "timestamp_parts"},
    }
}


def with_features(table: pa.Table) -> pa.Table:
    """Columns of types that the engines write as text each their way, with missing values."""
    rng = np.random.default_rng(2)
    n = table.num_rows
    price = np.round(rng.normal(size=n) * 10.0 ** rng.integers(-6, 20, n), 3)
    columns = {
        "price": pa.array([None if x < -1e17 else float("nan") if x == 0 else float(x) for x in price]),
        "flag": pa.array(rng.choice(["yes", "F", "", "1"], n)),
        "place": pa.array(rng.choice([" it's ", "é", "\\n", "Z", None], n)),
        "count": pa.array(rng.integers(0, 9, n).astype(np.float32) / 3),
        "sent": pa.array(rng.integers(10**17, 10**18, n), pa.timestamp("ns")),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


EVENTS = [
    (int(u), int(i), 1_700_000_000_000 + 500 * int(t))
    for u, i, t in np.random.default_rng(1).integers(0, (30, 12, 50), (500, 3))
]
HEAD = ",".join(COLUMNS[:3]) + "\n"
ISO = [(f"u{u}", i, f"2024-01-{1 + t // 500 % 28:02d}T10:00:{t // 500 % 60:02d}.25+02:00") for u, i, t in EVENTS]


def text(rows: list[tuple[Any, ...]], head: str = HEAD) -> bytes:
    return (head + "".join(",".join(map(str, row)) + "\n" for row in rows)).encode()


def lines(rows: list[tuple[Any, ...]]) -> bytes:
    return "".join(json.dumps(dict(zip(COLUMNS, row, strict=False))) + "\n" for row in rows).encode()


def columns(times: pa.Array | list[Any], **others: Any) -> pa.Table:
    users, items, _ = map(list, zip(*EVENTS, strict=True))
    return pa.table({"user_id": users, "item_id": items, "timestamp": times} | others)


def parquet(*given: Any, **others: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(columns(*given, **others), sink, row_group_size=100)
    return sink.getvalue().to_pybytes()


TIMES = [time for *_, time in EVENTS]
OF_IDS = {
    "event": {
        "w": {"kind": "categorical", "column": "item_id", "size": 6},
        "n": {"kind": "numeric", "column": "item_id", "buckets": 5},
        "at": {"kind": "timestamp_parts", "column": "timestamp"},
    }
}
# What lies in a folder, and the settings that it needs.
LOGS: dict[str, tuple[dict[str, bytes], dict[str, Any]]] = {
    "milliseconds; odd names": ({"a é+%#.csv": text(EVENTS[:300]), "b.csv": text(EVENTS[300:])}, {}),
    "packed, ISO 8601": (
        {"a.csv.gz": gzip.compress(text(ISO))},
        {"keep_rows": True, "features": OF_IDS, "targets": {"n": {"below": 8}}},
    ),
    "fields over several lines": (
        {"a.csv": text([(f'"a, ""{u}"', i, t, '"x\ny"') for u, i, t in EVENTS], HEAD[:-1] + ",title\n")},
        {},
    ),
    "JSON lines": (
        {"a.jsonl": lines([(f"{u}", i, t / 1000) for u, i, t in EVENTS])},
        {"keep_rows": True, "features": OF_IDS},
    ),
    "folders of days, Latin-1": (
        {
            f"day={n}/a.csv": text([(f"é{u}", i, t) for u, i, t in EVENTS[n::2]]).decode().encode("latin-1")
            for n in (1, 0)
        },
        {"encoding": "latin-1"},
    ),
    "no times": ({"a.csv": text(EVENTS), "b.csv": text(EVENTS[::-1])}, {"time_column": None}),
    "seconds with a fraction, then dates": (
        {
            "a.parquet": parquet([time / 1000 for time in TIMES]),
            "b.parquet": parquet(pa.array([time * 1000 for time in TIMES], pa.timestamp("us"))),
        },
        {},
    ),
    "nanoseconds": (
        {"a.parquet": parquet(pa.array([time * 10**6 + time % 7 for time in TIMES], pa.timestamp("ns")))},
        {"deduplicate": "event"},
    ),
    "a bad time": ({"a.csv": text(EVENTS), "b.csv": text([*EVENTS[:300], (1, 2, "soon"), *EVENTS])}, {}),
    "a missing id": ({"a.parquet": parquet(TIMES, item_id=[None if n == 411 else "x" for n in range(500)])}, {}),
    "a short row": ({"a.csv": text([*EVENTS, (7,)])}, {}),
    "a bad number": ({"a.csv": text([*ISO, ("u", "x", ISO[0][2])])}, {"features": OF_IDS}),
    "two units": ({"a.csv": text([*EVENTS, *((u, i, t // 1000) for u, i, t in EVENTS[:9])])}, {}),
    "ids of two kinds": ({"a.jsonl": lines([*EVENTS, ("3", *EVENTS[0][1:])])}, {}),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_spark_reads_and_refuses_what_duckdb_does(tmp_path: Path, session: None) -> None:
    for name, (files, settings) in LOGS.items():
        folder = tmp_path / re.sub(r"\W", "_", name)
        for file, data in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
        found = [outcome(folder, tmp_path / "out", settings, engine) for engine in (EngineChoice(), SPARK)]
        assert found[0] == found[1], name
        assert (" " in found[0]) == name.startswith(("a ", "two", "ids"))  # a line of words, or a hash
    table = columns([time / 1000 for time in TIMES])
    (tmp_path / "orc").mkdir()
    orc.write_table(table, tmp_path / "orc" / "a.orc")
    pq.write_table(table, tmp_path / "same.parquet")
    config = PrepareConfig.model_validate({"k_core": 2, "features": OF_IDS})
    expected = prepare_dataset([tmp_path / "same.parquet"], None, tmp_path / "out", config)
    assert prepare_dataset([tmp_path / "orc"], None, tmp_path / "two", config, SPARK).files == expected.files
    orc.write_table(table.set_column(2, "timestamp", pa.array([-1.0] * 500)), tmp_path / "orc" / "a.orc")
    assert re.search(r"a\.orc: column 'timestamp': '-1\.0'", outcome(tmp_path / "orc", tmp_path / "out", {}, SPARK))
    assert "reads no ORC" in outcome(tmp_path / "orc", tmp_path / "out", {}, EngineChoice())


def outcome(logs: Path, out: Path, settings: dict[str, Any], engine: EngineChoice) -> str:
    """The hash of the dataset, or the line of the error."""
    try:
        return prepare_dataset([logs], None, out, PrepareConfig(k_core=2, **settings), engine).content_hash
    except UserError as error:
        return str(error)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_of_two_workers_works_as_written_and_shares_the_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("NO JAVA HERE: Spark needs Java 17")
    (block,) = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    block = block.replace("7077", str(free_port()))
    conf, recorded = tmp_path / "conf", tmp_path / "recorded"
    conf.mkdir()
    recorded.mkdir()
    settings = f"spark.eventLog.enabled true\nspark.eventLog.dir {recorded.as_uri()}\nspark.eventLog.compress false\n"
    (conf / "spark-defaults.conf").write_text(settings)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "SPARK_CONF_DIR": str(conf), "SPARK_LOCAL_IP": "127.0.0.1"}
    log = tmp_path / "log"
    with open(log, "w") as out:
        done = subprocess.run(["bash", "-e", "-c", block], cwd=tmp_path, env=environment, stdout=out, stderr=out)
    assert done.returncode == 0, log.read_text()[-3000:]
    whole = prepare_dataset(
        [tmp_path / "logs/interactions"], tmp_path / "logs/items", tmp_path / "whole", PrepareConfig()
    )
    assert artefact.read(tmp_path / "dataset", KIND).content_hash == whole.content_hash
    files = [file for file in recorded.rglob("*") if file.is_file() and not file.name.startswith(".")]
    events = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    plans = [event["sparkPlanInfo"] for event in events if "sparkPlanInfo" in event]
    assert any("hashpartitioning(user_id" in node["simpleString"] for plan in plans for node in nodes(plan))
    (written,) = (found for plan in plans for found in alone(plan))  # the one file of so few histories
    assert "REPARTITION_BY_NUM" in written and len(list((tmp_path / "dataset/sequences").iterdir())) == 1
    tasks = Counter(event["Task Info"]["Executor ID"] for event in events if event["Event"] == "SparkListenerTaskEnd")
    assert len(tasks) == 2 and min(tasks.values()) * 4 >= max(tasks.values()), tasks


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan["children"]:
        yield from nodes(child)


def alone(plan: dict[str, Any]) -> list[str]:
    """Exchanges that bring rows to one partition: all but those of sums, and of the first rows, of each partition."""
    found = []
    for node in nodes(plan):
        if "SinglePartition" in node["simpleString"]:
            below = node["children"][0]
            while below["nodeName"].startswith(("WholeStageCodegen", "InputAdapter")):
                below = below["children"][0]
            if not below["nodeName"].startswith(("HashAggregate", "ObjectHashAggregate", "LocalLimit")):
                found.append(f"{node['simpleString']} of {below['simpleString']}")
    return found
