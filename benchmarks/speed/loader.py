"""`python -m benchmarks.speed loader`: sequences a second that the loader makes, in memory and streamed, beside what a training step takes."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.speed.machine import describe, peak_memory_gb, synchronize
from intrr_rec.config import Recipe
from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.loader import Loader
from intrr_rec.distributed.world import World, join_world
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.stores.storage import Location
from intrr_rec.runs.inputs import Inputs, open_inputs
from intrr_rec.training.trainer import Trainer

WARM_UP = 3
GROUPS = 16  # row groups that are read to time the reading alone
POOLS = 8  # of a streamed epoch, if the row groups are small enough


def bench_loader(
    recipe: Recipe, *, dataset: Location, semantic_ids: Path, vectors: Path | None, out: Path, steps: int
) -> dict[str, Any]:
    """Measure, print a table, write all figures to `out` (JSON).

    Args:
        steps: of training, whose median is taken; the loader goes through at least as many, and a whole epoch if it is
            short.

    Raises:
        ArtefactError, ConfigError, DataError: as `intrr train`.
    """
    inputs = open_inputs(recipe, dataset, semantic_ids, vectors)
    events = len(inputs.dataset.events)
    with join_world() as world:
        taken = _training(inputs, world, steps)
        made = {"in memory": _made(inputs, world, events, steps)}
        made["streamed"] = _made(inputs, world, max(1, events // POOLS), steps)
        figures: dict[str, Any] = {
            "machine": describe(world.device),
            "dataset": str(dataset),
            "recipe": recipe.model_dump(mode="json"),
            "events": events,
            "row_groups": len(inputs.dataset.events.groups),
            "training_sequences_per_second": taken,
            "reading_ms_per_million_events": _reading(inputs),
            "loader": {
                name: found | {"times_training": found["sequences_per_second"] / taken} for name, found in made.items()
            },
            "peak_memory_gb": peak_memory_gb(world.device),
        }
        if world.is_main:
            write_json(out, figures)
            _print(figures)
    return figures


def _training(inputs: Inputs, world: World, steps: int) -> float:
    """Sequences a second of the training step alone, its batches made beforehand."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Trainer(inputs, Path(scratch), world)
        run.parallel.module.train()
        batches = list(itertools.islice(run.loader.epoch(1), min(steps + WARM_UP, run.loader.steps)))
        seconds = []
        for batch in batches:
            started = time.perf_counter()
            run.step(*batch)["loss"].item()
            synchronize(world.device)
            seconds.append(time.perf_counter() - started)
    return inputs.recipe.train.batch_users / statistics.median(seconds[WARM_UP:] or seconds)


def _reading(inputs: Inputs) -> float:
    """Milliseconds of the processor to read and decode a million events, which every rank does for all of them."""
    store = inputs.dataset.events
    groups = range(min(len(store.groups), GROUPS))
    started = time.process_time()
    events = sum(len(store.read(group, "items")) for group in groups)
    if inputs.recipe.model.reads_times:
        for group in groups:
            store.read(group, "timestamps")
    return (time.process_time() - started) * 1e9 / events


def _made(inputs: Inputs, world: World, pool_events: int, steps: int) -> dict[str, float]:
    """Sequences a second of the loader alone, and how much of its blocks holds events."""
    loading = inputs.recipe.train.loader.model_copy(update={"pool_events": pool_events})
    settings = inputs.recipe.train.model_copy(update={"loader": loading})
    one = Inputs(
        inputs.recipe.model_copy(update={"train": settings}), inputs.dataset, inputs.semantic_ids, inputs.content_IV
    )
    loader = Loader(
        one.training_windows(),
        one.collator(training=True),
        settings.batch_users,
        seed=settings.seed,
        rank=world.rank,
        ranks=world.size,
        workers=loading.workers,
    )
    started = time.perf_counter()
    slots, filled = _count(itertools.islice(loader.epoch(1), max(steps, 100)))
    seconds = time.perf_counter() - started
    sequences = min(len(loader.windows), max(steps, 100) * settings.batch_users)
    return {"sequences_per_second": sequences / seconds, "slots_filled": filled / slots}


def _count(steps: Iterable[tuple[Batch, ...]]) -> tuple[int, int]:
    slots = filled = 0
    for batch in itertools.chain.from_iterable(steps):
        owner_CN = batch.layout.owner_CN
        slots, filled = slots + owner_CN.numel(), filled + int((owner_CN >= 0).sum())
    return slots, filled


def _print(figures: dict[str, Any]) -> None:
    machine = figures["machine"]
    table = Table(
        "",
        "sequences/s",
        "times the step's",
        "slots filled",
        title=f"{machine['device']}, {machine['threads']} threads",
    )
    table.add_row("training step", f"{figures['training_sequences_per_second']:,.0f}", "1", "")
    for name, found in figures["loader"].items():
        rate, times = found["sequences_per_second"], found["times_training"]
        table.add_row(f"loader, {name}", f"{rate:,.0f}", f"{times:.1f}", f"{found['slots_filled']:.1%}")
    Console().print(table)
    Console().print(
        f"reading alone: {figures['reading_ms_per_million_events']:.0f} ms of the processor a million events"
    )
