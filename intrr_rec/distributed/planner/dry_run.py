"""`intrr plan`: the sharding plan and its cost for a catalogue and a cluster one does not have; nothing is allocated."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import torch

from intrr_rec.config import Recipe
from intrr_rec.distributed.parallelize import META
from intrr_rec.distributed.planner.hardware import GB, Machines
from intrr_rec.distributed.planner.host import plan_host
from intrr_rec.distributed.planner.plan import Plan, make_plan
from intrr_rec.distributed.planner.step_time import estimate_step
from intrr_rec.distributed.planner.traffic import estimate_traffic
from intrr_rec.io.console import console
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.models.base import Recommender
from intrr_rec.models.registry import make_model

# What a rank has where neither the command line nor the settings tell.
MEMORY_GB = {"cpu": 64.0, "cuda": 80.0}
HOST_MEMORY_GB = 200.0


def plan_ahead(
    recipe: Recipe,
    *,
    items: int,
    ranks: int,
    local_ranks: int,
    device: Literal["cpu", "cuda"],
    memory_gb: float | None,
    content_width: int,
    out: Path | None,
) -> Plan:
    """Plan, print the plan, what a step takes and what a host holds; write all of it to `out` (JSON).

    Args:
        items: of the catalogue.
        local_ranks: of one host.
        memory_gb: of a rank; None: the settings', or the usual of the device.
        content_width: V of the item vectors, for `model.content`.

    Raises:
        ConfigError: as `intrr train` on such machines, or more items than there are Semantic IDs.
    """
    recipe.index.require_capacity(items)
    topology = recipe.train.sharding.topology
    if memory_gb:
        topology = topology.model_copy(update={"memory_gb": memory_gb})
    memory, host_memory = int(MEMORY_GB[device] * GB), int(HOST_MEMORY_GB * GB)
    machines = Machines.like(device, ranks, min(ranks, local_ranks), memory, host_memory, topology)
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    model = meta_model(recipe, items, content_width)
    plan = make_plan(model, machines, recipe, training=True, group=None)
    traffic = estimate_traffic(plan, recipe)
    step = estimate_step(model, recipe, machines, traffic)
    screen = console(width=140)
    screen.print(str(plan), highlight=False)
    screen.print(traffic.table())
    screen.print(step.table())
    host = plan_host(recipe, plan, items=items, content_width=content_width)
    screen.print(host.table())
    for line in host.advice:
        screen.print(line, highlight=False)
    if out:
        found = {"plan": plan.as_dict(), "traffic": traffic.as_dict(), "step": step.as_dict(), "host": host.as_dict()}
        write_json(out, found)
    return plan


def meta_model(recipe: Recipe, items: int, content_width: int) -> Recommender:
    """The model of a recipe for a catalogue of that size, all of it on the meta device."""
    codes = [*recipe.index.sizes, recipe.index.dedup_codes]
    with META:
        codes_IL = torch.empty(items, len(codes), dtype=torch.int32)
        keys_I = torch.empty(items, dtype=torch.int64) if recipe.model.zch.rows else None
        return make_model(recipe.model, codes_IL, codes, content_width if recipe.model.content else None, META, keys_I)
