"""How each kind of artefact, and each file of a run, is read: all that was read, as text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from intrr_rec.data.dataset import Dataset
from intrr_rec.distributed.checkpoint.storage import read_state, verify
from intrr_rec.evaluation.evaluator import Split
from intrr_rec.evaluation.target_ranks import read_ranks
from intrr_rec.io import artefact
from intrr_rec.io.formats.records import read_sealed, read_sealed_text, read_texts
from intrr_rec.io.registry import (
    read_decision,
    read_registry,
)
from intrr_rec.runs.metrics_file import metric_lines
from intrr_rec.runs.parts import recorded_files, require_whole
from intrr_rec.runs.records import read_results
from intrr_rec.runs.run_record import read_recipe, read_run_record
from intrr_rec.semantic_ids.artefact import SemanticIds
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.deltas.delta import KIND as DELTA
from intrr_rec.vectors.table import VectorTable

SPLITS: tuple[Split, ...] = ("valid", "test")
WORLD: Any = SimpleNamespace(rank=0, size=1)


def of_dataset(path: Path) -> str:
    found = Dataset.open(path)
    return repr((found.manifest, found.items_E.tolist(), found.offsets.tolist(), found.moments))


def of_semantic_ids(path: Path) -> str:
    found = SemanticIds.open(path)
    return repr((found.manifest, found.codes_IL.tolist(), found.quality, found.item_ids.to_pylist()))


def of_bundle(path: Path) -> str:
    found = Bundle.load(path)
    return repr((found.manifest, found.settings, found.codes_IL.tolist(), found.model.rows.values_ID.tolist()))


def of_recommendations(path: Path) -> str:
    return repr(artefact.read(path, "recommendations"))


def of_delta(path: Path) -> str:
    return repr(artefact.read(path, DELTA))


def of_vectors(path: Path) -> str:
    return repr([(ids_P.tolist(), vectors_PD.tolist()) for ids_P, vectors_PD in VectorTable(path).blocks()])


def of_tables(path: Path) -> str:
    require_whole(path, recorded_files(path))
    return repr([(users.tolist(), rank_B.tolist()) for users, rank_B in (read_ranks(path, split) for split in SPLITS)])


def of_registry(path: Path) -> str:
    """What is served and why."""
    return repr((read_registry(path), read_decision(path, 1), of_bundle(path)))


def of_rich_dataset(path: Path) -> str:
    """A dataset with features, and with events that were dropped."""
    found = Dataset.open(path)
    assert found.features is not None
    columns = [(each.name, found.features.of_table(each)) for each in found.features.record.of("item")]
    return repr((found.manifest, found.items_E.tolist(), found.seen, found.features.record, columns))


def of_records(path: Path) -> str:
    """What a pipeline keeps of its jobs and its logs."""
    return repr([read_texts(path / name, "") for name in ("jobs.json", "logs.json")])


def of_file(name: str, read: Callable[[Path], object]) -> tuple[Callable[[Path], str], tuple[str, ...]]:
    """A file of a run that has a reader of its own."""
    return lambda path: repr(read(path)), (name,)


def of_checkpoint(path: Path) -> str:
    verify(path, WORLD)
    return repr(read_state(path))


# Kind → how it is opened, which gives all that was read; and which of its files that reads (None is all).
OPENERS: dict[str, tuple[Callable[[Path], str], tuple[str, ...] | None]] = {
    "dataset": (of_dataset, None),
    "semantic_ids": (of_semantic_ids, None),
    "bundle": (of_bundle, None),
    "recommendations": (of_recommendations, None),
    "bundle delta": (of_delta, None),
    "vectors": (of_vectors, None),
    "run.json": of_file("run.json", read_run_record),
    "config.yaml": of_file("config.yaml", read_recipe),
    "results.json": of_file("results.json", read_results),
    "metrics.jsonl": of_file("metrics.jsonl", lambda path: metric_lines(path / "metrics.jsonl")),
    "inspection.json": of_file("inspection.json", lambda path: read_sealed(path / "inspection.json", "")),
    "plan.json": of_file("plan.json", lambda path: read_sealed(path / "plan.json", "")),
    "ranks and recommendations": (of_tables, ("ranks/part-00000.parquet", "recommendations/part-00000.parquet")),
    "plan.txt": of_file("plan.txt", lambda path: read_sealed_text(path / "plan.txt", "")),
    "checkpoint": (of_checkpoint, None),
    "registry": (of_registry, ("registry.json", "decisions/00001.json")),
    "dataset with features": (of_rich_dataset, None),
    "pipeline records": (of_records, ("jobs.json", "logs.json")),
}
