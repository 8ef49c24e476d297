"""Weak scaling: one rank, then two, each with the same share of users, and where the time of a step goes.

What a step exchanges is timed on its own as well, at the sizes of the cost model (`distributed/planner/traffic.py`), over the same link:
so the model's bytes can be held against measured seconds, and what is neither compute nor exchange is what ranks that share
a machine cost each other.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.machine import quiet, synchronize
from intrr_rec.config import Recipe
from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.counts import alone
from intrr_rec.data.loading.loader import Loader
from intrr_rec.data.loading.windows import Windows
from intrr_rec.distributed.parallelize import META, parallelize
from intrr_rec.distributed.planner.dry_run import meta_model
from intrr_rec.distributed.planner.hardware import GB, Machines
from intrr_rec.distributed.planner.plan import make_plan
from intrr_rec.distributed.planner.traffic import Traffic, estimate_traffic
from intrr_rec.distributed.step_counts import CountExchange
from intrr_rec.distributed.world import World, join_world
from intrr_rec.errors import ConfigError
from intrr_rec.models.registry import make_model
from intrr_rec.training.step import TrainingStep

WARM_UP = 2
REPEATS = 20
LINK_BYTES = 16 * 2**20
SECONDS = 900


def measure_ranks(recipe: Recipe, *, rows: int, ranks: Sequence[int], steps: int, threads: int) -> list[dict[str, Any]]:
    """A step of each number of ranks; `batch_users` is of each rank.

    Args:
        rows: of the catalogue.
        threads: of each rank.
    """
    return [_run(recipe, rows, size, steps, threads) for size in ranks]


def batches(recipe: Recipe, rows: int, count: int, world: World | None = None, *, apart: int = 1) -> list[Batch]:
    """Full windows of random items, none seen twice: the share of a rank in steps of `batch_users` a rank.

    The items are `rows` ones that lie `apart` in the table, so that tables of any size are asked for the same batches.
    """
    rank, ranks = (world.rank, world.size) if world else (0, 1)
    users, length = recipe.train.batch_users * ranks, recipe.model.window
    rng = np.random.default_rng(recipe.train.seed)
    items_E = apart * rng.integers(rows, size=count * users * length + 1)
    collate = Collator(items_E, length, None, recipe.model.align_average)
    whole = np.arange(count * users)
    windows = Windows(whole, whole * length, np.full(len(whole), length), np.zeros(len(whole), np.int64))
    exchange = CountExchange(world) if ranks > 1 and world else alone
    loader = Loader(windows, collate, users, seed=None, rank=rank, ranks=ranks, exchange=exchange)
    return [batch for (batch,) in loader.epoch()]


def timed_steps(step: TrainingStep, shares: Sequence[Batch]) -> float:
    """Median milliseconds of a step, after a warm-up."""
    seconds = []
    for number, batch in enumerate(shares):
        synchronize(step.world.device)
        started = time.perf_counter()
        step([batch], number)
        synchronize(step.world.device)
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds[WARM_UP:])


def _run(recipe: Recipe, rows: int, size: int, steps: int, threads: int) -> dict[str, Any]:
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    group = [
        spawn.Process(target=_rank, args=(recipe, rows, rank, size, port, steps, threads, there))
        for rank in range(size)
    ]
    for process in group:
        process.start()
    try:
        if not here.poll(SECONDS):
            raise ConfigError(f"bench scaling: {size} ranks gave no figures within {SECONDS} seconds")
        found = here.recv()
        for process in group:
            process.join(60)
    finally:
        for process in group:
            process.kill()
    return found


def _rank(
    recipe: Recipe, rows: int, rank: int, size: int, port: int, steps: int, threads: int, answer: Connection
) -> None:
    quiet(threads)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": str(threads)}
    rng = np.random.default_rng(recipe.train.seed)
    codes = [*recipe.index.sizes, recipe.index.dedup_codes]
    codes_IL = torch.from_numpy(np.stack([rng.integers(k, size=rows) for k in codes], axis=1))
    with join_world() as world:
        shares = batches(recipe, rows, WARM_UP + steps, world)
        torch.manual_seed(recipe.train.seed)
        parallel = parallelize(make_model(recipe.model, codes_IL, codes, None, META), world, recipe)
        parallel.module.train()
        step = TrainingStep(parallel, recipe.train, world)
        found: dict[str, Any] = {"ranks": size, "rows": rows, "users_a_rank": recipe.train.batch_users}
        found["step_ms"] = timed_steps(step, shares)
        counter = FlopCounterMode(display=False)
        with counter:
            step([shares[-1]], len(shares))
        found["gflop_a_rank"] = counter.get_total_flops() / 1e9
        traffic, link = _traffic(recipe, rows, size, world)
        found |= {"link_gb_s": link, "modelled": traffic.as_dict(), "alone": _alone(traffic, world)}
        if world.is_main:
            answer.send(found)
        world.barrier()


def _traffic(recipe: Recipe, rows: int, size: int, world: World) -> tuple[Traffic, float]:
    """The cost model's figures of this step, by the bandwidth that the ranks measure between them; and that bandwidth."""
    link = 0.0
    if size > 1:
        box = torch.zeros(LINK_BYTES // 4, device=world.device)
        link = 2 * (size - 1) / size * LINK_BYTES / _timed(lambda: dist.all_reduce(box), world) / GB
    config = recipe.train.model_copy(update={"batch_users": recipe.train.batch_users * size})
    whole = recipe.model_copy(update={"train": config})
    known = config.sharding.topology.model_copy(update={"intra_host_gb_s": link or None})
    kind = "cuda" if world.device.type == "cuda" else "cpu"
    machines = Machines.like(kind, size, size, 64 * GB, 64 * GB, known)  # type: ignore[arg-type]
    plan = make_plan(meta_model(whole, rows, 1), machines, whole, training=True, group=None)
    return estimate_traffic(plan, whole), link


def _alone(traffic: Traffic, world: World) -> dict[str, float]:
    """Milliseconds of the same exchanges with nothing beside them: as many bytes, in two all-to-alls and an all-reduce."""
    if world.size == 1:
        return {"all_to_all_ms": 0.0, "all_reduce_ms": 0.0}
    found = {}
    # What stays on a rank is not counted in the model's bytes but is part of a collective's buffer.
    words = int(traffic.all_to_all_bytes * world.size / (world.size - 1)) // 4 // 2 // world.size * world.size
    sent, got = torch.zeros(max(words, world.size)), torch.zeros(max(words, world.size))
    sent, got = sent.to(world.device), got.to(world.device)
    found["all_to_all_ms"] = 2e3 * _timed(lambda: dist.all_to_all_single(got, sent), world) if words else 0.0
    dense = torch.zeros(
        max(1, traffic.all_reduce_bytes * world.size // (2 * (world.size - 1)) // 4), device=world.device
    )
    found["all_reduce_ms"] = 1e3 * _timed(lambda: dist.all_reduce(dense), world)
    return found


def _timed(work: Callable[[], Any], world: World) -> float:
    """Median seconds over ranks that begin together."""
    seconds = []
    for _ in range(REPEATS):
        world.barrier()
        started = time.perf_counter()
        work()
        synchronize(world.device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
