"""The sharding plan: which table lies where and what trains it, decided by TorchRec's planner under our constraints.

A plan that cannot fit is refused before anything is allocated; one that can is printed and saved with the run.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import Any, cast, get_args

import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torchrec import EmbeddingCollection
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import EnumerableShardingSpec, ParameterSharding, ShardingPlan

from intrr_rec.config import Recipe, ShardingConfig
from intrr_rec.config.sharding import Sharding
from intrr_rec.distributed.planner.hardware import GB, Machines
from intrr_rec.distributed.planner.memory import USABLE, Bytes, largest_shard, other_bytes, shard_bytes
from intrr_rec.distributed.zch import managed_rows, sharders
from intrr_rec.errors import ConfigError
from intrr_rec.models.base import Recommender
from intrr_rec.models.embeddings.features import FEATURE_TABLE
from intrr_rec.models.embeddings.tables import UID_TABLE
from intrr_rec.models.embeddings.zch import WAYS

CPU_OPTIMIZERS = ("rowwise_adagrad", "adagrad")
ROW_STATE = ("rowwise_adagrad", "rowwise_adam")
COLUMN_UNIT = 4  # columns of a shard come in fours: the kernels' vectors


@dataclass(frozen=True)
class Placement:
    """Where one table lies.

    Attributes:
        optimizer: of its rows; "-" where nothing is trained.
        memory: of the rank that holds most of it, optimizer state and gradients included.
    """

    name: str
    rows: int
    width: int
    sharding: str
    kernel: str
    optimizer: str
    ranks: tuple[int, ...]
    memory: Bytes


@dataclass(frozen=True)
class Plan:
    """The plan of a job and what it costs.

    Attributes:
        tables: every table of the model.
        others: what a rank holds besides, by name.
        total: of the rank that needs most.
        torchrec: the same plan as TorchRec takes it.
    """

    machines: Machines
    tables: tuple[Placement, ...]
    others: dict[str, Bytes]
    total: Bytes
    torchrec: ShardingPlan

    def as_dict(self) -> dict[str, Any]:
        """For plan.json: bytes throughout."""
        return {
            "machines": asdict(self.machines),
            "tables": [asdict(table) for table in self.tables],
            "others": {name: asdict(size) for name, size in self.others.items()},
            "total": asdict(self.total),
        }

    def __str__(self) -> str:
        m = self.machines
        title = f"{m.ranks} rank{'s' * (m.ranks > 1)} on {m.device}, {_size(m.memory)} each"
        table = Table("", "rows x width", "sharding", "optimizer", "ranks", "a rank", "on its host", title=title)
        for t in self.tables:
            shape = f"{t.rows:,} x {t.width}"
            sharding = t.sharding if t.kernel in ("dense", "fused") else f"{t.sharding}, {t.kernel}"
            table.add_row(t.name, shape, sharding, t.optimizer, _span(t.ranks), *_row(t.memory))
        for name, size in self.others.items():
            table.add_row(name, "", "", "", _span(range(m.ranks)), *_row(size))
        table.add_section()
        table.add_row("together", "", "", "", "", *_row(self.total))
        page = io.StringIO()
        Console(file=page, width=140).print(table)
        return page.getvalue().rstrip()


@dataclass(frozen=True)
class _TableCost:
    """A table and the ways of sharding it that are open, each with what it costs the rank that gets most."""

    name: str
    rows: int
    width: int
    costs: dict[str, Bytes]

    @property
    def least(self) -> Bytes:
        return min(self.costs.values(), key=lambda cost: cost.device + cost.host)


def make_plan(
    model: Recommender,
    machines: Machines,
    recipe: Recipe,
    *,
    training: bool,
    group: dist.ProcessGroup | None,
) -> Plan:
    """Plan the tables of `model`, which lie on the meta device.

    Args:
        machines: what the plan is for.
        training: optimizer state and gradients are needed too.
        group: the ranks that plan together; None plans for a job that does not run.

    Raises:
        ConfigError: a combination that does not exist on these machines, or a plan that does not fit them.
        RuntimeError: the planner left out a table.
    """
    config = recipe.train.sharding.of_catalogue(_largest_table(model))
    if training:
        _require_kernels(config, machines)
    for rows in managed_rows(model):
        if rows.sets % machines.ranks:
            raise ConfigError(
                f"model.zch.rows={rows.rows}: its sets of {WAYS} rows do not divide among {machines.ranks} ranks; make it a "
                f"multiple of {WAYS * machines.ranks}, e.g. {-(-rows.sets // machines.ranks) * machines.ranks * WAYS}"
            )
    kernel = config.kernel if training else "fused"
    others = other_bytes(model, machines, recipe, training=training, allocated=group is not None)
    taken = sum(others.values(), Bytes(0))
    averaged = training and recipe.train.ema_decay is not None
    tables = _require_fit(_table_costs(model, machines, config, kernel, training, averaged), taken, machines, averaged)
    ids = recipe.step_events // machines.ranks  # at most, a rank and step
    constraints = {
        table.name: ParameterConstraints(
            sharding_types=list(table.costs),
            compute_kernels=["dense", kernel],
            min_partition=table.width // machines.ranks if "column_wise" in table.costs else None,
            batch_sizes=[ids if table.name in (UID_TABLE, FEATURE_TABLE) else table.rows],
        )
        for table in tables
    }
    host_taken = taken.device if machines.device == "cpu" else taken.host
    planner = EmbeddingShardingPlanner(
        topology=machines.topology(
            int(USABLE * machines.memory) - taken.device, int(USABLE * machines.host_memory) - host_taken
        ),
        constraints=constraints,
        storage_reservation=FixedPercentageStorageReservation(0.0),
        debug=False,
    )
    try:
        found = planner.collective_plan(model, sharders(), group) if group else planner.plan(model, sharders())
    except PlannerError as error:
        raise ConfigError(f"train.sharding: the planner finds no place for the tables ({error})") from None
    shardings = {name: where for module in found.plan.values() for name, where in cast(dict, module).items()}
    if missing := {table.name for table in tables} - set(shardings):
        raise RuntimeError(f"the planner dropped the tables {sorted(missing)}")
    return _priced(tables, shardings, others, machines, config, found, training, averaged)


def optimizer_of(sharding: str, config: ShardingConfig, *, training: bool) -> str:
    """What trains a table that lies so: the name of a setting, "sgd" (no state) where nothing is trained."""
    if sharding == "data_parallel":
        return "adam" if training else "-"
    if not training:
        return "sgd"
    return config.optimizer or ("adagrad" if sharding == "column_wise" else "rowwise_adagrad")


def _largest_table(model: Recommender) -> int:
    """Rows of the largest table."""
    found = [each for each in model.modules() if isinstance(each, EmbeddingCollection)]
    return max((table.num_embeddings for each in found for table in each.embedding_configs()), default=0)


def _require_kernels(config: ShardingConfig, machines: Machines) -> None:
    if machines.device == "cuda" or {config.uid, config.codebooks} == {"data_parallel"}:
        return
    if config.optimizer and config.optimizer not in CPU_OPTIMIZERS:
        raise ConfigError(
            f"train.sharding.optimizer={config.optimizer}: on CPUs the kernels of sharded tables know "
            f"{' and '.join(CPU_OPTIMIZERS)}; choose one, or leave the tables data_parallel (Adam)"
        )
    if config.kernel != "fused":
        raise ConfigError(f"train.sharding.kernel={config.kernel}: exists on CUDA only; on CPUs leave it at fused")


def _table_costs(
    model: Recommender, machines: Machines, config: ShardingConfig, kernel: str, training: bool, averaged: bool
) -> list[_TableCost]:
    tables = []
    for collection in filter(lambda m: isinstance(m, EmbeddingCollection), model.modules()):
        for table in cast(EmbeddingCollection, collection).embedding_configs():
            key = "uid" if table.name in (UID_TABLE, FEATURE_TABLE) else "codebooks"
            asked, rows, width = getattr(config, key), table.num_embeddings, table.embedding_dim
            if asked == "auto":
                ways = [
                    way for way in get_args(Sharding) if way != "auto" and not _obstacle(way, width, machines, config)
                ]
            elif obstacle := _obstacle(asked, width, machines, config):
                raise ConfigError(f"train.sharding.{key}={asked}: {obstacle}")
            else:
                ways = [asked]
            costs = {
                way: shard_bytes(
                    *largest_shard(rows, width, way, machines.ranks),
                    way,
                    optimizer_of(way, config, training=training),
                    kernel,
                    training=training,
                    averaged=averaged,
                )
                for way in ways
            }
            tables.append(_TableCost(table.name, rows, width, costs))
    return tables


def _obstacle(way: str, width: int, machines: Machines, config: ShardingConfig) -> str | None:
    """Why a table cannot be sharded so, or None."""
    if way != "column_wise":
        return None
    if config.optimizer in ROW_STATE:
        return (
            f"{config.optimizer} keeps one state a row and shard, so results would differ with the number of ranks; "
            "set train.sharding.optimizer to adagrad, or on CUDA adam"
        )
    if width % (COLUMN_UNIT * machines.ranks):
        return f"a width of {width} does not divide into {machines.ranks} shards of a multiple of {COLUMN_UNIT} columns"
    return None


def _fits(cost: Bytes, machines: Machines) -> bool:
    return cost.device <= USABLE * machines.memory and cost.host <= USABLE * machines.host_memory


def _require_fit(tables: list[_TableCost], others: Bytes, machines: Machines, averaged: bool) -> list[_TableCost]:
    """The tables, less what does not fit beside the cheapest form of all else.

    Raises:
        ConfigError: not even the cheapest of each fits.
    """
    least = sum((table.least for table in tables), others)
    if not _fits(least, machines):
        raise ConfigError(_too_large(tables, others, least, machines, averaged))
    fitting = []
    for table in tables:
        rest = Bytes(least.device - table.least.device, least.host - table.least.host)
        costs = {way: cost for way, cost in table.costs.items() if _fits(rest + cost, machines)}
        fitting.append(_TableCost(table.name, table.rows, table.width, costs))
    return fitting


def _too_large(tables: list[_TableCost], others: Bytes, least: Bytes, machines: Machines, averaged: bool) -> str:
    on_host = least.device <= USABLE * machines.memory
    memory = machines.host_memory if on_host else machines.memory
    largest = max(tables, key=lambda table: table.least.host if on_host else table.least.device)
    cost = largest.least.host if on_host else largest.least.device
    way = next(way for way, cost in largest.costs.items() if cost == largest.least)
    rest = (least.host if on_host else least.device) - cost
    share = USABLE * memory - rest
    text = (
        f"train.sharding: the plan needs {_size(cost + rest)} a rank and {_size(int(USABLE * memory))} of {_size(memory)} may be "
        f"used: table '{largest.name}' ({largest.rows:,} x {largest.width}, {way}) takes {_size(cost)}, all else {_size(rest)}"
    )
    if share <= 0:
        return f"{text}; no number of ranks fixes that"
    # Row-wise Adagrad, the least a sharded table can cost.
    whole = shard_bytes(
        largest.rows, largest.width, "row_wise", "rowwise_adagrad", "fused", training=True, averaged=averaged
    ).device
    if way == "row_wise":
        whole = cost * machines.ranks
    key = "uid" if largest.name in (UID_TABLE, FEATURE_TABLE) else "codebooks"
    return f"{text}; use train.sharding.{key}=row_wise over at least {max(1, math.ceil(whole / share)):,} ranks"


def _priced(
    tables: list[_TableCost],
    shardings: dict[str, ParameterSharding],
    others: dict[str, Bytes],
    machines: Machines,
    config: ShardingConfig,
    found: ShardingPlan,
    training: bool,
    averaged: bool,
) -> Plan:
    """The planner's answer with its cost."""
    base = sum(others.values(), Bytes(0))
    by_rank: dict[int, Bytes] = dict.fromkeys(range(machines.ranks), base)
    placements = []
    for table in tables:
        where = shardings[table.name]
        optimizer = optimizer_of(where.sharding_type, config, training=training)
        costs: dict[int, Bytes] = defaultdict(lambda: Bytes(0))
        for rank, rows, columns in _shards(table, where, machines):
            costs[rank] += shard_bytes(
                rows,
                columns,
                where.sharding_type,
                optimizer,
                where.compute_kernel,
                training=training,
                averaged=averaged,
            )
        for rank, cost in costs.items():
            by_rank[rank] += cost
        placements.append(
            Placement(
                table.name,
                table.rows,
                table.width,
                where.sharding_type,
                where.compute_kernel,
                optimizer,
                tuple(sorted(costs)),
                max(costs.values(), key=lambda cost: cost.device + cost.host),
            )
        )
    total = max(by_rank.values(), key=lambda cost: cost.device + cost.host)
    return Plan(machines, tuple(placements), others, total, found)


def _shards(table: _TableCost, where: ParameterSharding, machines: Machines) -> list[tuple[int, int, int]]:
    """Rank, rows and columns of every shard."""
    if where.sharding_type == "data_parallel":
        return [(rank, table.rows, table.width) for rank in range(machines.ranks)]
    shards = cast(EnumerableShardingSpec, where.sharding_spec).shards
    return [(shard.placement.rank(), *shard.shard_sizes) for shard in shards]


def _span(ranks: range | tuple[int, ...]) -> str:
    if len(ranks) > 1 and ranks[-1] - ranks[0] == len(ranks) - 1:
        return f"{ranks[0]}-{ranks[-1]}"
    return ", ".join(map(str, ranks))


def _row(size: Bytes) -> tuple[str, str]:
    return _size(size.device), _size(size.host) if size.host else ""


def _size(size: int) -> str:
    """Bytes in three digits, in powers of a thousand."""
    for unit, scale in (("GB", GB), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:,.0f} {unit}" if size >= 100 * scale else f"{size / scale:.3g} {unit}"
    return f"{size} B"
