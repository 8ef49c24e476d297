"""`python -m benchmarks.tables GRID`: a table of the paper, from raw files to its page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def reproduce(
    grid: Annotated[str, typer.Argument(metavar="GRID", help="table1 … table4, lambda, or a grid file (YAML).")],
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Cells: a name, a part of names, or a glob; repeatable.")
    ] = None,
    data: Annotated[Path, typer.Option("--data", help="Folder of the raw files that datasets/*.yaml name.")] = Path(
        "data"
    ),
    work: Annotated[Path, typer.Option("--work", help="Folder of all that is made.")] = Path("work"),
    docs: Annotated[Path, typer.Option("--docs", help="Folder of the pages.")] = Path("benchmarks/results"),
    seeds: Annotated[str | None, typer.Option("--seeds", help="Such as 0,1,2; instead of the grid's.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the cells and how far they are; run nothing.")] = False,
    write_only: Annotated[bool, typer.Option("--write-only", help="Write the page of what is there.")] = False,
) -> None:
    """Run a table of the paper, cell by cell, and write its page; finished cells are skipped, interrupted ones resumed."""
    from benchmarks.tables.reproduce import Options
    from benchmarks.tables.reproduce import reproduce as run

    raise typer.Exit(run(Options(grid, tuple(only or ()), data, work, docs, seeds, show, write_only)))


if __name__ == "__main__":
    from intrr_rec.cli import run_app

    run_app(app, "python -m benchmarks.tables")
