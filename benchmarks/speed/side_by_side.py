"""`python -m benchmarks.speed decoding` without a dataset: IntRR beside the flattened baseline, with a cache and without (IntRR Table 3).

The baseline reads the same items (the paper's SAC: L times the tokens) or as many tokens (SSL: the newest N / L items).

All in one run and in turns, on one thread, in time of the processor, so that a machine that drifts or is shared is as slow for
each of them; the ratios count. Weights and Semantic IDs are random, which leaves the work as it is. IntRR is timed on a second
catalogue of another size, too.

Shape suffixes: I items, B users, N events of a history, L levels, D width.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.speed.machine import describe, threads
from benchmarks.speed.page import row, write_section
from benchmarks.speed.uncached import uncached_beam_search
from intrr_rec.config import Recipe
from intrr_rec.data.loading.batch import Batch
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.windows import Windows
from intrr_rec.decoding.beam import beam_search
from intrr_rec.decoding.beam_cached import cached_beam_search
from intrr_rec.distributed.malloc import keep_freed_memory
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.models.backbones.backbone import make_backbone
from intrr_rec.models.embeddings.item_embeddings import Rows
from intrr_rec.models.flattened import Flattened
from intrr_rec.models.ran import Ran
from intrr_rec.models.ran_decoder import RanSteps
from intrr_rec.semantic_ids.trie import PrefixTrie

SLOW_EVERY = 3  # rounds between two decodes without a cache, which take as long as many of the others
SECONDS_OF_SLOW = 60.0  # after these, the slow one has been timed often enough
INTRR, LARGE = "IntRR", "IntRR, large catalogue"
SAC, SSL, CACHED, UNCACHED = "flattened SAC", "flattened SSL", "cached", "no cache"
# What is measured where no recipe says otherwise: the paper's history, and codes enough for the large catalogue.
SHAPE = ("model.window=32", "index.codes=256", "evaluate.batch_users=16")
# IntRR Table 3: milliseconds by beam width, N = 32; it names neither batch nor backbone.
PAPER_BEAMS = (10, 15, 20, 25, 30, 50)
PAPER = {
    INTRR: (33.7, 39.1, 45.1, 50.6, 56.6, 79.4),
    SAC: (42.8, 59.1, 80.4, 118.6, 139.9, 232.7),
    SSL: (34.0, 46.5, 59.1, 67.4, 78.3, 123.3),
}


@threads(1)
def compare_decoding(
    recipe: Recipe,
    *,
    items: int,
    large_items: int,
    users: int,
    beams: Sequence[int],
    rounds: int,
    out: Path,
    page: Path | None = None,
) -> dict[str, Any]:
    """Time the decode of a batch by every method and beam width; print the table and write the figures to `out` (JSON).

    Args:
        recipe: window, backbone and RAN; both models take theirs from it.
        items: of the catalogue.
        large_items: of the second one, for IntRR alone; 0 leaves it out.
        users: of the batch, each with a full history.
        beams: widths W.
        rounds: each times every method once, one without a cache every third time and for a minute at most.
        page: Markdown whose section `decoding` is written anew.

    Raises:
        ConfigError: the page has no such section.
    """
    torch.manual_seed(0)
    keep_freed_memory()
    small = _Catalogue(recipe, items)
    methods = {INTRR: small.intrr(users)}
    shorter = max(1, recipe.model.window // len(small.sizes))
    for kind, history in ((SAC, recipe.model.window), (SSL, shorter)):
        for how in (CACHED, UNCACHED):
            methods[f"{kind}, {how}"] = small.flattened(users, history, cached=how == CACHED)
    trie = {str(items): small.trie_figures()}
    if large_items:
        large = _Catalogue(recipe, large_items)
        methods[LARGE], trie[str(large_items)] = large.intrr(users), large.trie_figures()
    milliseconds = _time(methods, beams, rounds)
    figures: dict[str, Any] = {
        "machine": describe(torch.device("cpu")),
        "items": items,
        "large_items": large_items,
        "users": users,
        "history": recipe.model.window,
        "backbone": recipe.model.backbone,
        "rounds": rounds,
        "clock": "processor",
        "milliseconds": milliseconds,
        "ratios": {
            method: {width: value / milliseconds[INTRR][width] for width, value in by_width.items()}
            for method, by_width in milliseconds.items()
        },
        "trie": trie,
    }
    write_json(out, figures)
    _show(figures, beams)
    if page is not None:
        write_section(page, "decoding", section(figures))
    return figures


def section(figures: dict[str, Any]) -> list[str]:
    """The figures as Markdown: milliseconds and, in brackets, times IntRR's; the paper's ratios below."""
    machine, beams = figures["machine"], list(figures["milliseconds"][INTRR])
    sizes = {INTRR: figures["items"], LARGE: figures["large_items"]}
    lines = [
        f"{machine['device']}, {machine['threads']} thread, torch {machine['torch']}, {machine.get('code', '')}: milliseconds of the "
        f"processor a batch of {figures['users']} users with {figures['history']} items of history, {figures['backbone']}; medians of "
        f"{figures['rounds']} rounds, all in turns in one run; in brackets: times IntRR's.",
        "",
        row(["", *(f"W = {beam}" for beam in beams)]),
        row(["---"] * (len(beams) + 1)),
    ]
    for method, by_width in figures["milliseconds"].items():
        ratios = figures["ratios"][method]
        cells = [
            f"{value:,.1f}" + ("" if method == INTRR else f" ({ratios[beam]:.2f})") for beam, value in by_width.items()
        ]
        size = f", {sizes[method]:,} items" if method in sizes else ""
        lines.append(row([f"{method}{size}", *cells]))
    for kind in (SAC, SSL):
        paper = dict(zip(PAPER_BEAMS, (b / a for a, b in zip(PAPER[INTRR], PAPER[kind], strict=True)), strict=True))
        cells = [f"*({paper[int(beam)]:.2f})*" if int(beam) in paper else "" for beam in beams]
        lines.append(row([f"*the paper's {kind}*", *cells]))
    tries = (
        f"{each['bytes_an_item']:.1f} bytes an item at {int(items):,} items ({each['bytes'] / 1e6:,.1f} MB)"
        for items, each in figures["trie"].items()
    )
    return [*lines, "", f"The trie takes {', '.join(tries)}."]


class _Catalogue:
    """Items with random paths and rows, and what decodes them."""

    def __init__(self, recipe: Recipe, items: int) -> None:
        self.recipe, self.items = recipe, items
        self.sizes = [*recipe.index.sizes, recipe.index.dedup_codes]
        codes_IL = random_paths(items, self.sizes)
        self.trie = PrefixTrie.build(codes_IL, self.sizes)
        self.flat_codes_IL = codes_IL if items <= 1_000_000 else None

    def trie_figures(self) -> dict[str, float]:
        return {"bytes": self.trie.memory_bytes, "bytes_an_item": self.trie.memory_bytes / self.items}

    def batch(self, users: int, window: int) -> Batch:
        """Histories of `window` random items, each followed by one to predict."""
        items_E = np.random.default_rng(0).integers(0, self.items, users * (window + 1))
        at = np.arange(users)
        windows = Windows(at, at * (window + 1), np.full(users, window), np.full(users, window - 1))
        return Collator(items_E, window, None, "items")(windows)

    @torch.no_grad()
    def intrr(self, users: int) -> Callable[[int], object]:
        """From item rows (int8, so that the large catalogue fits a small machine) to ranked items."""
        model, settings = self.recipe.model, self.recipe.evaluate
        rows = Rows(
            torch.randint(-127, 128, (self.items, model.width), dtype=torch.int8), torch.full((self.items,), 0.01)
        )
        backbone = make_backbone(model, model.window).eval()
        ran = Ran(len(self.sizes), model.width, model.ran).eval()
        steps = RanSteps(ran, [torch.randn(size, model.width) for size in self.sizes])
        batch = self.batch(users, model.window)

        def decode(beam: int) -> object:
            history_TD = rows.take(batch.items_U[batch.slot_T])
            state_BD = backbone(history_TD, batch.layout, batch.scored_S)
            return beam_search(steps, self.trie, state_BD, beam, settings.normalize)

        return decode

    def flattened(self, users: int, window: int, *, cached: bool) -> Callable[[int], object]:
        """From histories of `window` items to ranked items, L tokens an item."""
        config = self.recipe.model.model_copy(update={"kind": "flattened", "window": window})
        assert self.flat_codes_IL is not None
        model = Flattened(config, self.flat_codes_IL, self.sizes, torch.device("cpu")).eval()
        search, normalize = cached_beam_search if cached else uncached_beam_search, "trie"
        batch = self.batch(users, window)
        return lambda beam: search(model, batch, self.trie, beam, normalize)  # type: ignore[arg-type]


def random_paths(items: int, sizes: Sequence[int]) -> Tensor:
    """Unique paths `[I, L]`: random codes, and a digit that counts the items of equal codes.

    The digits' level must have room for the most items that share their codes.
    """
    codes_IL = torch.stack([torch.randint(size, (items,)) for size in sizes[:-1]], dim=1)
    key_I = torch.zeros(items, dtype=torch.int64)
    for column_I, size in zip(codes_IL.unbind(1), sizes, strict=False):
        key_I = key_I * size + column_I
    sorted_I, order_I = key_I.sort()
    place_I = torch.arange(items)
    is_first_I = torch.ones(items, dtype=torch.bool)
    is_first_I[1:] = sorted_I[1:] != sorted_I[:-1]
    digit_I = torch.empty_like(key_I)
    digit_I[order_I] = place_I - place_I.masked_fill(~is_first_I, 0).cummax(0).values
    return torch.cat([codes_IL, digit_I[:, None]], dim=1)


@torch.no_grad()
def _time(
    methods: dict[str, Callable[[int], object]], beams: Sequence[int], rounds: int
) -> dict[str, dict[str, float]]:
    seconds: dict[str, dict[int, list[float]]] = {name: {beam: [] for beam in beams} for name in methods}
    for name, method in methods.items():
        if UNCACHED not in name:
            method(beams[0])
    slow = dict.fromkeys(methods, 0.0)
    for turn in range(rounds):
        for beam in beams:
            for name, method in methods.items():
                if UNCACHED in name and turn and (turn % SLOW_EVERY or slow[name] > SECONDS_OF_SLOW):
                    continue
                started = time.process_time()
                method(beam)
                seconds[name][beam].append(time.process_time() - started)
                slow[name] += seconds[name][beam][-1]
    return {
        name: {str(beam): 1e3 * statistics.median(taken) for beam, taken in by_beam.items()}
        for name, by_beam in seconds.items()
    }


def _show(figures: dict[str, Any], beams: Sequence[int]) -> None:
    title = f"processor ms a batch of {figures['users']} histories of {figures['history']} items; in brackets: times IntRR's"
    table = Table("", *(f"W = {beam}" for beam in beams), title=title)
    for method, by_width in figures["milliseconds"].items():
        ratios = figures["ratios"][method]
        table.add_row(method, *(f"{by_width[str(b)]:,.1f} ({ratios[str(b)]:.2f})" for b in beams))
    Console().print(table)
    for items, trie in figures["trie"].items():
        Console().print(
            f"trie of {int(items):,} items: {trie['bytes'] / 1e6:.1f} MB, {trie['bytes_an_item']:.1f} bytes an item"
        )
