"""The picture of a page, one SVG file: equal figures give equal bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.tables.grid import Grid
from benchmarks.tables.rows import Row
from benchmarks.tables.tables import latencies

METRIC = "recall@10"
_RC = {
    "svg.hashsalt": "intrr",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}


def picture(grid: Grid, rows: Sequence[Row]) -> str | None:
    """The page's picture as SVG text; None where nothing is finished, or the page has none."""
    finished = [row for row in rows if row.figures]
    if not finished or grid.measure == "training":
        return None
    if grid.measure == "latency":
        return as_svg(lambda: _latency(grid, finished))
    if grid.picture == "curves":
        return as_svg(lambda: _curves(grid, rows))
    return as_svg(lambda: _bars(finished) if grid.picture == "bars" else _line(finished))


def as_svg(draw: Callable[[], Figure]) -> str:
    """What `draw` draws, in the style of all pages."""
    with rc_context(_RC):
        buffer = io.StringIO()
        draw().savefig(buffer, format="svg", metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"]))
    return _shortened(buffer.getvalue())


def _shortened(svg: str) -> str:
    """Hundredths of a point are enough of a coordinate, a path needs no line breaks and a text no list of fonts."""
    svg = re.sub(r' d="[^"]*"', lambda path: path[0].replace("\n", ""), svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: sans-serif", svg)
    svg = re.sub(r"\n +", "\n", svg)
    return re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)


def _curves(grid: Grid, rows: Sequence[Row]) -> Figure:
    """Validation Recall@10 by epoch: a panel a dataset and indexer, a line a model, of its first seed."""
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    size = (1.0 + 2.6 * len(grid.indexers), 0.8 + 1.9 * len(datasets))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(datasets), len(grid.indexers), squeeze=False, sharey="row")
    colours = {model.label: f"C{number}" for number, model in enumerate(grid.models)}
    shown: dict[str, object] = {}
    for across, indexer in enumerate(grid.indexers):
        for down, dataset in enumerate(datasets):
            axes = panels[down, across]
            axes.set_title(f"{dataset}, {indexer}")
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
            for row in rows:
                if row.curve and (row.dataset, row.indexer) == (dataset, indexer):
                    points = zip(*row.curve, strict=True)
                    (line,) = axes.plot(*points, color=colours[row.model.label], linewidth=1.2)
                    shown.setdefault(row.model.label, line)
    figure.legend(list(shown.values()), list(shown), loc="outside upper center", ncols=6)  # type: ignore[arg-type]
    figure.supylabel("validation Recall@10")
    figure.supxlabel("epoch")
    return figure


def _bars(rows: Sequence[Row]) -> Figure:
    """Test NDCG@10, a bar a row."""
    figure = Figure(figsize=(5.2, 0.6 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    spreads = [row.test["ndcg@10"] for row in rows]
    axes.barh(range(len(rows)), [s.mean for s in spreads], xerr=[s.sd or 0.0 for s in spreads], height=0.6, capsize=2)
    axes.set_yticks(range(len(rows)), [row.model.label for row in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.set_xlabel("test NDCG@10")
    return figure


def _line(rows: Sequence[Row]) -> Figure:
    """Test Recall@10 over the number that the label is, evenly spaced as in the paper's Fig. 4."""
    figure, axes = _plot("λ", "test Recall@10")
    spreads = [row.test[METRIC] for row in rows]
    axes.errorbar(
        range(len(rows)), [s.mean for s in spreads], yerr=[s.sd or 0.0 for s in spreads], marker="o", capsize=2
    )
    theirs = [(at, row.published[1]) for at, row in enumerate(rows) if len(row.published) > 1 and row.published[1]]
    if theirs:
        axes.plot(*zip(*theirs, strict=True), "x", color="C7", label="the paper's text")
        axes.legend()
    axes.set_xticks(range(len(rows)), [row.model.label for row in rows])
    return figure


def _latency(grid: Grid, rows: Sequence[Row]) -> Figure:
    figure, axes = _plot("beam width W", "ms a batch")
    for row in rows:
        axes.plot(grid.beams, latencies(grid, row), marker="o", label=row.model.label)  # type: ignore[arg-type]
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure


def _plot(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes
