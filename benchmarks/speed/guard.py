"""`python -m benchmarks.speed guard`: has a training step or a decode become slower, told on a machine that others use too.

Each case is set against a reference kernel (an MLP's forward and backward pass by plain torch) that runs right before and
right after it, on one thread, in seconds of the processor; the figure is the median of their ratios, and a case that seems
slow is measured again before it is called so. Ratios are kept by kind of processor. They differ little between kinds, so one
that has no record is held to the largest ratio of all kinds, by a wider tolerance.
"""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.speed.machine import describe, threads
from intrr_rec.config import Recipe, load_recipe
from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.windows import Windows
from intrr_rec.decoding.decode import decode
from intrr_rec.distributed.parallelize import META, parallelize
from intrr_rec.distributed.world import World, join_world
from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.models.base import ItemRecommender
from intrr_rec.models.registry import make_model
from intrr_rec.semantic_ids.trie import PrefixTrie

ITEMS, USERS = 3_000, 64
WARM_UP, ROUNDS, ATTEMPTS = 2, 9, 3
TOLERANCE, TOLERANCE_ELSEWHERE = 1.25, 1.75
CASES = {
    "training step, hstu": (),
    "training step, t5": ("model.backbone=t5", "model.t5.layers=2"),
    "training step, flattened hstu": ("model.kind=flattened", "model.hstu.layers=2"),
    "decode, hstu": (),
}
log = logging.getLogger(__name__)


@threads(1)
def bench_guard(baseline: Path, *, record: bool, rounds: int = ROUNDS) -> bool:
    """Measure all cases; compare with `baseline` (JSON), or add this kind of processor to it. True where nothing is slower
    than it may be.

    Raises:
        ArtefactError: no baseline, or one of other cases.
    """
    with join_world() as world:
        works = {name: _work(name, world) for name in CASES}
        found = measure(works, rounds)
        if record:
            kinds = read_baseline(baseline) if baseline.is_file() else {}
            kinds[_processor()] = {"machine": describe(world.device), "ratios": found}
            write_json(baseline, {"kinds": kinds})
            return True
        kept = bound(read_baseline(baseline), _processor())
        for _ in range(ATTEMPTS - 1):
            slow = slower(found, kept)
            if not slow:
                break
            again = measure({name: works[name] for name in slow}, rounds)
            found |= {name: min(found[name], ratio) for name, ratio in again.items()}
    _print(found, kept)
    return not slower(found, kept)


