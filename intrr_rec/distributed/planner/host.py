"""What a catalogue takes of each host and of the disk: files that all ranks of a host map, and what each rank holds and reads ahead.

Mapped files lie in the page cache once a host. They are no rank's own memory, and the system may drop pages of them; with less
memory than they take, look-ups read from disk.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from intrr_rec.config import Recipe
from intrr_rec.config.indexing import ROOM
from intrr_rec.distributed.planner.hardware import GB
from intrr_rec.distributed.planner.memory import FLOAT, PROCESS, TRIE
from intrr_rec.distributed.planner.plan import Plan

POOLS = 3  # of streamed events, at most (docs/loading.md)
EVENT = 8  # bytes of a column
FILTERS = 4  # bytes an item of the trie's file that only filters read
OWN_ID = 16  # bytes an item, a guess: an id of 12 characters with its offset
CONTENT = 2  # bytes a value: vectors are written as float16 by `intrr embed`
# Products of an item's vector and a code that `intrr index` does a processor-second: 10⁷ vectors of 64, four levels of 256 codes, took
# 83 on two ranks (`python -m benchmarks.speed catalogue`).
INDEX_RATE = 7.9e9


@dataclass(frozen=True)
class HostPlan:
    """Bytes by name, and hours.

    Attributes:
        mapped: of files that the ranks of a host share in its page cache.
        ranks: what the ranks of a host hold in its memory, together.
        saved: their copies of what a save writes, kept from the first one on (docs/checkpoints.md).
        memory: of a host.
        disk: of artefacts.
        index_hours: of one processor that builds the Semantic IDs.
        items_per_sid: items to a tuple of residual codes, if they were spread evenly.
        proposal: settings that leave each item more of them, in words; None where there are enough.
    """

    mapped: dict[str, int]
    ranks: int
    saved: int
    memory: int
    disk: dict[str, int]
    index_hours: float
    items_per_sid: float
    proposal: str | None

    @property
    def together(self) -> int:
        """Of a host's memory."""
        return self.ranks + self.saved + sum(self.mapped.values())

    @property
    def advice(self) -> list[str]:
        """What is short on such a host, a line each."""
        lines = []
        if self.together > self.memory:
            lines.append(
                f"A host's ranks and what they map take {self.together / GB:,.1f} GB of its "
                f"{self.memory / GB:,.1f}: look-ups will read from disk."
            )
        if self.proposal:
            lines.append(
                f"{self.items_per_sid:.3g} items share a tuple of residual codes where {1 / ROOM} leave room for vectors that do "
                f"not spread evenly: set {self.proposal}."
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """For plan.json."""
        return asdict(self)

    def table(self) -> Table:
        """For a terminal."""
        table = Table("", "GB", title="a host maps, and artefacts take on disk, once for all ranks")
        for name, size in self.mapped.items():
            table.add_row(f"{name}, mapped", f"{size / GB:,.2f}")
        table.add_row("what its ranks hold", f"{self.ranks / GB:,.2f}")
        table.add_row("their copies of a save", f"{self.saved / GB:,.2f}")
        table.add_row("together, of the host's memory", f"{self.together / GB:,.2f} of {self.memory / GB:,.0f}")
        table.add_section()
        for name, size in self.disk.items():
            table.add_row(f"{name}, on disk", f"{size / GB:,.2f}")
        table.add_section()
        table.add_row("intrr index, processor-hours", f"{self.index_hours:,.2f}")
        table.add_row("items to a residual Semantic ID", f"{self.items_per_sid:,.3f}")
        return table


def plan_host(recipe: Recipe, plan: Plan, *, items: int, content_width: int) -> HostPlan:
    """What a recipe's catalogue of that size takes.

    Args:
        plan: of its tables, on the machines in question.
        content_width: V of the item vectors.
    """
    sizes = (*recipe.index.sizes, recipe.index.dedup_codes)
    width = next(size for size, most in ((1, 1 << 8), (2, 1 << 15), (4, 1 << 31)) if max(sizes) <= most)
    codes, trie = items * len(sizes) * width, items * (TRIE + FILTERS)
    vectors = items * content_width * CONTENT
    mapped = {"Semantic IDs": codes, "prefix trie (evaluation, serving)": trie}
    if recipe.model.content:
        mapped["content vectors"] = vectors
    rows = items * recipe.model.width * FLOAT
    saved = items * (recipe.model.uid_width or recipe.model.width) * FLOAT
    disk = {
        "Semantic IDs": codes + trie + items * (OWN_ID + FLOAT * len(sizes)),
        "vectors": vectors,
        f"checkpoints ({recipe.train.keep_checkpoints} and the best)": (recipe.train.keep_checkpoints + 1) * saved,
        "bundle of float32 rows": 2 * rows + codes + trie + items * OWN_ID,
    }
    hours = items * content_width * sum(recipe.index.sizes) / INDEX_RATE / 3600
    machines = plan.machines
    rank = plan.total.device if machines.device == "cpu" else plan.total.host + PROCESS["cpu"]
    rank += POOLS * recipe.train.loader.pool_events * EVENT * (1 + recipe.model.reads_times) // machines.ranks
    state = [*(table.memory for table in plan.tables), plan.others["dense parameters"]]
    return HostPlan(
        mapped,
        rank * machines.local_ranks,
        sum(each.device + each.host for each in state) * machines.local_ranks,
        machines.host_memory * machines.local_ranks,
        disk,
        hours,
        items / math.prod(recipe.index.sizes),
        recipe.index.proposal(items),
    )
