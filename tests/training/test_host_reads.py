"""A training step reads nothing from its device: on a GPU the thread would wait there for all work that was given to it."""

import sys
import threading
from collections import Counter

import pytest
import torch

from intrr_rec.distributed.world import join_world
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.training.trainer import Trainer
from tests import tiny

# What brings a number, or a shape that hangs on numbers, from a device.
READS = ("item", "tolist", "cpu", "nonzero", "unique", "numpy", "__bool__", "__int__", "__float__", "__index__")
ON_THE_HOST = ("cpu", "_generate_vbe_metadata")  # FBGEMM's widths, which lie on the host from its first call on
WARM_UP = 3  # first steps make what is kept
CASES = {
    "plain": (),
    "clipped_parts": ("train.gradient_clip=0.5", "train.ema_decay=0.9", "train.accumulate=2"),
    "dense_and_times": ("model.dense.weight=1", "model.dense.negatives=8", "model.hstu.time_bias=true"),
    "positions": ("model.align_average=positions", "train.schedule=linear", "train.warmup_steps=3"),
    "flattened": ("model.kind=flattened",),
    "sasrec": ("model.kind=sasrec",),
}


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"))


@pytest.fixture
def reads(monkeypatch):
    """Counts reads of this thread by name; the loader's threads may read what they built."""
    found, thread = Counter(), threading.current_thread()

    def spied(name, original):
        def read(tensor, *arguments, **named):
            caller = sys._getframe(1).f_code
            if threading.current_thread() is thread and (name, caller.co_name) != ON_THE_HOST:
                found[name] += 1
            return original(tensor, *arguments, **named)

        return read

    for name in READS:
        monkeypatch.setattr(torch.Tensor, name, spied(name, getattr(torch.Tensor, name)))
    return found


@pytest.mark.parametrize("case", CASES)
def test_between_two_reports_a_step_reads_nothing(line, tmp_path, reads, case):
    inputs = open_inputs(tiny.recipe("train.batch_users=5", *CASES[case]), **line.inputs())
    with join_world() as world:
        run = Trainer(inputs, tmp_path / "run", world)
        run.parallel.module.train()
        made = list(run.loader.epoch(1))
        assert len(made) > WARM_UP + 4
        for number, parts in enumerate(made):
            if number == WARM_UP:
                reads.clear()
            run.schedule.apply(number)
            losses = run.step(*parts)
            run.finite.note(losses["loss"], number + 1)
            run._heed()
            run.state["step"] += 1
        counted = dict(reads)
        run.finite.require_loss()
        run.figures.close()
    assert counted == {}
    assert reads["__int__"] == 1, "the spy sees a report"
