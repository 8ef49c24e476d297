"""What a training step would take: the longer of the host's work and the device's, and the exchanges that neither hides.

Matrix products are counted, on tensors without memory, by a forward pass of the recipe's own model over full histories of distinct
items; the backward pass is taken for twice as many. The host's part is that of `python -m benchmarks.speed ranks`.

Shape suffixes: E events.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from intrr_rec.config import Recipe
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.negatives import CandidateSampler
from intrr_rec.data.loading.windows import Windows
from intrr_rec.distributed.planner.hardware import Machines
from intrr_rec.distributed.planner.traffic import Traffic
from intrr_rec.models.base import Recommender
from intrr_rec.models.registry import model_class

# Milliseconds of one thread of a rank's host, an event and a window (benchmarks/results/scaling.md, "Host work of one rank").
EVENT_MS, WINDOW_MS = 8e-5, 1.2e-3
FEW = 8  # users whose products are counted; twice as many tell what hangs on their number
BACKWARD = 2  # products of the backward pass to one of the forward pass
HIDING = BACKWARD / (1 + BACKWARD)  # share of the device's time beside which gradients are averaged


@dataclass(frozen=True)
class StepTime:
    """Parts of a rank's step, in milliseconds.

    Attributes:
        gflop: 10⁹ operations of matrix products.
        host: building a batch, one thread a worker; it runs beside the device.
        slowest: tokens of the rank with most, to the mean: all ranks wait for it.
        all_to_all: nothing hides it.
        exposed_all_reduce: what the backward pass does not hide.
    """

    gflop: float
    host: float
    compute: float
    adam: float
    slowest: float
    all_to_all: float
    exposed_all_reduce: float

    @property
    def device(self) -> float:
        """On the rank with most to do."""
        return self.compute * self.slowest + self.adam

    @property
    def total(self) -> float:
        """max(host, device) and the exposed exchanges."""
        return max(self.host, self.device) + self.all_to_all + self.exposed_all_reduce

    @property
    def bottleneck(self) -> str:
        """The longest part."""
        parts = {"the host": self.host, "the device": self.device, "the all-to-all": self.all_to_all}
        return max(parts, key=lambda part: parts[part])

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self) | {"device": self.device, "total": self.total, "bottleneck": self.bottleneck}

    def rows(self) -> list[tuple[str, float]]:
        """Parts by name, the whole last."""
        return [
            ("host, beside the device", self.host),
            ("matrix products", self.compute),
            ("waiting for the fullest rank", self.compute * (self.slowest - 1)),
            ("Adam", self.adam),
            ("all-to-all, exposed", self.all_to_all),
            ("all-reduce, exposed", self.exposed_all_reduce),
            ("max(host, device) + exposed", self.total),
        ]

    def table(self) -> Table:
        """For people."""
        title = f"a step of full histories, {self.gflop:,.0f} GFLOP a rank; docs/sharding.md tells the model"
        table = Table("", "ms", title=title)
        for name, value in self.rows():
            if name.startswith("max"):
                table.add_section()
            table.add_row(name, f"{value:,.2f}")
        return table


def estimate_step(
    model: Recommender,
    recipe: Recipe,
    machines: Machines,
    traffic: Traffic,
    *,
    host_ms: float | None = None,
    slowest: float = 1.0,
) -> StepTime:
    """The step of a recipe on machines.

    Args:
        model: on the meta device.
        host_ms: of a rank; left out, the figures of the page on scaling.
        slowest: see `StepTime`.
    """
    users = recipe.step_events / recipe.model.window / machines.ranks  # with full histories
    flop = count_products(model, recipe, users) * (1 + BACKWARD)
    compute = 1e3 * flop / (machines.tflops * 1e12)
    if host_ms is None:
        host_ms = users * (recipe.model.window * EVENT_MS + WINDOW_MS)
    reduce_ms = 1e3 * traffic.all_reduce_seconds
    return StepTime(
        gflop=flop / 1e9,
        host=host_ms / recipe.train.loader.workers,
        compute=compute,
        adam=1e3 * traffic.adam_seconds,
        slowest=slowest,
        all_to_all=1e3 * traffic.all_to_all_seconds,
        exposed_all_reduce=max(0.0, reduce_ms - HIDING * compute),
    )


def count_products(model: Recommender, recipe: Recipe, users: float) -> float:
    """Operations of the matrix products of a forward pass over full histories of so many users."""
    few, twice = (_count(model, recipe, count) for count in (FEW, 2 * FEW))
    return few + (twice - few) / FEW * (users - FEW)


def _count(model: Recommender, recipe: Recipe, users: int) -> int:
    config, kind = recipe.model, model_class(recipe.model)
    length = config.window + 1
    items_E = np.arange(users * length)
    windows = kind.windows(np.arange(users + 1) * length, window=config.window, held_out=0)
    last = np.unique(windows.user_M, return_index=True)[1]
    if len(windows) > users:  # of a window a position, those that read a whole history
        last = np.flatnonzero(windows.length_M == config.window)[:users]
    windows = Windows(*(getattr(windows, name)[last] for name in ("user_M", "start_M", "length_M", "first_scored_M")))
    candidates = None
    if config.dense.weight or config.kind_settings.draws_negatives:
        candidates = CandidateSampler(len(items_E), config.dense.negatives, 0)
    content_width = getattr(getattr(model, "content_map", None), "in_features", 0)
    levels = len(recipe.index.sizes) + 1
    collate = Collator(
        items_E,
        config.window,
        np.zeros((len(items_E), content_width), np.float16) if content_width else None,
        config.align_average,
        items_E if config.reads_times else None,
        candidates,
        with_targets=kind.with_targets,
        codes_IL=torch.zeros(len(items_E), levels, dtype=torch.uint8),
    )
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(collate(windows).to(torch.device("meta")))
    return counter.get_total_flops()
