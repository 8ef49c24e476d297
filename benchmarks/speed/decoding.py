"""`python -m benchmarks.speed decoding`: how long the decode of one batch takes, by beam width (IntRR Table 3).

The model is freshly initialised: its weights do not change the work. Every history has the full N items: it is a stretch of the
event log, whoever's events they are.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed.machine import describe, synchronize
from intrr_rec.config import Recipe
from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.windows import Windows
from intrr_rec.decoding.decode import decode
from intrr_rec.decoding.ranker import FITTED
from intrr_rec.distributed.world import World, join_world
from intrr_rec.errors import ConfigError, DataError
from intrr_rec.evaluation.evaluator import Evaluator
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.runs.inputs import Inputs, open_inputs

WARM_UP = 2


@torch.no_grad()
def bench_decoding(
    recipe: Recipe,
    *,
    dataset: Path,
    semantic_ids: Path,
    vectors: Path | None,
    beams: Sequence[int],
    repeats: int,
    out: Path,
    against: Recipe | None = None,
) -> dict[str, Any]:
    """Time the decode of a batch of `evaluate.batch_users` histories of `model.window` items, from log to ranked items.

    The tokens of the catalogue and the neighbours of its items are made beforehand, as in serving. Prints a table, writes the
    figures to `out` (JSON): `milliseconds` is the median of `repeats` a beam width; with `against`, `against_milliseconds` is that
    of the second recipe, and `ratio` the median over the rounds of the first one's time over the second one's, on a CPU in time of
    the processor.

    Raises:
        ArtefactError, ConfigError, DataError: as `intrr train`; or a dataset of fewer events than one batch reads.
    """
    with join_world() as world:
        works: dict[tuple[str, str], Callable[[], object]] = {}
        for name, each in (("first", recipe), ("second", against)):
            if each is not None:
                work = _decoding(open_inputs(each, dataset, semantic_ids, vectors), world)
                works |= {(name, str(beam)): partial(work, beam) for beam in beams}
        # In time of the processor the ratio of two on a shared machine is steadier.
        clock = time.process_time if against and world.device.type == "cpu" else time.perf_counter
        seconds = _in_turns(works, repeats, clock, world)
        figures: dict[str, Any] = {
            "machine": describe(world.device),
            "recipe": recipe.model_dump(mode="json"),
            "users": recipe.evaluate.batch_users,
            "history": recipe.model.window,
            "repeats": repeats,
            "milliseconds": {str(beam): _milliseconds(seconds["first", str(beam)]) for beam in beams},
        }
        if against is not None:
            pairs = {str(beam): (seconds["first", str(beam)], seconds["second", str(beam)]) for beam in beams}
            figures["against"] = against.model_dump(mode="json")
            figures["against_milliseconds"] = {beam: _milliseconds(second) for beam, (_, second) in pairs.items()}
            figures["ratio"] = {
                beam: statistics.median(a / b for a, b in zip(*pair, strict=True)) for beam, pair in pairs.items()
            }
    write_json(out, figures)
    title = f"{figures['users']} histories of {figures['history']} items"
    table = Table("W", "ms a batch", *(["ms, against", "ratio"] if against else []), title=title)
    for beam, value in figures["milliseconds"].items():
        others = [f"{figures['against_milliseconds'][beam]:,.1f}", f"{figures['ratio'][beam]:.2f}"] if against else []
        table.add_row(beam, f"{value:,.1f}", *others)
    Console().print(table)
    return figures


def _decoding(inputs: Inputs, world: World) -> Callable[[int], object]:
    """The decode of one batch by a beam width, of a model with random weights."""
    evaluator = Evaluator(inputs.model(world.device).eval(), inputs, world)
    batch = full_batch(inputs).to(world.device)
    catalogue_ID, settings = evaluator.catalogue(), inputs.recipe.evaluate
    neighbours = evaluator.neighbours
    fitted_X = None if neighbours is None else torch.ones(FITTED, device=world.device)

    def work(beam: int) -> object:
        allowed = evaluator.leaves.allow(None, batch.seen_items()[0]) if settings.exclude_seen else None
        asked = settings.model_copy(update={"beam": beam})
        return decode(evaluator.model, batch, catalogue_ID, evaluator.trie, asked, allowed, neighbours, fitted_X)

    return work


def full_batch(inputs: Inputs) -> Batch:
    """A batch of stretches of N events, end to end, each scored at its last.

    Raises:
        DataError: the dataset has fewer events.
    """
    users, length, dataset = inputs.recipe.evaluate.batch_users, inputs.recipe.model.window, inputs.dataset
    if users * length >= len(dataset.items_E):
        raise DataError(
            f"{dataset.path}: has fewer than {users} × {length} events; lower evaluate.batch_users or model.window"
        )
    at = np.arange(users)
    times_E = dataset.timestamps_E if inputs.recipe.model.reads_times else None
    feature_FE = [] if dataset.features is None else [dataset.features.of_events(c) for c in inputs.space.of("event")]
    collate = inputs.collator(training=False).over(dataset.items_E, times_E, feature_FE)
    return collate(Windows(at, at * length, np.full(users, length), np.full(users, length - 1)))


def parse_beams(words: str) -> tuple[int, ...]:
    """`10,20` → (10, 20).

    Raises:
        ConfigError: not whole numbers of at least 1.
    """
    parts = [part.strip() for part in words.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise ConfigError(f"--beams {words}: must be whole numbers and commas, such as 10,20,50")
    return tuple(dict.fromkeys(map(int, parts)))


def _in_turns(
    works: dict[tuple[str, str], Callable[[], object]], repeats: int, clock: Callable[[], float], world: World
) -> dict[tuple[str, str], list[float]]:
    """Seconds of each after a warm-up: all in turns, round after round, so that a machine whose speed drifts is as slow for each."""
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in works}
    for _ in range(WARM_UP + repeats):
        for name, work in works.items():
            synchronize(world.device)
            started = clock()
            work()
            synchronize(world.device)
            seconds[name].append(clock() - started)
    return {name: values[WARM_UP:] for name, values in seconds.items()}


def _milliseconds(seconds: Sequence[float]) -> float:
    return 1e3 * statistics.median(seconds)
