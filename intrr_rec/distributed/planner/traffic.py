"""What a plan's traffic costs a step, estimated from its bytes and the bandwidths: a lower bound that leaves compute out.

For each sharded table a step sends the ids of the lookups, their rows and their gradients (all-to-all); what is replicated
has its gradients averaged (ring all-reduce) and is read and written by Adam.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from intrr_rec.config import Recipe
from intrr_rec.distributed.planner.hardware import GB
from intrr_rec.distributed.planner.memory import FLOAT, REPLICATED
from intrr_rec.distributed.planner.plan import Plan
from intrr_rec.models.embeddings.tables import UID_TABLE

ID = 8
ADAM = 7 * FLOAT  # an element: value, gradient and two moments read, all but the gradient written


@dataclass(frozen=True)
class Traffic:
    """Bytes a rank and step, and the seconds they take one after the other."""

    all_to_all_bytes: int
    all_reduce_bytes: int
    adam_bytes: int
    all_to_all_seconds: float
    all_reduce_seconds: float
    adam_seconds: float

    def as_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return asdict(self)

    def table(self) -> Table:
        """For people."""
        shown = Table(
            "traffic of a step", "MB a rank", "ms", title="without compute; docs/sharding.md tells what is counted"
        )
        for name in ("all_to_all", "all_reduce", "adam"):
            size, seconds = getattr(self, f"{name}_bytes"), getattr(self, f"{name}_seconds")
            shown.add_row(name.replace("_", "-"), f"{size / 1e6:,.1f}", f"{1e3 * seconds:,.2f}")
        return shown


def estimate_traffic(plan: Plan, recipe: Recipe) -> Traffic:
    """The traffic of a training step of `recipe` under a plan that counts the dense parameters (made ahead of a job)."""
    machines = plan.machines
    ranks, speed = machines.ranks, machines.bandwidths
    away = (ranks - 1) / ranks
    replicated = plan.others["dense parameters"].device // REPLICATED
    exchanged = 0
    for table in plan.tables:
        if table.sharding == "data_parallel":
            replicated += table.rows * table.width
            continue
        # Rows of the UID table as often as items occur in full histories; codebooks whole.
        looked_up = table.rows
        if table.name == UID_TABLE:
            looked_up = min(table.rows, recipe.step_events // ranks)
        asked_of = ranks if table.sharding == "column_wise" else 1  # every shard is asked for its columns of a row
        exchanged += looked_up * (asked_of * ID + 2 * table.width * FLOAT)
    link = (speed["inter_host_gb_s"] if ranks > machines.local_ranks else speed["intra_host_gb_s"]) * GB
    exchanged, reduced = int(away * exchanged), int(2 * away * replicated * FLOAT)
    stepped = replicated * ADAM
    memory = speed["memory_gb_s"] * GB
    return Traffic(exchanged, reduced, stepped, exchanged / link, reduced / link, stepped / memory)
