"""A grid's page: what was run on what, its tables, its picture, its cards. Made of figures alone, never edited."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tables.cards import card
from benchmarks.tables.cells import Cell, Workplace
from benchmarks.tables.figures import keep, read_kept
from benchmarks.tables.grid import Grid
from benchmarks.tables.pictures import picture
from benchmarks.tables.rows import Row, gather
from benchmarks.tables.tables import TABLES
from intrr_rec.data.raw.descriptors import load_descriptor
from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.atomic import write_text

HOW = {
    "accuracy": "Leave-one-out on the full catalogue, already-seen items included; the checkpoint is the one with the best "
    "validation Recall@10. Mean ± standard deviation where there are several seeds; with one, nothing here says how much of a "
    "difference is chance.",
    "training": "One epoch through the trainer's own loop after a warm-up, each row in a process of its own. *Memory* is what the "
    "model, the optimizer and the steps add to the process that has read its inputs; *process* is the whole. The authors do "
    "not say what their samples are.",
    "latency": "From a batch of histories to ranked items, median of the repeats on each card. Weights are random, which leaves the "
    "work the same; every history has all N items; the tokens of the catalogue (IntRR) are made beforehand; the flattened "
    "model caches keys and values, so that it reads a history once.",
}


def write_page(grid: Grid, name: str, cells: Sequence[Cell], place: Workplace, docs: Path) -> Path:
    """Write `<name>.md` and, where there is something to draw, `<name>.svg` into `docs`; returns the page.

    Figures in the work folder are added to those kept beside the page (`<name>.json`).

    Raises:
        ArtefactError: a file of a finished run or of what is kept cannot be read, or the page that is there has more rows with
            figures than the new one would have.
    """
    page = docs / f"{name}.md"
    kept = read_kept(page)
    rows = gather(grid, cells, place, kept)
    _require_no_loss(page, sum(bool(row.figures) for row in rows))
    drawn = picture(grid, rows)
    if drawn:
        write_text(docs / f"{name}.svg", drawn)
    else:
        (docs / f"{name}.svg").unlink(missing_ok=True)
    write_text(page, _page(grid, name, rows, with_picture=drawn is not None))
    names = {row.first.name for row in rows}
    figures = [figures for row in rows for figures in row.figures]
    # What is kept of cells that the grid no longer names stays: a grid may name them again.
    figures += [each for each in kept if each.cell not in names]
    if figures:
        keep(page, figures)
    return page


def _require_no_loss(page: Path, done: int) -> None:
    """Refuse to write over a page of more rows, whose figures were never kept beside it."""
    before = re.search(r"; (\d+) of \d+ rows have figures", page.read_text()) if page.is_file() else None
    if before and int(before[1]) > done:
        raise ArtefactError(
            f"{page}: has figures in {before[1]} rows, and the work folder and {page.with_suffix('.json').name} have them for "
            f"{done}; give the --work of those runs, or remove the page to write it without them"
        )


def _page(grid: Grid, name: str, rows: Sequence[Row], *, with_picture: bool) -> str:
    done = sum(bool(row.figures) for row in rows)
    parts = [
        f"# {grid.title}",
        f"Written by `python -m benchmarks.tables {name}`, never by hand; {done} of {len(rows)} rows have figures, – stands for what is not there.",
        HOW[grid.measure],
        *grid.notes,
        *_indexers(grid, rows),
    ]
    if with_picture:
        parts.append(f"![{grid.title}]({name}.svg)")
        if grid.measure == "accuracy" and grid.picture == "curves":
            parts.append("Validation Recall@10 by epoch, of the first seed.")
    for dataset in dict.fromkeys(row.dataset for row in rows):
        own = [row for row in rows if row.dataset == dataset]
        descriptor = load_descriptor(own[0].first.dataset)
        parts += [f"## {descriptor.title}", f"{_counts(own)}Vectors: {descriptor.about_vectors}."]
        parts.append(TABLES[grid.measure](grid, name, own))
    parts += [
        "## Cards",
        "SHA-256, shortened: of the resolved settings (`config.yaml` of the run), and of what the artefacts hold.",
        *(card(name, row) for row in rows if row.figures),
    ]
    return "\n\n".join(parts) + "\n"


def _counts(rows: Sequence[Row]) -> str:
    counts = (
        next((each.counts for row in rows for each in row.figures if each.counts), None) if _trained(rows) else None
    )
    if counts is None:
        return ""
    return f"{counts.users:,} users, {counts.items:,} items, {counts.interactions:,} interactions. "


def _trained(rows: Sequence[Row]) -> bool:
    return rows[0].first.measure == "accuracy"


def _indexers(grid: Grid, rows: Sequence[Row]) -> list[str]:
    said = []
    for indexer in grid.indexers:
        row = next((row for row in rows if row.indexer == indexer and not row.first.problem), None)
        if row is None:
            continue
        index = row.first.recipe.index
        sizes = " × ".join(map(str, index.sizes))
        said.append(
            f"`{indexer}`: method {index.method}, codes {sizes}, then a digit of {index.dedup_codes}; "
            f"collisions by {index.collisions}, seed {index.seed}"
        )
    return (
        ["Semantic IDs, all other settings at their defaults:", "\n".join(f"- {line}" for line in said)] if said else []
    )
