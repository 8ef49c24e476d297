"""Rows that differ in the history filter alone share a training: the filter is no part of what is learned.

The checkpoint is the one that was best under the filter of the run that trained it; the weights of the ranking are fitted anew.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.tables.cells import CONFIG, INPUTS, RESULTS, Cell, Workplace
from intrr_rec.config import same_run, save_recipe
from intrr_rec.distributed.world import World
from intrr_rec.evaluation.evaluator import Evaluator
from intrr_rec.evaluation.results import write_results
from intrr_rec.io.disk.atomic import write_bytes
from intrr_rec.runs.folder import claimed
from intrr_rec.runs.open_run import open_run
from intrr_rec.runs.run_files import checkpoint_names


def trained_alike(cell: Cell, place: Workplace) -> str | None:
    """The folder of a finished run that was trained as the cell is and filters the history otherwise; None where there is none."""
    recipe, folder = cell.recipe, place.folder(cell)
    if not recipe.model.kind_settings.learns or checkpoint_names(folder):
        return None
    any_filter = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"exclude_seen": None})})
    for other in sorted(folder.parents[1].glob(f"*/{folder.name}")):
        done = other != folder and (other / RESULTS).is_file() and checkpoint_names(other)
        if done and same_run(other / CONFIG, any_filter) and place.same_inputs(cell, other):
            return str(other)
    return None


def evaluate_alike(trained: Path, cell: Cell, folder: Path, world: World) -> None:
    """Evaluate the best checkpoint of `trained` under the filter of `cell`, into `folder`; every rank calls this.

    Raises:
        ArtefactError: the run cannot be opened, or another job is at work in the folder.
        PlaceError: the folder cannot be written.
    """
    word = f"evaluate.exclude_seen={str(cell.recipe.evaluate.exclude_seen).lower()}"
    with claimed(folder, world):
        opened = open_run(trained, world, [word])

        def record() -> None:
            if world.is_main:
                save_recipe(opened.inputs.recipe, folder / CONFIG)
                write_bytes(folder / INPUTS, (trained / INPUTS).read_bytes())

        world.agree(record)
        evaluator = Evaluator(opened.model, opened.inputs, world)
        evaluator.fit()
        write_results(folder, evaluator, opened.state, opened.checkpoint)
