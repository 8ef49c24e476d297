"""Small trained runs and their bundles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from intrr_rec.config import load_recipe
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.training.trainer import train
from tests import tiny
from tests.tiny import SMALL, Line, make_line

T = TypeVar("T")
CONFIGS = Path(__file__).parents[2] / "configs"
DENSE = ("model.dense.weight=0.5", "model.dense.negatives=8", "evaluate.rank_by=sid_and_dense")
KINDS = {
    "path": (),
    "dense": DENSE,
    "widened": (*DENSE, "evaluate.pool=beam_and_dense", "evaluate.beam=10"),
    "neighbours": (
        *DENSE[:2],
        "evaluate.rank_by=sid_dense_and_neighbours",
        "evaluate.beam=10",
        "model.neighbours.kept=6",
        "evaluate.exclude_seen=true",
    ),
    "item_knn": ("model.neighbours.kept=6", "evaluate.exclude_seen=true"),
    "content": ("model.content=true", "model.shared_ran=false", "evaluate.normalize=global"),
    "time": ("model.hstu.time_bias=true", "model.uid_width=8", "model.uid_residual=true"),
    "best_with_times": ("model.dense.negatives=8",),
    "released": tiny.FOREIGN_WORDS,
    "t5": ("model.backbone=t5", "model.t5.layers=1", "model.t5.width=16", "model.t5.heads=2", "model.item_side=lookup"),
}


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return make_line(tmp_path_factory.mktemp("line"))


class Made(dict[str, T]):
    """Makes what is asked for, once."""

    def __init__(self, make: Callable[[str], T]) -> None:
        super().__init__()
        self.make = make

    def __missing__(self, kind: str) -> T:
        self[kind] = self.make(kind)
        return self[kind]


@pytest.fixture(scope="session")
def runs(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Made[Path]:
    """Run folders, a kind of `KINDS` a key."""
    folder = tmp_path_factory.mktemp("runs")

    def make(kind: str) -> Path:
        shipped = CONFIGS / f"{kind}.yaml"
        base = shipped if shipped.exists() else None
        train(load_recipe(base, [*SMALL, "train.epochs=1", *KINDS[kind]]), out=folder / kind, **line.inputs())
        return folder / kind

    return Made(make)


@pytest.fixture(scope="session")
def bundles(runs: Made[Path], tmp_path_factory: pytest.TempPathFactory) -> Made[Bundle]:
    """Opened bundles of these runs."""
    folder = tmp_path_factory.mktemp("bundles")

    def make(kind: str) -> Bundle:
        write_bundle(runs[kind], folder / kind)
        return Bundle.load(folder / kind)

    return Made(make)
