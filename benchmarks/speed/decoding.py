"""`python -m benchmarks.speed decoding`: how long the decode of one batch takes, by beam width (IntRR Table 3).

The model is freshly initialised: its weights do not change the work. Every history has the full N items: it is a stretch of the
event log, whoever's events they are.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed.machine import describe, synchronize
from intrr_rec.config import EvaluateConfig, Recipe
from intrr_rec.data.loading.windows import Windows
from intrr_rec.decoding.decode import decode
from intrr_rec.distributed.world import World, join_world
from intrr_rec.errors import ConfigError, DataError
from intrr_rec.evaluation.evaluator import Evaluator
from intrr_rec.io.atomic import write_json
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
) -> dict[str, Any]:
    """Time the decode of a batch of `evaluate.batch_users` histories of `model.window` items, from log to ranked items.

    The tokens of the catalogue are made beforehand, as in serving. Prints a table, writes the figures to `out` (JSON):
    `milliseconds` is the median of `repeats` a beam width.

    Raises:
        ArtefactError, ConfigError, DataError: as `intrr train`; or a dataset of fewer events than one batch reads.
    """
    inputs = open_inputs(recipe, dataset, semantic_ids, vectors)
    with join_world() as world:
        evaluator = Evaluator(inputs.model(world.device).eval(), inputs, world)
        batch = evaluator.collate(full_windows(inputs)).to(world.device)
        catalogue_ID = evaluator.catalogue()
        widths = {str(beam): recipe.evaluate.model_copy(update={"beam": beam}) for beam in beams}

        def work(settings: EvaluateConfig) -> None:
            decode(evaluator.model, batch, catalogue_ID, evaluator.trie, settings)

        milliseconds = _median_milliseconds(work, widths, repeats, world)
        figures = {
            "machine": describe(world.device),
            "recipe": recipe.model_dump(mode="json"),
            "users": recipe.evaluate.batch_users,
            "history": recipe.model.window,
            "repeats": repeats,
            "milliseconds": milliseconds,
        }
    write_json(out, figures)
    table = Table("W", "ms a batch", title=f"{figures['users']} histories of {figures['history']} items")
    for width, value in milliseconds.items():
        table.add_row(width, f"{value:,.1f}")
    Console().print(table)
    return figures


def full_windows(inputs: Inputs) -> Windows:
    """A batch of stretches of N events, end to end, each scored at its last.

    Raises:
        DataError: the dataset has fewer events.
    """
    users, length = inputs.recipe.evaluate.batch_users, inputs.recipe.model.window
    if users * length >= len(inputs.dataset.items_E):
        raise DataError(
            f"{inputs.dataset.path}: has fewer than {users} × {length} events; lower evaluate.batch_users or model.window"
        )
    at = np.arange(users)
    return Windows(at, at * length, np.full(users, length), np.full(users, length - 1))


def parse_beams(words: str) -> tuple[int, ...]:
    """`10,20` → (10, 20).

    Raises:
        ConfigError: not whole numbers of at least 1.
    """
    parts = [part.strip() for part in words.split(",")]
    if not all(part.isdigit() and int(part) for part in parts):
        raise ConfigError(f"--beams {words}: must be whole numbers and commas, such as 10,20,50")
    return tuple(dict.fromkeys(map(int, parts)))


def _median_milliseconds(
    work: Callable[[EvaluateConfig], None], widths: dict[str, EvaluateConfig], repeats: int, world: World
) -> dict[str, float]:
    """All widths in turn, round after round, so that a machine whose speed drifts is as slow for each of them."""
    seconds: dict[str, list[float]] = {width: [] for width in widths}
    for _ in range(WARM_UP + repeats):
        for width, settings in widths.items():
            synchronize(world.device)
            started = time.perf_counter()
            work(settings)
            synchronize(world.device)
            seconds[width].append(time.perf_counter() - started)
    return {width: 1e3 * statistics.median(values[WARM_UP:]) for width, values in seconds.items()}
