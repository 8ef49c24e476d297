"""Run cards: a folded section a row, with all it takes to make its figures again."""

from __future__ import annotations

from pathlib import Path

from benchmarks.tables.rows import Row
from benchmarks.tables.tables import command

ROOT = Path(__file__).resolve().parents[2]
HEAD = "| seed | settings | dataset | Semantic IDs | epochs, best | validation R@10 | wall time | processes | machine |"


def card(grid: str, row: Row) -> str:
    """The card of a row that has figures; a line a run."""
    lines = [f"<details><summary>{row.first.name}: {row.model.label}</summary>", "", command(grid, row.first.name), ""]
    file = row.first.recipe_file
    recipe = f"`{file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name}`"
    lines += [f"Recipe {recipe}" + (", " + ", ".join(f"`{w}`" for w in row.first.words) if row.first.words else ""), ""]
    if row.first.measure == "accuracy":
        lines += [HEAD, "|" + "---|" * 9]
    lines += [line for figures in row.figures for line in figures.card]
    return "\n".join([*lines, "", "</details>"])