def measure(works: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median ratio of each work's time to the reference kernel's around it."""
    reference = _reference()
    ratios: dict[str, list[float]] = {name: [] for name in works}
    for step in range(WARM_UP + rounds):
        before = _seconds(reference)
        for name, work in works.items():
            spent, after = _seconds(work), _seconds(reference)
            if step >= WARM_UP:
                ratios[name].append(2 * spent / (before + after))
            before = after
    return {name: statistics.median(values) for name, values in ratios.items()}


def slower(found: dict[str, float], kept: dict[str, Any]) -> list[str]:
    """The cases that take more than the tolerance times what is kept."""
    return [name for name, ratio in found.items() if ratio > kept["tolerance"] * kept["ratios"][name]]


def bound(kinds: dict[str, Any], processor: str) -> dict[str, Any]:
    """What a processor is held to: its own record, or the largest ratio of all kinds."""
    if processor in kinds:
        return {"tolerance": TOLERANCE, "ratios": kinds[processor]["ratios"]}
    log.warning(
        "no record of %s: held to the slowest of %s, tolerance %.2f; --record adds one",
        processor, "; ".join(kinds), TOLERANCE_ELSEWHERE,
    )  # fmt: skip
    largest = {name: max(kind["ratios"][name] for kind in kinds.values()) for name in CASES}
    return {"tolerance": TOLERANCE_ELSEWHERE, "ratios": largest}


def read_baseline(path: Path) -> dict[str, Any]:
    """The kept figures, by kind of processor.

    Raises:
        ArtefactError: there are none, or of other cases.
    """
    if not path.is_file():
        raise ArtefactError(f"{path}: is not there; `python -m benchmarks.speed guard --record` writes it")
    kinds = json.loads(path.read_text()).get("kinds")
    if not kinds or any(set(kind["ratios"]) != set(CASES) for kind in kinds.values()):
        raise ArtefactError(
            f"{path}: is of other cases; `python -m benchmarks.speed guard --record` writes it anew, once removed"
        )
    return kinds


def _seconds(work: Callable[[], Any]) -> float:
    """Of the processor: what others take of it does not count."""
    started = time.process_time()
    work()
    return time.process_time() - started


def _reference() -> Callable[[], Any]:
    """Matrix products and elementwise passes of a step's sizes, forward and backward, by plain torch."""
    torch.manual_seed(0)
    kernel = nn.Sequential(nn.Linear(128, 512), nn.SiLU(), nn.LayerNorm(512), nn.Linear(512, 128))
    x_TD = torch.randn(1024, 128)

    def work() -> None:
        kernel.zero_grad()
        kernel(x_TD).square().sum().backward()

    return work


def _work(name: str, world: World) -> Callable[[], Any]:
    recipe = load_recipe(None, [*CASES[name], f"train.batch_users={USERS}", "evaluate.beam=20"])
    codes = [*recipe.index.sizes, recipe.index.dedup_codes]
    codes_IL = _paths(codes)
    torch.manual_seed(0)
    parallel = parallelize(make_model(recipe.model, codes_IL, codes, None, META), world, recipe)
    model, trains = parallel.model, name.startswith("training")
    batch = _batch(recipe, trains, recipe.model.kind == "flattened").to(world.device)
    if not trains:
        assert isinstance(model, ItemRecommender)
        model.eval()
        trie = PrefixTrie.build(codes_IL, codes).to(world.device)
        with torch.no_grad():
            catalogue_ID = model.represent(torch.arange(ITEMS, device=world.device), None)
        return torch.no_grad()(lambda: decode(model, batch, catalogue_ID, trie, recipe.evaluate))

    def step() -> None:
        loss = parallel.module(batch)["loss"]
        parallel.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parallel.optimizer.step()

    parallel.module.train()
    return step


def _paths(codes: list[int]) -> Tensor:
    """A Semantic ID for each item, all different."""
    rest, digits = np.random.default_rng(0).permutation(int(np.prod(codes[:-1])))[:ITEMS], []
    for k in codes[:-1]:
        digits.append(rest % k)
        rest = rest // k
    return torch.from_numpy(np.stack([*digits, np.zeros_like(rest)], axis=1))


def _batch(recipe: Recipe, trains: bool, with_targets: bool) -> Batch:
    """Histories of 2 to N items at random, the shorter the more."""
    rng = np.random.default_rng(1)
    length = np.clip(rng.geometric(0.12, USERS) + 1, 2, recipe.model.window)
    start = np.cumsum(length + 1) - (length + 1)
    items_E = rng.integers(ITEMS, size=int(start[-1] + length[-1] + 1))
    collate = Collator(items_E, recipe.model.window, None, recipe.model.align_average, with_targets=with_targets)
    first = np.zeros_like(length) if trains else length - 1
    return collate(Windows(np.arange(USERS), start, length, first))


def _processor() -> str:
    """What decides how matrix products and elementwise passes compare."""
    return f"{describe(torch.device('cpu'))['device']}, {torch.backends.cpu.get_cpu_capability()}"


def _print(found: dict[str, float], kept: dict[str, Any]) -> None:
    table = Table("case", "× the reference", "kept", "of it", title=f"tolerance {kept['tolerance']:.2f}")
    slow = slower(found, kept)
    for name, ratio in found.items():
        mark = "SLOWER" if name in slow else ""
        table.add_row(name, f"{ratio:.2f}", f"{kept['ratios'][name]:.2f}", f"{ratio / kept['ratios'][name]:.2f} {mark}")
    Console().print(table)
