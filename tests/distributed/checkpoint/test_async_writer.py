"""Saving beside training: what is written is the state at the save, one piece of work at a time, and a failure is told."""

import threading
import time

import pytest
import torch

from intrr_rec.distributed.checkpoint import async_writer as background
from intrr_rec.distributed.checkpoint.async_writer import BackgroundWriter, Staging
from intrr_rec.distributed.checkpoint.storage import checkpoint_tensors
from intrr_rec.distributed.world import join_world
from intrr_rec.errors import PlaceError
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.training.trainer import Trainer
from tests import tiny


@pytest.fixture
def world():
    with join_world() as joined:
        yield joined


@pytest.fixture
def run(tmp_path, world):
    line = tiny.make_line(tmp_path)
    made = Trainer(open_inputs(tiny.recipe("train.sharding.uid=row_wise"), **line.inputs()), tmp_path / "run", world)
    made.step(*next(made.loader.epoch(1)))
    yield made
    made.figures.close()


def flat(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value.local_shards()[0].tensor if hasattr(value, "local_shards") else value


def test_a_copy_holds_what_was_there_whatever_is_trained_after(run, world):
    tensors = checkpoint_tensors(run.parallel, with_optimizer=True)
    taken = dict(flat(Staging().copied(tensors, world)))
    before = {name: value.detach().clone() for name, value in flat(tensors)}
    run.step(*next(run.loader.epoch(2)))
    after = dict(flat(checkpoint_tensors(run.parallel, with_optimizer=True)))
    assert list(taken) == list(before) and len(taken) > 30
    assert all(torch.equal(taken[name], before[name]) for name in before)
    assert {"model.uid.embeddings.uid.weight", "optimizer.uid.embeddings.uid.weight.uid.momentum1"} <= {
        name for name in before if not torch.equal(after[name], before[name])
    }


def test_a_second_copy_is_written_over_the_first(run, world):
    staging = Staging()
    first = dict(flat(staging.copied(checkpoint_tensors(run.parallel, with_optimizer=True), world)))
    places = {name: value.data_ptr() for name, value in first.items()}
    run.step(*next(run.loader.epoch(2)))
    tensors = checkpoint_tensors(run.parallel, with_optimizer=True)
    second = dict(flat(staging.copied(tensors, world)))
    assert {name: value.data_ptr() for name, value in second.items()} == places
    assert all(torch.equal(second[name], value) for name, value in flat(tensors))


def test_without_memory_for_a_copy_it_is_written_before_training_goes_on(run, monkeypatch):
    monkeypatch.setattr(background, "SHARE", 0.0)
    run._save()
    assert (run.out / "checkpoints/step-00000000/complete.json").is_file()


def test_work_waits_for_the_work_before_it(world):
    gate, done = threading.Event(), []
    with BackgroundWriter(world) as writer:
        writer.start(lambda: (gate.wait(), done.append(1)))
        assert done == [] and not writer.failed
        threading.Timer(0.05, gate.set).start()
        writer.start(lambda: done.append(2))
        assert done[:1] == [1]
    assert done == [1, 2]


def test_a_save_that_failed_is_raised_by_whatever_waits_for_it_next_and_once(run):
    (run.out / "checkpoints").write_text("in the way")
    run._save()
    with pytest.raises(PlaceError, match=r"step-00000000: cannot be written \(.*the same command again"):
        run.checkpoints.wait()
    assert not run.checkpoints.failed
    run.checkpoints.wait()
    run._save()
    while not run.checkpoints.failed:
        time.sleep(0.01)
    with pytest.raises(PlaceError, match="cannot be written"):
        run._heed()
