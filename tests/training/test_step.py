"""A step's parts, clipping, average and precision, against ten-line references, in one process."""

import json
from itertools import islice

import pytest
import torch

from intrr_rec.distributed.world import join_world
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.training.trainer import Trainer, train
from tests import tiny
from tests.training.figures import lines, story

STEPS = 3
# A decay and scales that weigh: Adam alone would hide a gradient that is off by a factor.
WORDS = ("train.learning_rate=0.01", "train.weight_decay=0.1", "model.uid_std=0.2", "model.codebook_std=0.2")
SHARDINGS = ("data_parallel", "row_wise", "column_wise")


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"))


@pytest.fixture
def make_run(line, tmp_path):
    with join_world() as world:
        made = []

        def make(*words):
            made.append(
                Trainer(open_inputs(tiny.recipe(*WORDS, *words), **line.inputs()), tmp_path / f"{len(made)}", world)
            )
            made[-1].parallel.module.train()
            return made[-1]

        yield make
        for run in made:
            run.figures.close()


def take_steps(run, count=STEPS):
    figures = []
    for parts in islice(run.loader.epoch(1), count):
        figures.append(run.step(*parts))
        run.state["step"] += 1
    return figures


def local(value):
    return value.local_shards()[0].tensor if hasattr(value, "local_shards") else value


def weights(run):
    return {name: local(value).detach().clone() for name, value in run.parallel.module.state_dict().items()}


def assert_close(ours, others):
    assert ours.keys() == others.keys() and len(ours) > 15
    for name, value in ours.items():
        torch.testing.assert_close(value, others[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("parts", [2, 5])
def test_a_step_in_parts_is_the_step(make_run, sharding, parts):
    words = (f"train.sharding.uid={sharding}", f"train.sharding.codebooks={sharding}")
    whole, accumulated = make_run(*words), make_run(*words, f"train.accumulate={parts}")
    for ours, others in zip(take_steps(accumulated), take_steps(whole), strict=True):
        torch.testing.assert_close(ours, others, rtol=1e-5, atol=1e-6)
    assert_close(weights(accumulated), weights(whole))


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_the_norm_is_that_of_the_whole_gradient_and_bounds_it(make_run, sharding):
    """The gradient of every weight, as plain autograd over a replicated model finds it."""
    plain = make_run()
    (batch,) = next(plain.loader.epoch(1))
    plain.parallel.module(batch)["loss"].backward()
    gradients = {name: p.grad for name, p in plain.parallel.module.named_parameters()}
    norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm()
    run = make_run("train.gradient_clip=0.5", f"train.sharding.uid={sharding}", f"train.sharding.codebooks={sharding}")
    before = weights(run)
    assert norm > 0.5 and len(gradients) == len(plain.parallel.dense_parameters)
    torch.testing.assert_close(run.step(batch)["gradient_norm"], norm)
    for name, parameter in run.parallel.module.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, gradients[name] * 0.5 / norm, rtol=1e-4, atol=1e-7)
    if sharding == "data_parallel":
        return
    # Adagrad's first step: by the clipped gradient g over its root mean square of a row (row-wise), or over itself.
    (name,) = (name for name in before if "uid" in name)
    gradient_RD, step_RD = gradients[name] * 0.5 / norm, before[name] - weights(run)[name]
    mean = gradient_RD.square().mean(1, keepdim=True) if sharding == "row_wise" else gradient_RD.square()
    torch.testing.assert_close(step_RD, 0.02 * gradient_RD / (mean.sqrt() + 1e-8), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_a_norm_within_bounds_changes_nothing(make_run, sharding):
    free, bounded = (make_run(f"train.sharding.uid={sharding}", *word) for word in ((), ("train.gradient_clip=1e6",)))
    take_steps(free), take_steps(bounded)
    assert_close(weights(bounded), weights(free))


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_the_average_is_the_average_and_is_what_is_validated_and_kept(make_run, sharding):
    run = make_run("train.ema_decay=0.5", f"train.sharding.uid={sharding}")
    expected = weights(run)
    for step in range(STEPS + 4):
        take_steps(run, 1)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = {name: decay * expected[name] + (1 - decay) * value for name, value in weights(run).items()}
    trained = weights(run)
    with run.parallel.weights(averaged=True):
        assert_close(weights(run), expected)
        with run.parallel.weights(averaged=False):
            assert weights(run).keys() == trained.keys()
            assert all(torch.equal(value, trained[name]) for name, value in weights(run).items())
        averaged = run._validate(1)
    assert run._validate(1) == averaged != run.evaluator.evaluate("valid")
    run.checkpoints.save(run.state, 1, best=True)
    assert all(torch.equal(value, trained[name]) for name, value in weights(run).items())
    run.checkpoints.wait()
    assert run.checkpoints.load_best()[0] == "best"
    assert_close(weights(run), expected)


@pytest.mark.learns
def test_bf16_learns_nearly_the_same_in_fp32_weights(make_run, learned):
    seed = f"train.seed={learned.seed}"
    exact, short = make_run(seed), make_run(seed, "train.precision=bf16")
    for ours, others in zip(take_steps(short, 4), take_steps(exact, 4), strict=True):
        assert ours["loss"].dtype == torch.float32
        learned.below("relative difference of a step's loss", abs(ours["loss"] / others["loss"] - 1), 2e-2)
        assert not torch.equal(ours["loss"], others["loss"])
    assert {value.dtype for value in weights(short).values()} == {torch.float32}


ALL = ("train.accumulate=3", "train.gradient_clip=0.5", "train.ema_decay=0.9", "train.precision=bf16")


def test_cut_off_and_resumed_equals_uninterrupted(line, tmp_path, monkeypatch):
    """With dropout; in mid-epoch, and in a validation by the averages."""
    words = (*WORDS, *ALL, "model.hstu.dropout=0.2", "train.checkpoint_every=3", "train.sharding.uid=row_wise")
    train(tiny.recipe(*words), **line.inputs(), out=tmp_path / "whole")
    for owner, name, call in (Trainer, "step", 3), (Trainer, "step", 5), (Trainer, "_keep", 1):
        original, calls = getattr(owner, name), []

        def cut(self, *arguments, original=original, calls=calls, call=call, **named):
            calls.append(1)
            if len(calls) == call:
                raise KeyboardInterrupt
            return original(self, *arguments, **named)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, cut)
            train(tiny.recipe(*words), **line.inputs(), out=tmp_path / "run")
    train(tiny.recipe(*words), **line.inputs(), out=tmp_path / "run")
    assert story(tmp_path / "run") == story(tmp_path / "whole")
    assert all(record["gradient_norm"] > 0.5 for record in lines(tmp_path / "run", "train"))
    assert json.loads((tmp_path / "run/results.json").read_text())["epochs"] == 2
