"""`python -m benchmarks.tables`: one table of the paper, from raw files to its page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.tables.cells import Cell, Workplace, expand, select
from benchmarks.tables.grid import load_grid
from intrr_rec.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """What the command line asks for; `seeds` as it was written there."""

    grid: str
    only: tuple[str, ...]
    data: Path
    work: Path
    docs: Path
    seeds: str | None
    show: bool
    write_only: bool


def reproduce(options: Options) -> int:
    """Run what is missing of a grid and write its page; the exit code is 1 where a cell failed.

    Raises:
        ConfigError: a grid, a seed or a pattern that there is not.
    """
    grid, path = load_grid(options.grid)
    cells = expand(grid, path, _seeds(options.seeds))
    chosen = select(cells, options.only)
    place = Workplace(options.data.absolute(), options.work.absolute())
    if options.show:
        _show(chosen, place)
        return 0
    failed = 0
    if not options.write_only:
        failed = _run(chosen, place)
    if _is_main():
        from benchmarks.tables.pages import write_page

        everything = expand(grid, path, place.seeds(cells))
        print(write_page(grid, path.stem, everything, place, options.docs))
    return 1 if failed else 0


def _run(cells: list[Cell], place: Workplace) -> int:
    from benchmarks.tables.run import run_cells  # after --list: torch takes seconds to load

    outcomes = run_cells(cells, place)
    if _is_main():
        _print(
            [(o.cell.full_name, o.what, o.why) for o in outcomes],
            ("cell", "outcome", "why"),
            Console(stderr=True, markup=False),
        )
    return sum(outcome.what == "failed" for outcome in outcomes)


def _show(cells: list[Cell], place: Workplace) -> None:
    rows = [(cell.full_name, cell.label, cell.problem or place.state(cell)) for cell in cells]
    _print(rows, ("cell", "row", "state"), Console(markup=False))


def _print(rows: Sequence[tuple[str, ...]], columns: tuple[str, ...], console: Console) -> None:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")  # names are there to be copied
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _seeds(words: str | None) -> tuple[int, ...]:
    if words is None:
        return ()
    try:
        return tuple(dict.fromkeys(int(word) for word in words.split(",")))
    except ValueError:
        raise ConfigError(f"--seeds {words}: must be whole numbers and commas, such as 0,1,2") from None
