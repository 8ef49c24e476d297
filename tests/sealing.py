"""Files of a run folder, sealed as the verbs seal them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from intrr_rec.config import Recipe, save_recipe
from intrr_rec.io.disk.atomic import write_json, write_text
from intrr_rec.io.formats.records import SEAL, sealed
from intrr_rec.runs.metrics_file import metric_line


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """A JSON file with its seal; one there may be passed in again, changed."""
    write_json(path, sealed({key: each for key, each in value.items() if key != SEAL}))


def reseal(path: Path, **change: Any) -> None:
    """Change keys of a sealed file as somebody would who means to deceive."""
    write_sealed(path, json.loads(path.read_text()) | change)


def write_run_record(run: Path, dataset: str = "a" * 64, semantic_ids: str = "b" * 64) -> None:
    """`config.yaml` and `run.json` of a run folder."""
    run.mkdir(parents=True, exist_ok=True)
    save_recipe(Recipe(), run / "config.yaml")
    paths = {"dataset": "/d", "semantic_ids": "/s", "vectors": None, "init_from": None}
    record = {"run_schema": 2, "paths": paths, "hashes": {"dataset": dataset, "semantic_ids": semantic_ids}}
    write_sealed(run / "run.json", record | {"command": "", "job": None})


def write_metric_lines(path: Path, lines: Iterable[dict[str, Any]], torn: str = "") -> None:
    """`metrics.jsonl`; `torn` is a last line that is being written."""
    write_text(path, "".join(metric_line(line) + "\n" for line in lines) + torn)
