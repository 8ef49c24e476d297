"""`python -m benchmarks.speed ranks`: what the host of one rank of R does for a step, measured without the other ranks.

All shares of a step are built here, one rank after another, since a rank adds up what the others counted of the items that it
owns; what is timed is the work of one rank, by seconds of the processor. Messages are not sent: their bytes are counted.

Shape suffixes: U users, R ranks, K rows that an owner receives.
"""

from __future__ import annotations

import itertools
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed.machine import describe
from benchmarks.speed.page import row, write_section
from intrr_rec.data.dataset import SEQUENCE_SCHEMA
from intrr_rec.data.event_store import EventStore
from intrr_rec.data.loading.collator import Collator
from intrr_rec.data.loading.counts import COUNT_BITS, StepCounts, StepTotals, add_up, by_owner
from intrr_rec.data.loading.streaming import StreamedOrder, StreamedWindows
from intrr_rec.data.loading.windows import LEAVE_ONE_OUT, IntArray, Windows, training_windows
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.stores.storage import Folder

ITEMS = 1_000_000
ROUNDS = 5
REPEATS = 5
PARTS = ("read", "gather", "collate", "count", "add up", "weigh")
SECTION = "host work of a rank"


def bench_host_work(
    *,
    ranks: int,
    rank: int,
    windows: Sequence[int],
    users: Sequence[int],
    steps: int,
    groups: int,
    out: Path,
    page: Path | None,
) -> list[dict[str, Any]]:
    """Measure, print a table, write all figures to `out` (JSON), and a section of `page`.

    Args:
        ranks, rank: R, and which of them is timed, beside one rank that trains alone.
        windows: N, each measured on histories of its own.
        users: windows of a step on each rank, for each N.
        steps: whose median is taken.
        groups: row groups of each rank.
    """
    found = []
    for window, a_rank in zip(windows, users, strict=True):
        with tempfile.TemporaryDirectory() as folder:
            store = write_histories(Path(folder), ranks * a_rank * steps, window, groups=groups * ranks)
            sizes = [(1, 0), (ranks, rank)]
            # In turns, so that what else the machine does falls on both.
            rounds = [[measure(store, window, each, of, a_rank, steps) for of, each in sizes] for _ in range(ROUNDS)]
            found += [{"window": window, **_median(of_size)} for of_size in zip(*rounds, strict=True)]
    machine = describe(torch.device("cpu")) | {"date": f"{date.today():%Y-%m-%d}"}
    command = shlex.join(["python", "-m", "benchmarks.speed", *sys.argv[1:]])
    write_json(out, {"machine": machine, "command": command, "users": list(users), "steps": steps, "found": found})
    lines = _table(found)
    if page is not None:
        told = f"Written by this command: {machine['date']}, {machine['device']}, torch {machine['torch']}, code {machine['code']}."
        write_section(page, SECTION, [told, "", "```", command, "```", "", *_words(steps, groups), *map(row, lines)])
    table = Table(*lines[0])
    for line in lines[2:]:
        table.add_row(*line)
    Console().print(table)
    return found


