"""Columns of an item table that a later verb could not use are refused by prepare and by validate, in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.data.validate.validate import examine
from intrr_rec.errors import DataError

IDS = list(range(4))
LOGS = {"user_id": [u for u in range(3) for _ in IDS], "item_id": IDS * 3, "timestamp": list(range(12))}
SHARDS = ({"item_id": [0, 1], "title": ["a", "b"]}, {"item_id": [2, 3], "Title": ["c", "d"]})
TABLES: dict[str, tuple[dict[str, Any], str]] = {
    "two titles": (
        {"x.parquet": {"item_id": IDS, "title": ["a"] * 4, "Title": ["b"] * 4}},
        "columns 'title' and 'Title' differ in capitals only; rename or remove one",
    ),
    "two titles, CSV": (
        {"x.csv": "item_id,title,TITLE\n0,a,b\n"},
        "columns 'title' and 'TITLE' differ in capitals only",
    ),
    "two titles in two shards": (
        {"part-0.parquet": SHARDS[0], "part-1.parquet": SHARDS[1]},
        "column 'Title' is 'title' in",
    ),
    "list": (
        {"x.parquet": {"item_id": IDS, "title": [["a"]] * 4}},
        "column 'title' has type VARCHAR[]; a title must be text",
    ),
    "struct": ({"x.parquet": {"item_id": IDS, "title": [{"en": "a"}] * 4}}, "column 'title' has type STRUCT"),
    "bytes": (
        {"x.parquet": {"item_id": IDS, "text": [b"\xff"] * 4}},
        "column 'text' has type BLOB; a text must be text",
    ),
    "JSON list": ({"x.jsonl": [{"item_id": n, "text": ["a"]} for n in IDS]}, "column 'text' has type VARCHAR[]"),
    "types of shards": (
        {"a.parquet": {"item_id": [0, 1], "price": [1.0, 2.0]}, "b.parquet": {"item_id": [2, 3], "price": ["x", "y"]}},
        "column 'price' has type VARCHAR, but DOUBLE in",
    ),
    "no item of the logs": (
        {"x.parquet": {"item_id": [70, 71], "title": ["a", "b"]}},
        "has none of the 4 items of the logs: their ids are such as 0, those of column 'item_id' such as 70",
    ),
}


def written(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        if isinstance(content, dict):
            pq.write_table(pa.table(content), folder / name)
        elif isinstance(content, list):
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in content))
        else:
            (folder / name).write_text(content)
    return folder if len(files) > 1 else folder / next(iter(files))


@pytest.mark.parametrize("case", TABLES)
def test_what_a_later_verb_cannot_use_is_refused_at_the_door(tmp_path: Path, case: str) -> None:
    files, says = TABLES[case]
    items, logs = written(tmp_path / "items", files), written(tmp_path / "logs", {"x.parquet": LOGS})
    config = PrepareConfig(k_core=1)
    with pytest.raises(DataError) as error:
        prepare_dataset([logs], items, tmp_path / "ds", config)
    assert says in str(error.value)
    assert not (tmp_path / "ds").exists()
    assert str(error.value) in [finding.says for finding in examine("x", [logs], items, config).of("error")]


@pytest.mark.parametrize(
    "added, says",
    [
        ({"tags": ["a|b"]}, "column 'tags' has type VARCHAR, but VARCHAR[] in"),
        ({"tags": [{"v": 1}]}, "column 'tags' has type STRUCT(v BIGINT), but VARCHAR[] in"),
        ({"price": ["cheap"]}, "column 'price' has type VARCHAR, but DOUBLE in"),
        ({"Title": ["x"]}, "column 'Title' is 'title' in"),
    ],
)
def test_content_of_another_type_is_not_added(tmp_path: Path, added: dict[str, list], says: str) -> None:
    first = {"item_id": IDS, "title": ["t"] * 4, "tags": [["a"]] * 4, "price": [1.0] * 4}
    logs, items = written(tmp_path / "logs", {"x.parquet": LOGS}), written(tmp_path / "items", {"x.parquet": first})
    prepare_dataset([logs], items, tmp_path / "ds", PrepareConfig(k_core=1, keep_rows=True))
    more = written(tmp_path / "more", {"x.parquet": LOGS | {"user_id": [u + 9 for u in LOGS["user_id"]]}})
    table = written(tmp_path / "table", {"x.parquet": {"item_id": [3], **added}})
    with pytest.raises(DataError) as error:
        prepare_dataset([more], table, tmp_path / "ds", PrepareConfig(), append=True)
    assert says in str(error.value)
    fine = written(
        tmp_path / "fine", {"x.parquet": {"item_id": [3], "price": [2], "title": ["new"]}}
    )  # whole numbers do
    assert prepare_dataset([more], fine, tmp_path / "ds", PrepareConfig(), append=True).counts["users"] == 6
