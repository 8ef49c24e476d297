"""`python -m benchmarks.speed.windows`: a whole training step as the window grows, over the same tokens: time, pairs, memory.

Histories have lognormal lengths (median 58, mean about 120), cut at the window; the windows take turns, and what is reported is
processor time, or on a GPU time on the wall. Memory is that of a process for each window, over what it held before its first step:
of one history of full length, and full ones beside it up to the same tokens.

Shape suffix: M windows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.speed.machine import describe, memory_gb, peak_memory_gb, quiet, synchronize
from benchmarks.speed.page import row, write_section
from intrr_rec.config import Recipe, load_recipe
from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.negatives import CandidateSampler
from intrr_rec.data.loading.windows import IntArray, Windows
from intrr_rec.distributed.parallelize import META, parallelize
from intrr_rec.distributed.world import World, join_world
from intrr_rec.models.backbones.hstu_attention import WHOLE_BLOCKS
from intrr_rec.models.backbones.hstu_attention_tiles import make_tiles
from intrr_rec.models.registry import make_model
from intrr_rec.training.step import TrainingStep

SECTION = "long windows"
ITEMS = 20_000
BATCHES = 2
CLOCK = 1_600_000_000  # seconds since 1970 of the first event


def lengths(tokens: int, window: int, *, full: bool, rng: np.random.Generator) -> IntArray:
    """Of as many histories as have so many events together: full ones, or the start of one lognormal sequence."""
    if full:
        return np.full(max(1, tokens // window), window)
    drawn_M = np.exp(rng.normal(4.06, 1.2, tokens)).astype(np.int64).clip(2, window)
    return drawn_M[: int(np.searchsorted(np.cumsum(drawn_M), tokens)) + 1]


def make_batch(recipe: Recipe, length_M: IntArray, rng: np.random.Generator) -> Batch:
    """A step of these histories of random items, every position scored."""
    start_M = np.cumsum(length_M + 1) - (length_M + 1)
    events = int(start_M[-1] + length_M[-1] + 1)
    model = recipe.model
    times_E = CLOCK + rng.integers(1, 10_000, events).cumsum() if model.reads_times else None
    sampler = CandidateSampler(ITEMS, model.dense.negatives, 0) if model.dense.weight else None
    collate = Collator(rng.integers(ITEMS, size=events), model.window, None, model.align_average, times_E, sampler)
    return collate(Windows(np.arange(len(length_M)), start_M, length_M, np.zeros_like(length_M)))


def pairs(batch: Batch, length_M: IntArray) -> float:
    """Pairs of slots that attention computes on a CPU, for each pair that there is."""
    blocks, slots = batch.layout.owner_CN.shape
    computed = blocks * slots**2
    if slots > WHOLE_BLOCKS:
        computed = sum(tile.visible_QK.numel() for tile in make_tiles(batch.layout, None))
    return computed / float((length_M * (length_M + 1) // 2).sum())


def make_step(recipe: Recipe, world: World) -> TrainingStep:
    """Of a fresh model."""
    sizes = [*recipe.index.sizes, recipe.index.dedup_codes]
    rng = np.random.default_rng(0)
    codes_IL = torch.from_numpy(np.stack([rng.integers(size, size=ITEMS) for size in sizes], axis=1))
    torch.manual_seed(0)
    parallel = parallelize(make_model(recipe.model, codes_IL, sizes, None, META), world, recipe)
    parallel.module.train()
    return TrainingStep(parallel, recipe.train, world)


def of_window(words: Sequence[str], window: int) -> Recipe:
    """The recipe at this window."""
    return load_recipe(None, [*words, f"model.window={window}"])


def time_windows(words: Sequence[str], windows: Sequence[int], tokens: int, rounds: int) -> dict[int, dict[str, float]]:
    """Tokens a second of the processor and pairs computed for each that is needed, by window."""
    works, found = {}, {}
    with join_world() as world:
        for window in windows:
            recipe = of_window(words, window)
            length_M = lengths(tokens, window, full=False, rng=np.random.default_rng(1))
            batch = make_batch(recipe, length_M, np.random.default_rng(2))
            works[window] = make_step(recipe, world), batch.to(world.device), int(length_M.sum())
            found[window] = {"histories": len(length_M), "pairs": pairs(batch, length_M)}
            works[window][0]([batch], 0)
        spent: dict[int, list[float]] = {window: [] for window in windows}
        for number in range(1, rounds + 1):
            for window in windows if number % 2 else reversed(windows):
                step, batch, _ = works[window]
                started = _clock(world.device)
                step([batch], number)
                spent[window].append(_clock(world.device) - started)
    for window in windows:
        found[window]["tokens_per_second"] = works[window][2] / statistics.median(spent[window])
    return found


def _clock(device: torch.device) -> float:
    """Seconds: of the processor, or until a GPU has done what it was given."""
    synchronize(device)
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def _peak(words: Sequence[str], window: int, tokens: int, answer: Any) -> None:
    quiet(1)
    recipe = of_window(words, window)
    batch = make_batch(
        recipe, lengths(tokens, window, full=True, rng=np.random.default_rng(1)), np.random.default_rng(2)
    )
    with join_world() as world:
        step, batch = make_step(recipe, world), batch.to(world.device)
        base = memory_gb(world.device)
        for number in range(2):
            step([batch], number)
        answer.send(peak_memory_gb(world.device) - base)


def peak_over_base(words: Sequence[str], window: int, tokens: int) -> float:
    """GiB that two steps of full histories take above what the process held."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    child = spawn.Process(target=_peak, args=(words, window, tokens, there))
    child.start()
    there.close()
    try:
        return float(here.recv())
    finally:
        child.join()


