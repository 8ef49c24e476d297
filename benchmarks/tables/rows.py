"""The rows of a table as the pages need them: the figures of a model under a dataset and an indexer, over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks.tables.cells import Cell, Workplace
from benchmarks.tables.figures import Figures, figures_of, merge, pool
from benchmarks.tables.grid import Grid, Variant
from intrr_rec.runs.records import Spread


@dataclass(frozen=True)
class Row:
    """A model under a dataset and an indexer.

    `figures` are those of its finished cells, by seed. `published` are the paper's figures in the order of the page's columns,
    or nothing.
    """

    model: Variant
    first: Cell  # whichever seed: the name and the settings
    figures: tuple[Figures, ...]
    published: tuple[float | None, ...]

    @property
    def dataset(self) -> str:
        """Name of the descriptor."""
        return self.first.dataset.stem

    @property
    def indexer(self) -> str:
        """As the grid calls it."""
        return self.first.indexer

    @property
    def seeds(self) -> list[int]:
        """Of the runs."""
        return [seed for figures in self.figures for seed in figures.seeds]

    @cached_property
    def test(self) -> dict[str, Spread]:
        """Test metrics over seeds; empty where nothing is finished."""
        names = self.figures[0].test if self.figures else ()
        return {name: pool([figures.test[name] for figures in self.figures]) for name in names}

    @property
    def measured(self) -> dict[str, Any] | None:
        """What was measured (measures training and latency)."""
        return self.figures[0].measured if self.figures else None

    @property
    def curve(self) -> tuple[tuple[float, float], ...]:
        """(epoch, validation Recall@10) at every validation of the first run that has kept them."""
        return next((figures.curve for figures in self.figures if figures.curve), ())


def gather(grid: Grid, cells: Sequence[Cell], place: Workplace, kept: Sequence[Figures] = ()) -> list[Row]:
    """The rows of a grid, by dataset, indexer and model as the grid lists them.

    Args:
        grid: the table.
        cells: of the grid.
        place: where their runs lie.
        kept: figures of runs that may be there no more.

    Raises:
        ArtefactError: a file of a finished run cannot be read.
    """
    models = {model.label: model for model in grid.models}
    by_name: dict[str, list[Cell]] = {}
    for cell in cells:
        by_name.setdefault(cell.name, []).append(cell)
    rows = []
    for name, seeds in by_name.items():
        first = seeds[0]
        finished = [figures_of(cell, place) for cell in seeds if place.state(cell) == "finished"]
        figures = merge(finished, [figures for figures in kept if figures.cell == name])
        published = grid.published.get(first.dataset.stem, {}).get(first.indexer, {}).get(first.label, ())
        rows.append(Row(models[first.label], first, tuple(figures), published))
    return rows


def twin(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row that this one is compared with."""
    for other in rows:
        if (other.dataset, other.indexer, other.model.label) == (row.dataset, row.indexer, row.model.against):
            return other
    return None
