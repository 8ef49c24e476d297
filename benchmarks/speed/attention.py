"""`python -m benchmarks.speed attention`: HSTU's attention as the window grows, over whole blocks and by tiles, in turns.

Shape suffixes: C blocks, N slots of a block, T = C·N slots, E = 4·D.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.speed.machine import describe
from intrr_rec.data.loading.batch import Layout
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.models.backbones import hstu_attention
from intrr_rec.models.backbones.hstu_attention import Pairs, silu_attention

WIDTH, HEADS, TOKENS = 128, 4, 8_192
LARGEST_WHOLE = 2_048  # whole blocks hold all scores: 0.5 GB a tensor there, 17 GB at 8,192


def bench_attention(windows: Sequence[int], repeats: int, out: Path) -> None:
    """Forward and backward pass of one layer over 8,192 tokens of lognormal histories; the least of `repeats`."""
    rows = [measure(window, repeats) for window in windows]
    write_json(out, {"machine": describe(torch.device("cpu")), "windows": rows})
    table = Table("window", "whole blocks, ms", "tiles, ms", "pairs computed / needed, whole", "tiles")
    for row in rows:
        whole = f"{row['whole_ms']:.0f}" if row["whole_ms"] else "–"
        table.add_row(
            str(row["window"]), whole, f"{row['tiles_ms']:.0f}", f"{row['whole_pairs']:.2f}", f"{row['tile_pairs']:.2f}"
        )
    Console().print(table)


def measure(window: int, repeats: int) -> dict[str, Any]:
    """Processor milliseconds and shares of needless pairs of one window."""
    layout, needed = histories(window)
    blocks = layout.owner_CN.shape[0]
    tiles = hstu_attention.make_tiles(layout, None)
    times: dict[str, list[float]] = {"whole": [], "tiles": []}
    for _ in range(repeats):
        for way, found in times.items():
            if way == "tiles" or window <= LARGEST_WHOLE:
                found.append(_milliseconds(layout, window, whole=way == "whole"))
    return {
        "window": window,
        "whole_ms": min(times["whole"], default=None),
        "tiles_ms": min(times["tiles"]),
        "whole_pairs": blocks * window**2 / needed,
        "tile_pairs": sum(tile.visible_QK.numel() for tile in tiles) / needed,
    }


def histories(window: int) -> tuple[Layout, int]:
    """Full blocks of histories of 120 events on average, at most `window`; and how many pairs there are."""
    generator = torch.Generator().manual_seed(0)
    owner_CN, owner, needed = torch.full((max(1, TOKENS // window), window), -1), 0, 0
    for owner_N in owner_CN:
        at = 0
        while at < window:
            length = int(torch.exp(torch.randn((), generator=generator) * 1.2 + 4.06).clamp(2, window - at or 2))
            owner_N[at : at + length] = owner
            at, owner, needed = at + length, owner + 1, needed + length * (length + 1) // 2
    return Layout(owner_CN), needed


def _milliseconds(layout: Layout, window: int, *, whole: bool) -> float:
    projected_TE, position_bias_N = _leaves(layout, window)
    limit = hstu_attention.WHOLE_BLOCKS
    hstu_attention.WHOLE_BLOCKS = window if whole else 0
    try:
        started = time.process_time()
        pairs = Pairs.of(layout, window, None, torch.float32)
        u_TD, attended_TD, _, _ = silu_attention(projected_TE, pairs, HEADS, position_bias_N, None)
        (u_TD * attended_TD).sum().backward()
        return 1e3 * (time.process_time() - started)
    finally:
        hstu_attention.WHOLE_BLOCKS = limit


def _leaves(layout: Layout, window: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    projected_TE = torch.randn(layout.owner_CN.numel(), 4 * WIDTH, requires_grad=True)
    return projected_TE, torch.zeros(window, requires_grad=True)