def main() -> None:
    """Measure, print, and write the section of a page."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("words", nargs="*", help="settings, such as model.hstu.time_bias=true")
    asked.add_argument("--windows", type=int, nargs="+", default=[64, 256, 1024, 2048, 4096, 8192])
    asked.add_argument("--tokens", type=int, default=8192)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("--page", type=Path)
    asked.add_argument("--section", default=SECTION, help="of the page")
    options = asked.parse_args()
    quiet(1)
    timed = time_windows(options.words, options.windows, options.tokens, options.rounds)
    lines = [row(["window", "histories", "tokens/s", "of 256's", "pairs computed / needed", "peak over base, GiB"])]
    lines.append("|---:|---:|---:|---:|---:|---:|")
    reference = timed.get(256, timed[options.windows[0]])["tokens_per_second"]
    for window, each in timed.items():
        speed, memory = each["tokens_per_second"], peak_over_base(options.words, window, options.tokens)
        cells = [f"{window:,}", f"{each['histories']}", f"{speed:,.0f}", f"{speed / reference:.0%}"]
        lines.append(row([*cells, f"{each['pairs']:.2f}", f"{memory:.2f}"]))
        print(lines[-1], flush=True)
    if options.page:
        machine = describe(torch.device("cpu"))
        windows = " ".join(map(str, options.windows))
        words = " ".join([f"--windows {windows} --tokens {options.tokens} --rounds {options.rounds}", *options.words])
        told = f"Written by this command: {date.today():%Y-%m-%d}, {machine['device']}, torch {machine['torch']}, code {machine['code']}."
        section = "" if options.section == SECTION else f' --section "{options.section}"'
        command = f"python -m benchmarks.speed.windows {words} --page {options.page}{section}"
        write_section(
            options.page,
            options.section,
            [told, "", "```", command, "```", "", WORDS.format(options.tokens), "", *lines],
        )


WORDS = (
    "A training step of IntRR over {:,} tokens on one thread: tokens a second of the processor, the median of rounds in which the windows take "
    "turns, over histories of lognormal length (median 58, mean about 120) cut at the window. *Peak* is that of a process of its own, of two "
    "steps of full histories, above what it held before the first."
)

if __name__ == "__main__":
    main()