def _median(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one round, times replaced by their medians."""
    parts = {part: statistics.median(each["ms"][part] for each in rounds) for part in PARTS}
    return rounds[0] | {"ms": parts, "total_ms": sum(parts.values())}


def write_histories(folder: Path, users: int, window: int, groups: int) -> EventStore:
    """Histories of lognormal length, N/2 events in the median and N at most, of items that are drawn the less the higher their number.

    Row groups end by events, as those of `intrr prepare` do.
    """
    rng = np.random.default_rng(0)
    length_U = np.exp(rng.normal(np.log(window / 2), 1.0, users)).astype(np.int64).clip(1, window) + LEAVE_ONE_OUT + 1
    items_E = (ITEMS * rng.random(int(length_U.sum())) ** 3).astype(np.int64)
    offsets = pa.array(np.concatenate([[0], np.cumsum(length_U)]), pa.int32())
    columns = [pa.array(np.arange(users)), pa.ListArray.from_arrays(offsets, pa.array(items_E))]
    lengths = pa.array(length_U, pa.int32())
    table = pa.table([*columns, pa.nulls(users, SEQUENCE_SCHEMA.types[2]), lengths], schema=SEQUENCE_SCHEMA)
    passed_U = np.cumsum(length_U)
    ends = np.searchsorted(passed_U, passed_U[-1] * np.arange(1, groups) / groups).tolist()
    with pq.ParquetWriter(folder / "sequences.parquet", table.schema, compression="zstd") as writer:
        for first, end in itertools.pairwise([0, *ends, users]):
            writer.write_table(table.slice(first, end - first), row_group_size=users)
    return EventStore(Folder.at(folder), ["sequences.parquet"], len(items_E), ITEMS)


def measure(store: EventStore, window: int, rank: int, ranks: int, users: int, steps: int) -> dict[str, Any]:
    """Figures of one rank of `ranks`, milliseconds by part."""
    cut = partial(training_windows, window=window)
    held_out_U = np.full(len(store.offsets) - 1, LEAVE_ONE_OUT)
    source = StreamedWindows(store, held_out_U, cut, len(store), times=False, readers=1)
    collate = Collator(np.empty(0, np.int64), window, None, "items")
    orders = [source.order(collate, 0, 1, each, ranks) for each in range(ranks)]
    for order in orders:
        order.fetch(0, 1)()  # the first pool is in memory from here on
    read_ms, read_bytes = _reading(source, orders[rank], users)
    found: list[dict[str, float]] = []
    slowest: dict[str, list[float]] = {"tokens": [], "pairs": []}
    exchanged = []
    for step in range(steps):
        fetches = [order.fetch(step * users * ranks, (step + 1) * users * ranks) for order in orders]
        shares = [fetch() for fetch in fetches]
        counts = [_counts(*share, step) for share in shares]
        totals, row_K = _exchanged(counts, rank)
        for time_of in range(
            REPEATS
        ):  # the work of other ranks has filled the processor's caches: the first time is left out
            spent = dict.fromkeys(PARTS, 0.0) | {"read": read_ms}
            with _timed(spent, "gather"):
                taken, collate = fetches[rank]()
            with _timed(spent, "collate"):
                share = collate.share(taken, step)
            with _timed(spent, "count"):
                own = collate.counts([share])
            if ranks > 1:
                with _timed(spent, "add up"):
                    order_U, *_ = by_owner(own.items_U, own.count_U, ranks)
                    add_up(row_K, ranks)
                    np.empty_like(own.count_U)[order_U] = own.count_U  # the answers, put into the rank's own order
            with _timed(spent, "weigh"):
                collate.weigh([share], totals, own, ranks)
            if time_of:
                found.append(spent)
        for name, power in (("tokens", 1), ("pairs", 2)):
            sums = [int((of_rank.length_M**power).sum()) for of_rank, _ in shares]
            slowest[name].append(max(sums) / statistics.mean(sums))
        exchanged.append((8 + 4) * (len(own.items_U) + len(row_K)) if ranks > 1 else 0)
    for order in orders:
        order.close()
    parts = {part: statistics.median(spent[part] for spent in found) for part in PARTS}
    return {
        "users": users,
        "ranks": ranks,
        "rank": rank,
        "ms": parts,
        "total_ms": sum(parts.values()),
        "read_bytes": read_bytes,
        "dataset_bytes": sum(_bytes(store, group) for group in range(len(store.groups))),
        "exchanged_bytes": int(statistics.median(exchanged)),
        "slowest_to_mean": {name: statistics.median(found) for name, found in slowest.items()},
    }


def _reading(source: StreamedWindows, order: StreamedOrder, users: int) -> tuple[float, int]:
    """Milliseconds a step of reading the rank's row groups and shuffling their windows, and bytes an epoch."""
    groups = [order.pools[0][place] for place in order.stretches[0].groups]
    found = []
    for _ in range(REPEATS):
        spent = {"read": 0.0}
        with _timed(spent, "read", time.process_time):
            source.load(groups, (0, 1))
        found.append(spent["read"])
    windows = len(source) * (order.stretches[0].end - order.stretches[0].first) / len(order.pools[0])
    return statistics.median(found[1:]) * users / windows, sum(_bytes(source.events, group) for group in groups)


def _bytes(store: EventStore, group: int) -> int:
    """Of the items of a row group, as they lie in the file."""
    found = store.groups[group]
    with store.folder.open(found.file) as handle:
        of_group = pq.ParquetFile(handle).metadata.row_group(found.number)
        columns = (of_group.column(place) for place in range(of_group.num_columns))
        return sum(column.total_compressed_size for column in columns if column.path_in_schema.startswith("items"))


def _counts(windows: Windows, collate: Collator, step: int) -> StepCounts:
    return collate.counts([collate.share(windows, step)])


def _exchanged(counts: Sequence[StepCounts], rank: int) -> tuple[StepTotals, IntArray]:
    """What the exchange gives a rank: the totals of the step, and the rows that it receives as an owner."""
    items, count = (np.concatenate([getattr(each, name) for each in counts]) for name in ("items_U", "count_U"))
    row = items << COUNT_BITS | count
    total, distinct = add_up(row)
    first = sum(len(each.items_U) for each in counts[:rank])
    weight, positions = sum(each.target_weight for each in counts), sum(each.positions for each in counts)
    count_U = total[first : first + len(counts[rank].items_U)].astype(np.int64)
    received = items % len(counts) == rank
    return StepTotals(weight, positions, distinct, count_U, counts[rank].spare_X), row[received]


@contextmanager
def _timed(spent: dict[str, float], part: str, clock: Callable[[], float] = time.thread_time) -> Iterator[None]:
    started = clock()
    yield
    spent[part] += 1e3 * (clock() - started)


def _table(found: list[dict[str, Any]]) -> list[list[str]]:
    """A measure a line, a window and number of ranks a column."""
    columns = []
    for each in found:
        alone = next(one for one in found if one["window"] == each["window"])
        columns.append(
            {f"N = {each['window']:,}": f"{each['ranks']} rank{'s' * (each['ranks'] > 1)}"}
            | {"windows a rank and step": f"{each['users']:,}"}
            | {f"{part}, ms": f"{each['ms'][part]:.2f}" for part in PARTS}
            | {"together, ms": f"{each['total_ms']:.2f}", "× one rank": f"{each['total_ms'] / alone['total_ms']:.2f}"}
            | {"read of the dataset, × 1/R": f"{each['read_bytes'] / each['dataset_bytes'] * each['ranks']:.2f}"}
            | {"exchanged a step, kB": f"{each['exchanged_bytes'] / 1e3:,.0f}"}
            | {f"slowest / mean {name}": f"{found:.3f}" for name, found in each["slowest_to_mean"].items()}
        )
    heads = ["", *(", ".join(next(iter(column.items()))) for column in columns)]
    names = list(columns[0])[1:]
    return [heads, ["---", *["---:"] * len(columns)], *([name, *(c[name] for c in columns)] for name in names)]


def _words(steps: int, groups: int) -> list[str]:
    return [
        f"Processor milliseconds a step of one rank, the median of {steps} steps (one of its threads at a time) and of "
        f"{ROUNDS} rounds in which one rank and R take turns; histories of lognormal length, N/2 in the median, cut at N, streamed from "
        f"Parquet row groups, {groups} a rank (a pool of 67 million events has 64 as `intrr prepare` writes them). *Read*: row groups, their share "
        "of a step. *Gather*: windows of the step. *Collate*: packing and unique items. *Count*, *add up*, *weigh*: what is global "
        "about the step; the exchange itself is counted in bytes, sent and received, not timed. *Tokens*: events of the windows of a step, "
        "*pairs*: sums of their squares, on the rank with most.",
        "",
    ]
