"""The rows of a table as the pages need them: the finished cells of a model under a dataset and an indexer, over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from benchmarks.tables.cells import FIGURES, Cell, Workplace
from benchmarks.tables.grid import Grid, Variant
from intrr_rec.runs.records import RunResults, Spread, read_run, summarize
from intrr_rec.runs.run_files import METRICS


@dataclass(frozen=True)
class Row:
    """A model under a dataset and an indexer.

    `cells` are its finished cells, a seed each. `published` are the paper's figures in the order of the page's columns, or
    nothing.
    """

    model: Variant
    first: Cell  # whichever seed: the name and the settings
    cells: tuple[Cell, ...]
    published: tuple[float | None, ...]
    place: Workplace

    @property
    def dataset(self) -> str:
        """Name of the descriptor."""
        return self.first.dataset.stem

    @property
    def indexer(self) -> str:
        """As the grid calls it."""
        return self.first.indexer

    @cached_property
    def runs(self) -> list[RunResults]:
        """Results of the finished runs (measure accuracy)."""
        return [read_run(self.place.folder(cell)) for cell in self.cells]

    @cached_property
    def test(self) -> dict[str, Spread]:
        """Test metrics over seeds; empty where nothing is finished."""
        return summarize(self.runs) if self.runs else {}

    @cached_property
    def figures(self) -> dict[str, Any] | None:
        """What was measured (measures training and latency)."""
        if not self.cells:
            return None
        return json.loads((self.place.folder(self.first) / FIGURES).read_text())

    def validation(self, metric: str) -> list[tuple[float, float]]:
        """(epoch, metric) at every validation of the first finished run."""
        lines = map(json.loads, (self.place.folder(self.cells[0]) / METRICS).read_text().splitlines())
        return [(line["epoch"], line[metric]) for line in lines if line["split"] == "valid"]


def gather(grid: Grid, cells: Sequence[Cell], place: Workplace) -> list[Row]:
    """The rows of a grid, by dataset, indexer and model as the grid lists them."""
    models = {model.label: model for model in grid.models}
    by_name: dict[str, list[Cell]] = {}
    for cell in cells:
        by_name.setdefault(cell.name, []).append(cell)
    rows = []
    for seeds in by_name.values():
        first = seeds[0]
        finished = tuple(cell for cell in seeds if place.state(cell) == "finished")
        published = grid.published.get(first.dataset.stem, {}).get(first.indexer, {}).get(first.label, ())
        rows.append(Row(models[first.label], first, finished, published, place))
    return rows


def twin(row: Row, rows: Sequence[Row]) -> Row | None:
    """The row that this one is compared with."""
    for other in rows:
        if (other.dataset, other.indexer, other.model.label) == (row.dataset, row.indexer, row.model.against):
            return other
    return None
