"""A run opened to rank with: its inputs, checked, and the model of its best checkpoint, spread over the ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intrr_rec.distributed.parallelize import META, parallelize
from intrr_rec.distributed.world import World
from intrr_rec.models.base import Recommender
from intrr_rec.runs.checkpoints import Checkpoints
from intrr_rec.runs.inputs import Inputs, reopen_inputs
from intrr_rec.runs.neighbours import untrained
from intrr_rec.runs.run_files import NO_CHECKPOINT


@dataclass(frozen=True)
class OpenedRun:
    """What ranking with a run needs.

    Attributes:
        inputs: what the run was trained on.
        model: that of the checkpoint, in its shards, in evaluation mode.
        checkpoints: of the run; None where the kind of model is not trained.
        checkpoint: the name of the checkpoint: the best one, or the one that stands in for it.
        state: of the training loop when that checkpoint was saved.
    """

    inputs: Inputs
    model: Recommender
    checkpoints: Checkpoints | None
    checkpoint: str
    state: dict[str, Any]


def open_run(
    path: Path, world: World, overrides: Sequence[str] = (), *, check: Callable[[Inputs], None] = lambda inputs: None
) -> OpenedRun:
    """Open a run; every rank calls this.

    Args:
        path: the run folder.
        overrides: `section.key=value` words over the recipe of the run.
        check: called with the inputs before the model is loaded; it may raise.

    Raises:
        ArtefactError: not a run folder, an input that has changed since, or no usable checkpoint.
        ConfigError: an override that is unknown or out of range; what `check` raises; tables that do not fit.
    """
    inputs = reopen_inputs(path, overrides)
    check(inputs)
    if not inputs.recipe.model.kind_settings.learns:
        model, made = untrained(inputs, world)
        return OpenedRun(inputs, model.eval(), None, NO_CHECKPOINT, made)
    parallel = parallelize(inputs.model(META), world, inputs.recipe, training=False, filled=False)
    checkpoints = Checkpoints(path, parallel, world)
    checkpoint, state = checkpoints.load_best()
    return OpenedRun(inputs, parallel.model.eval(), checkpoints, checkpoint, state)
