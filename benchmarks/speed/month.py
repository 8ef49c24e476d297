"""`python -m benchmarks.speed month`: a month of the daily pipeline, what a day costs, and what it loses against a full retraining.

The stages are those of `intrr pipeline`, done one after another in this process, so that the start of processes, which costs every day the
same, is not in the figures.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.speed.machine import describe
from benchmarks.speed.shop import Shop
from intrr_rec.cli import app
from intrr_rec.config import load_recipe
from intrr_rec.data.dataset import Dataset
from intrr_rec.distributed.world import join_world
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.registry import current_of, read_registry
from intrr_rec.pipeline.daily import stages_of
from intrr_rec.pipeline.description import Pipeline, load_pipeline
from intrr_rec.pipeline.stages import Stage
from intrr_rec.promotion.compare_on import COMPARED, compare_models
from intrr_rec.semantic_ids.build import build_semantic_ids
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.training.trainer import train
from torchx_components.launch import words_of

SETTINGS = (
    "prepare.k_core=1",
    "index.levels=3",
    "index.dedup_codes=128",
    "model.window=20",
    "model.hstu.layers=2",
    "model.hstu.width=64",
    "model.hstu.heads=2",
    "model.ran.hidden=128",
    "train.batch_users=256",
    "train.learning_rate=0.003",
    "train.schedule=constant",
)
METRIC = COMPARED.index("recall@10")


def bench_month(
    work: Path, out: Path, *, days: int, epochs: int, daily_epochs: int, retrain: Sequence[int], seed: int, small: bool
) -> dict[str, Any]:
    """Run the days; print a table and write the figures to `out` (JSON) after each.

    Args:
        work: folder that is made for logs and artefacts.
        days: the first is all that was before.
        epochs, daily_epochs: of a full training, and of every day after the first.
        retrain: days on which a model is also trained from nothing, Semantic IDs included.
        small: a shop that takes seconds, for tests.
    """
    shop = Shop(work, 120, 200, 8, 40, seed=seed) if small else Shop(work, seed=seed)
    path = _write_pipeline(work, 8 if small else 64, epochs, daily_epochs, seed)
    pipeline = load_pipeline(path)
    figures: dict[str, Any] = {"machine": describe(torch.device("cpu")), "settings": SETTINGS, "seed": seed}
    figures |= {"epochs": epochs, "daily_epochs": daily_epochs, "days": []}
    first, served, full = work / "first", None, None
    for _ in range(days):
        shop.open()
        day: dict[str, Any] = {"day": shop.day, "cost": {}}
        for stage in stages_of(pipeline):
            day["cost"] |= _timed(stage.name, partial(_bring, stage))
            if stage.name == "prepare":
                dataset = Dataset.open(pipeline.place("dataset"))
                day |= {"items": dataset.n_items, "events": len(dataset.items_E)}
                if served is not None:
                    models = {"served": served, "first": first} | ({"full": full} if full else {})
                    day["recall@10"] = _next_day(dataset, models, shop.day * 86_400)
        served = _current(pipeline, work / "served")
        if shop.day == 1:
            shutil.copytree(served, first)
        day["promoted"] = read_registry(pipeline.registry).decision == shop.day  # type: ignore[union-attr]
        full = None
        if shop.day in retrain and shop.day < days:
            full = work / "full" / "bundle"
            day["full"] = _timed("all", partial(_retrain, pipeline, work / "full"))["all"]
        figures["days"].append(day)
        write_json(out, figures)
    _show(figures)
    return figures


def _write_pipeline(work: Path, codes: int, epochs: int, daily_epochs: int, seed: int) -> Path:
    settings = [*SETTINGS, f"train.epochs={epochs}", f"train.seed={seed}", f"index.seed={seed}", f"index.codes={codes}"]
    daily = {"settings": [f"train.epochs={daily_epochs}"], "rule": "rule.yaml"}
    tree = {
        "work": "line",
        "interactions": ["logs"],
        "vectors": "vectors.parquet",
        "settings": settings,
        "daily": daily,
    }
    (work / "rule.yaml").write_text("latency: null\n")  # what else runs on the machine would decide
    path = work / "daily.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def _bring(stage: Stage) -> None:
    if stage.fault() is not None:
        typer.main.get_command(app).main(words_of(stage.job()), standalone_mode=False)
    stage.after()


def _timed(name: str, work: Callable[[], None]) -> dict[str, dict[str, float]]:
    """Seconds on the clock, and of the processor in all threads."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return {name: {"wall": time.perf_counter() - clock, "cpu": time.process_time() - processor}}


def _current(pipeline: Pipeline, target: Path) -> Path:
    """A copy of the bundle that is served."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(current_of(pipeline.registry), target)
    return target


def _retrain(pipeline: Pipeline, folder: Path) -> None:
    """All anew on the dataset of today: Semantic IDs, training, bundle."""
    shutil.rmtree(folder, ignore_errors=True)
    recipe = load_recipe(None, [*pipeline.settings])
    dataset, ids = Path(pipeline.place("dataset")), folder / "semantic_ids"
    assert pipeline.vectors is not None
    build_semantic_ids(dataset, pipeline.vectors, ids, recipe.index)
    vectors = pipeline.vectors if recipe.model.content or recipe.uses_neighbours else None
    train(recipe, dataset=dataset, semantic_ids=ids, vectors=vectors, out=folder / "run")
    write_bundle(folder / "run", folder / "bundle")


def _next_day(dataset: Dataset, models: dict[str, Path], since: int) -> dict[str, float]:
    """Recall@10 of models of the day before, over the shoppers of this day; the target is the last event of each."""
    with join_world() as world:
        comparison = compare_models(dataset, list(models.values()), world, 0)
    _, event_T = dataset.targets("test")
    assert dataset.timestamps_E is not None
    is_new_T = dataset.timestamps_E[event_T] >= since
    found = {
        name: float(each.metric_TM[is_new_T, METRIC].mean())
        for name, each in zip(models, comparison.standings, strict=True)
    }
    return found | {"users": int(is_new_T.sum())}


def _show(figures: dict[str, Any]) -> None:
    table = Table(
        "day", "items", "events", "s of the day", "of the processor", "served", "full", "first", title="month"
    )
    for day in figures["days"]:
        cost = day["cost"].values()
        found = day.get("recall@10", {})
        cells = [f"{found[name]:.4f}" if name in found else "–" for name in ("served", "full", "first")]
        spent = [f"{sum(each[kind] for each in cost):.1f}" for kind in ("wall", "cpu")]
        table.add_row(str(day["day"]), str(day["items"]), str(day["events"]), *spent, *cells)
    Console().print(table)
