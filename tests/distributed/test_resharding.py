"""A checkpoint of one number of ranks loads on another: tables and optimizer state to the last bit, and losses go on alike."""

import multiprocessing
import os
import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from intrr_rec.distributed.world import join_world
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.training.trainer import Trainer
from tests import tiny
from tests.distributed.launch import free_port

STEPS = 4  # of the 13 or so of the epoch, three times
SHARDINGS = ("data_parallel", "row_wise", "column_wise")
SIZES = (2, 4)
# 30 items on 4 ranks are shards of 8, 8, 8 and 6 rows. A decay that weighs keeps Adam from hiding a wrong scale.
WORDS = ("train.batch_users=5", "model.ran.dropout=0", "train.learning_rate=0.01", "train.weight_decay=0.1")


def gathered(run):
    """Every tensor of model and optimizer by name, whole."""
    flat = {f"model.{name}": value for name, value in run.parallel.module.state_dict().items()}
    for parameter, state in run.parallel.optimizer.state_dict()["state"].items():
        flat |= {f"optimizer.{parameter}.{name}": value for name, value in state.items()}
    whole = {}
    for name, value in flat.items():
        if hasattr(value, "local_shards"):
            whole[name] = torch.empty(value.size()) if run.world.is_main else None
            value.gather(0, whole[name])
        else:
            whole[name] = value.detach().clone()
    return whole


def go_on(line, words, out, save):
    """Load what is in `out`, train some steps and save; main rank: the tensors as loaded and at the end, and the losses."""
    with join_world() as world:
        run = Trainer(open_inputs(tiny.recipe(*words), **line.inputs()), out, world)
        run.parallel.module.train()
        loaded, losses = gathered(run), []
        for parts in islice(run.loader.epoch(1, run.state["epoch_step"]), STEPS):
            losses.append(world.sum(run.step(*parts)["loss"].detach()) / world.size)
            run.state["step"] += 1
            run.state["epoch_step"] += 1
        if save:
            run._save(wait=True)
        trained = gathered(run)
        if run.figures:
            run.figures.close()
    return loaded, trained, torch.stack(losses)


def run_rank(line, words, out, rank, size, port):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    loaded, trained, losses = go_on(line, words, out, save=True)
    if rank == 0:
        for name, tensors in {"loaded": loaded, "trained": trained, "losses": {"losses": losses}}.items():
            save_file({key: value.contiguous() for key, value in tensors.items()}, out / f"{name}.safetensors")


def go_on_with(size, line, words, out):
    """`go_on` with `size` ranks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.distributed.test_resharding"])
    port = free_port()
    ranks = [context.Process(target=run_rank, args=(line, words, out, rank, size, port)) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        process.kill()
    assert [process.exitcode for process in ranks] == [0] * size
    loaded, trained, losses = (load_file(out / f"{name}.safetensors") for name in ("loaded", "trained", "losses"))
    return loaded, trained, losses["losses"]


def differing(ours, others):
    assert ours.keys() == others.keys() and len(ours) > 30
    return [name for name in ours if not torch.equal(ours[name], others[name])]


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.slow
def test_from_one_rank_to_several_and_back(line, tmp_path: Path, sharding, size):
    words = (*WORDS, f"train.sharding.uid={sharding}")
    one, several = tmp_path / "one", tmp_path / "several"
    _, saved, _ = go_on(line, words, one, save=True)
    assert any(name.startswith("optimizer.uid") for name in saved)
    shutil.copytree(one, several)
    reloaded, end, losses = go_on(line, words, one, save=True)
    assert differing(reloaded, saved) == []

    loaded, trained, losses_of_several = go_on_with(size, line, words, several)
    assert differing(loaded, saved) == []
    torch.testing.assert_close(losses_of_several, losses, rtol=1e-5, atol=0)
    assert len(losses) == STEPS and differing(trained, saved) != []

    if size == 4:  # to half the ranks with twice the micro-batches
        halved = tmp_path / "halved"
        shutil.copytree(several, halved)
        loaded, _, losses_of_two = go_on_with(2, line, (*words, "train.accumulate=2"), halved)
        assert differing(loaded, trained) == []
    back, _, losses_back = go_on(line, words, several, save=False)
    assert differing(back, trained) == []
    _, _, losses_of_one = go_on(line, words, one, save=False)
    torch.testing.assert_close(losses_back, losses_of_one, rtol=1e-5, atol=0)
    if size == 4:
        torch.testing.assert_close(losses_of_two, losses_of_one, rtol=1e-5, atol=0)
    assert len(losses_back) > 0 and differing(end, saved) != []
