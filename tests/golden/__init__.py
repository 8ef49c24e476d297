"""The first losses of every model, kept as files: `python -m tests.golden` writes them anew.

They catch what no other test names: a changed initial scale, order of draws, weighting or optimizer. A commit that means to
change them carries the new files.
"""

from __future__ import annotations

import json
from itertools import chain, count, islice
from pathlib import Path

from intrr_rec.distributed.world import join_world
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.training.trainer import Trainer
from tests import tiny

FOLDER = Path(__file__).parent
COMMAND = "python -m tests.golden"
STEPS = 6  # an epoch and a half of the miniature line
# Scales and a learning rate at which every part of a model soon weighs in. No dropout: its draws are tested elsewhere.
COMMON = ("train.learning_rate=0.01", "model.codebook_std=0.2", "model.uid_std=0.2")
T5 = "model.t5={layers: 2, width: 16, heads: 2, head_width: 8, feed_forward: 32, dropout: 0}"
CASES = {
    "intrr-hstu": (),
    "intrr-hstu-time": ("model.hstu.time_bias=true",),
    "intrr-hstu_released": tiny.FOREIGN_WORDS,
    "intrr-dense": ("model.dense={weight: 1, negatives: 16}", "model.content=true", "model.uid_residual=true"),
    "intrr-t5": ("model.backbone=t5", T5),
    "flattened-hstu": ("model.kind=flattened",),
    "flattened-hstu_released": ("model.kind=flattened", *tiny.FOREIGN_WORDS),
    "flattened-t5": ("model.kind=flattened", "model.backbone=t5", T5),
    "tiger": (
        "model.kind=tiger",
        "model.tiger={layers: 2, width: 16, heads: 2, head_width: 8, feed_forward: 32, dropout: 0}",
    ),
    "sasrec": (
        "model.kind=sasrec",
        "model.dense.negatives=16",
        "model.sasrec={layers: 2, width: 16, heads: 2, dropout: 0}",
    ),
}


def golden_file(name: str) -> Path:
    """Where the losses of a case are kept."""
    return FOLDER / f"{name}.json"


def first_losses(name: str, line: tiny.Line, out: Path) -> list[float]:
    """The loss of each of the first `STEPS` training steps, through the trainer's own loader and step."""
    inputs = open_inputs(tiny.recipe(*COMMON, *CASES[name]), **line.inputs())
    with join_world() as world:
        run = Trainer(inputs, out, world)
        run.parallel.module.train()
        batches = chain.from_iterable(map(run.loader.epoch, count()))
        losses = [run.step(*parts)["loss"].item() for parts in islice(batches, STEPS)]
        if run.figures:
            run.figures.close()
    return losses


def write(name: str, line: tiny.Line, out: Path) -> None:
    """Compute a case and keep it."""
    kept = {"settings": [*COMMON, *CASES[name]], "losses": [round(loss, 6) for loss in first_losses(name, line, out)]}
    golden_file(name).write_text(json.dumps(kept, indent=1) + "\n")
