"""`python -m benchmarks.speed cluster`: the plan of a catalogue and a cluster that nobody has here, with a step priced in all its parts.

The tables are planned by TorchRec's planner, matrix products counted on the recipe's model, exchanges reckoned from bytes and
data-sheet bandwidths; the host's part of one rank is measured on this machine (`host_work.py`).
"""

from __future__ import annotations

import logging
import shlex
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.speed.host_work import measure, write_histories
from benchmarks.speed.machine import describe
from benchmarks.speed.page import row, write_section
from intrr_rec.config import Recipe
from intrr_rec.distributed.planner.dry_run import HOST_MEMORY_GB, MEMORY_GB, meta_model
from intrr_rec.distributed.planner.hardware import GB, Machines
from intrr_rec.distributed.planner.host import HostPlan, plan_host
from intrr_rec.distributed.planner.plan import Plan, make_plan
from intrr_rec.distributed.planner.step_time import StepTime, estimate_step
from intrr_rec.distributed.planner.traffic import estimate_traffic
from intrr_rec.io.disk.atomic import write_json

LOCAL_RANKS = 8
SECTION = "plan of a cluster"


def bench_cluster(
    recipe: Recipe, *, items: int, ranks: int, users: int, steps: int, content_width: int, out: Path, page: Path | None
) -> dict[str, Any]:
    """Plan, measure the host's part, print, write all figures to `out` (JSON) and a section of `page`.

    Args:
        recipe: its Semantic IDs must tell the items apart.
        users: of a rank and step.
        steps: of the host's part, whose median is taken.

    Raises:
        ConfigError: more items than Semantic IDs, or a plan that does not fit.
    """
    recipe.index.require_capacity(items)
    train = recipe.train.model_copy(update={"batch_users": users * ranks})
    recipe = recipe.model_copy(update={"train": train})
    memory, host_memory = int(MEMORY_GB["cuda"] * GB), int(HOST_MEMORY_GB * GB)
    machines = Machines.like("cuda", ranks, min(ranks, LOCAL_RANKS), memory, host_memory, train.sharding.topology)
    logging.getLogger("torchrec").setLevel(logging.ERROR)
    model = meta_model(recipe, items, content_width)
    plan = make_plan(model, machines, recipe, training=True, group=None)
    window = recipe.model.window
    with tempfile.TemporaryDirectory() as folder:
        store = write_histories(Path(folder), ranks * users * steps, window, groups=ranks)
        work = measure(store, window, 0, ranks, users, steps)
        alone = measure(store, window, 0, 1, users, steps)
    slowest = work["slowest_to_mean"]["tokens"]
    traffic = estimate_traffic(plan, recipe)
    step = estimate_step(model, recipe, machines, traffic, host_ms=work["total_ms"], slowest=slowest)
    host = plan_host(recipe, plan, items=items, content_width=content_width)
    machine = describe(torch.device("cpu")) | {"date": f"{date.today():%Y-%m-%d}"}
    command = shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])
    found = {"machine": machine, "command": command, "recipe": recipe.model_dump(mode="json"), "host_work": work}
    figures = found | {"host_work_alone": alone, "plan": plan.as_dict(), "traffic": traffic.as_dict()}
    figures |= {"step": step.as_dict(), "host": host.as_dict()}
    write_json(out, figures)
    screen = Console(width=140)
    for shown in (str(plan), step.table(), host.table()):
        screen.print(shown, highlight=False)
    if page is not None:
        told = f"Written by this command: {machine['date']}, {machine['device']}, torch {machine['torch']}, code {machine['code']}."
        words = _words(recipe, items, machines, step, host)
        write_section(page, SECTION, [told, "", "```", command, "```", "", words, "", *_tables(plan, step, host)])
    return figures


def _words(recipe: Recipe, items: int, machines: Machines, step: StepTime, host: HostPlan) -> str:
    sizes = recipe.index.sizes
    return (
        f"{items:,} items on {machines.ranks} H100s, {machines.local_ranks} a host: planned by TorchRec's planner under our constraints, "
        f"never run. {len(sizes)} levels of {sizes[0]} codes and {recipe.index.dedup_codes} digits tell {recipe.index.capacity:.1e} items "
        f"apart; {host.items_per_sid:.3g} items to a tuple of residual codes. "
        f"{recipe.train.batch_users // machines.ranks} users a rank and step with full histories of {recipe.model.window}, {step.gflop:,.0f} "
        f"GFLOP of matrix products, taken for {machines.tflops:g} TFLOP/s. The host's work is measured, on one thread of the machine named "
        f"above: it runs beside the device. A step is max(host, device) + exposed exchanges; the bottleneck is {step.bottleneck}. Not "
        "counted: look-ups in the device's memory, launches of kernels, activations."
    )


def _tables(plan: Plan, step: StepTime, host: HostPlan) -> list[str]:
    held = {f"{t.name} ({t.rows:,} × {t.width}, {t.sharding})": t.memory.device for t in plan.tables}
    held |= {name: size.device for name, size in plan.others.items()}
    lines = ["| a rank holds on its device | GB |", "|---|---:|"]
    lines += [row([name, f"{size / GB:,.2f}"]) for name, size in held.items()]
    lines += [row(["together", f"{plan.total.device / GB:,.2f} of {plan.machines.memory / GB:,.0f}"]), ""]
    lines += ["| a host holds for its ranks | GB |", "|---|---:|"]
    held_by_host = {
        "what its ranks hold": host.ranks,
        "their copies of a save": host.saved,
        **{f"{name}, mapped": size for name, size in host.mapped.items()},
    }
    lines += [row([name, f"{size / GB:,.2f}"]) for name, size in held_by_host.items()]
    lines += [row(["together", f"{host.together / GB:,.2f} of {host.memory / GB:,.0f}"]), ""]
    lines += ["| part of a step | ms |", "|---|---:|"]
    return lines + [row([name, f"{value:,.2f}"]) for name, value in step.rows()]
