"""One artefact of each kind, made once; the drills change copies."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from intrr_rec.io import artefact
from intrr_rec.io.registry import (
    REGISTRY,
    Registry,
    bundle_place,
    write_decision,
    write_record,
)
from intrr_rec.serving.batch.histories import DatasetSource
from intrr_rec.serving.batch.recommend import Options, recommend_all
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.deltas.delta import write_delta
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.training.trainer import train
from intrr_rec.vectors.concat import concat_vectors, parse_parts
from tests.data.features import rich
from tests.drills.openers import OPENERS
from tests.sealing import write_sealed
from tests.tiny import make_line, recipe


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One artefact of each kind."""
    folder = tmp_path_factory.mktemp("made")
    line = make_line(folder)
    train(recipe("train.epochs=1"), out=folder / "run", **line.inputs())
    write_bundle(folder / "run", folder / "bundle")
    recommend_all(
        Bundle.load(folder / "bundle"), DatasetSource(line.dataset, 0), folder / "recommendations", Options(k=3)
    )
    concat_vectors(line.dataset, folder / "vectors", parse_parts([f"a={line.vectors}"], ()), "float16")
    train(recipe("train.epochs=1", "train.seed=1"), out=folder / "later", **line.inputs())
    write_bundle(folder / "later", folder / "later-bundle")
    write_delta(folder / "bundle", folder / "later-bundle", folder / "delta")
    registry, hash_ = folder / "registry", artefact.peek(folder / "bundle").content_hash
    shutil.copytree(folder / "bundle", bundle_place(registry, hash_))
    write_decision(registry, 1, {"candidate": hash_, "promoted": True, "reason": "nothing was served before"})
    write_record(registry, REGISTRY, Registry(current=hash_, previous=None, decision=1).model_dump())
    (folder / "rich").mkdir()
    weights: Any = {"event_column": "action", "event_weights": {"buy": 1, "like": 1}}
    rich_dataset = rich.make_line(folder / "rich", **weights).dataset
    (folder / "records").mkdir()
    write_sealed(folder / "records/jobs.json", {"train": "local_cwd://torchx/train-abc"})
    write_sealed(folder / "records/logs.json", {"/logs/day0.parquet": hash_})
    return dict.fromkeys(OPENERS, folder / "run") | {
        "registry": registry,
        "dataset with features": rich_dataset,
        "pipeline records": folder / "records",
        "dataset": line.dataset,
        "semantic_ids": line.semantic_ids,
        "bundle": folder / "bundle",
        "bundle delta": folder / "delta",
        "recommendations": folder / "recommendations",
        "vectors": folder / "vectors",
        "checkpoint": folder / "run" / "checkpoints" / "best",
    }


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Artefacts of the same sizes, made from other logs."""
    folder = tmp_path_factory.mktemp("others")
    line = make_line(folder, seed=1)
    train(recipe("train.epochs=1", "train.seed=5"), out=folder / "run", **line.inputs())
    write_bundle(folder / "run", folder / "bundle")
    return {"dataset": line.dataset, "semantic_ids": line.semantic_ids, "bundle": folder / "bundle"}
