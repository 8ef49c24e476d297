"""Run cards: a folded section a row, with all it takes to make its figures again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.tables.cells import CONFIG, INPUTS
from benchmarks.tables.rows import Row
from benchmarks.tables.run import MACHINE
from benchmarks.tables.tables import MISSING, command
from intrr_rec.io.artefact import file_hash

DIGITS = 12
ROOT = Path(__file__).resolve().parents[2]


def card(grid: str, row: Row) -> str:
    """The card of a row that has figures; a line a run."""
    lines = [f"<details><summary>{row.first.name}: {row.model.label}</summary>", "", command(grid, row.first.name), ""]
    file = row.first.recipe_file
    recipe = f"`{file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else file.name}`"
    lines += [f"Recipe {recipe}" + (", " + ", ".join(f"`{w}`" for w in row.first.words) if row.first.words else ""), ""]
    if row.first.measure == "accuracy":
        lines += _runs(row)
    else:
        lines += _measurement(row)
    return "\n".join([*lines, "", "</details>"])


def _runs(row: Row) -> list[str]:
    head = "| seed | settings | dataset | Semantic IDs | epochs, best | validation R@10 | wall time | processes | machine |"
    lines = [head, "|" + "---|" * 9]
    for cell, run in zip(row.cells, row.runs, strict=True):
        folder, results = row.place.folder(cell), run.results
        epochs = f"{results.epochs:.0f}, {results.best_epoch:.0f}" if results.epochs and results.best_epoch else MISSING
        valid = f"{results.valid['recall@10']:.4f}".replace("0.", ".", 1) if results.valid else MISSING
        wall = f"{results.wall_seconds:,.0f} s" if results.wall_seconds else MISSING
        facts = [str(cell.seed), *_hashes(folder), epochs, valid, wall, str(results.world_size or MISSING)]
        lines.append("| " + " | ".join([*facts, _machine(_json(folder / MACHINE))]) + " |")
    return lines


def _measurement(row: Row) -> list[str]:
    folder = row.place.folder(row.first)
    settings, dataset, ids = _hashes(folder)
    machine = _machine(row.figures["machine"] if row.figures else None)
    batch = (
        f"; {row.figures['users']} users a batch, median of {row.figures['repeats']}"
        if row.first.beams and row.figures
        else ""
    )
    return [f"Settings {settings}, dataset {dataset}, Semantic IDs {ids}; {machine}{batch}."]


def _hashes(folder: Path) -> list[str]:
    """SHA-256 of the resolved settings, and the content hashes of dataset and Semantic IDs, shortened."""
    hashes = (_json(folder / INPUTS) or {"hashes": {}})["hashes"]
    full = [file_hash(folder / CONFIG), hashes.get("dataset"), hashes.get("semantic_ids")]
    return [f"`{value[:DIGITS]}`" if value else MISSING for value in full]


def _machine(machine: dict[str, Any] | None) -> str:
    if machine is None:
        return MISSING
    code = f", code {machine['code']}" if "code" in machine else ""
    return f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}{code}"


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None
