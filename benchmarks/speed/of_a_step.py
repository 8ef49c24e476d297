"""`python -m benchmarks.speed …`: what a training step costs beside its products: on the host, in launches, and when it is saved."""

from __future__ import annotations

from typing import Annotated

import typer

from benchmarks.speed.options import Out, Page, bench
from intrr_rec.cli.options import Config, Overrides, recipe_of
from intrr_rec.errors import ConfigError


@bench.command("ranks")
def bench_ranks(
    out: Out,
    ranks: Annotated[int, typer.Option(min=2, help="R: ranks that are simulated.")] = 64,
    rank: Annotated[int, typer.Option(min=0, help="The rank that is timed.")] = 0,
    window: Annotated[list[int] | None, typer.Option("--window", min=2, help="N; repeatable; 30 if left out.")] = None,
    users: Annotated[
        list[int] | None, typer.Option("--users", min=1, help="Windows a step of each rank, once for each N; 512.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps; their median is reported.")] = 5,
    groups: Annotated[int, typer.Option(min=1, help="Row groups of each rank in a pool.")] = 1,
    page: Page = None,
) -> None:
    """What the host of one rank of R does for a step, beside one rank alone: milliseconds by part, bytes read, balance of tokens."""
    from benchmarks.speed.host_work import bench_host_work as run

    if rank >= ranks:
        raise ConfigError(f"--rank {rank}: ranks count from 0, so with --ranks {ranks} the last one is {ranks - 1}")
    windows = window or [30]
    users = users or [512] * len(windows)
    if len(users) != len(windows):
        raise ConfigError(
            f"--users: is given {len(users)} times for {len(windows)} windows; give it once for each --window"
        )
    run(ranks=ranks, rank=rank, windows=windows, users=users, steps=steps, groups=groups, out=out, page=page)


@bench.command("overhead")
def bench_overhead(
    out: Out,
    rows: Annotated[int, typer.Option(min=10, help="Items of the catalogue.")] = 1_000,
    steps: Annotated[int, typer.Option(min=2, help="Steps; their median is reported.")] = 100,
    page: Page = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """Processor time of a training step that computes next to nothing: give few users and a small width."""
    from benchmarks.speed.overhead import bench_overhead as run

    run(recipe_of(config, overrides), rows=rows, steps=steps, out=out, page=page)


@bench.command("saves")
def bench_saves(
    out: Out,
    gb: Annotated[float, typer.Option(min=0.001, help="Weights of the item table, 10⁹ bytes.")] = 5.0,
    saves: Annotated[int, typer.Option(min=1, help="Checkpoints, one after the other.")] = 3,
    page: Page = None,
    config: Config = None,
    overrides: Overrides = None,
) -> None:
    """How long training stops for each checkpoint of a large table, and how many bytes a save moves; beside --out they are written."""
    from benchmarks.speed.saves import bench_saves as run

    run(recipe_of(config, overrides), gb=gb, saves=saves, out=out, page=page)
