"""Rows → Markdown tables. A figure that is not there yet is a dash; what the paper prints is in italics, a line below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from benchmarks.tables.figures import MISSING
from benchmarks.tables.grid import ACCURACY, Grid
from benchmarks.tables.rows import Row, twin
from intrr_rec.runs.records import Spread

SHORT = {"recall@5": "R@5", "recall@10": "R@10", "ndcg@5": "N@5", "ndcg@10": "N@10"}


def accuracy_table(grid: Grid, name: str, rows: Sequence[Row]) -> str:
    """Test metrics of the rows of one dataset, most-popular below."""
    head = [grid.rows, *SHORT.values(), _compared(grid), "seeds", "command"]
    lines = []
    for row in rows:
        other = twin(row, rows)
        gain = mean_gain(row.test, other.test, grid.compare) if other else None
        figures = [_spread(row.test.get(metric)) for metric in ACCURACY]
        lines.append([row.model.label, *figures, _percent(gain), _seeds(row), command(name, row.first.name)])
        if row.published:
            metrics = list(map(_fraction, row.published[:-1]))
            lines.append(["*the paper*", *_italics([*metrics, _percent(row.published[-1])]), "", ""])
    baseline = next((each.baseline for row in rows for each in row.figures if each.baseline), None)
    popular = [_fraction(baseline.metrics.get(metric)) if baseline else MISSING for metric in ACCURACY]
    lines.append(["most popular", *popular, MISSING, MISSING, "beside every run"])
    return _with_indexers(grid, rows, head, lines)


def training_table(grid: Grid, name: str, rows: Sequence[Row]) -> str:
    """Throughput and memory of training; the paper's samples a second beside our users and targets a second."""
    head = [
        grid.rows,
        "users/s",
        "targets/s",
        "samples/s",
        "memory, GB",
        "process, GB",
        "Δ speed",
        "Δ memory",
        "command",
    ]
    lines = []
    for row in rows:
        other = twin(row, rows)
        ours, baseline = _training_figures(row), _training_figures(other) if other else {}
        line = [_number(ours.get("users")), _number(ours.get("targets")), MISSING]
        line += [_number(ours.get("memory"), 2), _number(ours.get("process"), 2)]
        line += [_ratio(ours, baseline, key) for key in ("users", "memory")]
        lines.append([row.model.label, *line, command(name, row.first.name)])
        if row.published:
            theirs = dict(zip(("samples", "memory"), row.published, strict=True))
            published = dict(zip(("samples", "memory"), other.published, strict=False)) if other else {}
            line = ["", "", _number(theirs["samples"], 1), _number(theirs["memory"], 2), ""]
            line += [_ratio(theirs, published, key) for key in ("samples", "memory")]
            lines.append(["*the paper*", *_italics(line), ""])
    return _with_indexers(grid, rows, head, lines)


def latency_table(grid: Grid, name: str, rows: Sequence[Row]) -> str:
    """Milliseconds a batch by beam width, and how many times faster than the row compared with."""
    head = [grid.rows, *(f"W = {beam}" for beam in grid.beams), "command"]
    lines = []
    for row in rows:
        other, ours = twin(row, rows), latencies(grid, row)
        lines.append([row.model.label, *(_number(value, 1) for value in ours), command(name, row.first.name)])
        if row.published:
            lines.append(["*the paper*", *_italics(_number(value, 1) for value in row.published), ""])
        if other:
            lines.append(["times as fast", *_times(latencies(grid, other), ours), f"as {other.model.label}"])
        if other and row.published and other.published:
            lines.append(["*the paper*", *_italics(_times(other.published, row.published)), ""])
    return _markdown(head, lines)


TABLES: dict[str, Callable[[Grid, str, Sequence[Row]], str]] = {
    "accuracy": accuracy_table,
    "training": training_table,
    "latency": latency_table,
}


def mean_gain(ours: dict[str, Spread], theirs: dict[str, Spread], metrics: Sequence[str]) -> float | None:
    """Mean relative difference over metrics, in percent (IntRR Table 1's Imp.); None where a figure is missing or nought."""
    pairs = [(ours.get(metric), theirs.get(metric)) for metric in metrics]
    gains = [a.mean / b.mean - 1 for a, b in pairs if a and b and b.mean]
    return 100 * sum(gains) / len(gains) if len(gains) == len(metrics) else None


def latencies(grid: Grid, row: Row) -> list[float | None]:
    """Milliseconds at each of the grid's beam widths."""
    return [row.measured["milliseconds"][str(beam)] if row.measured else None for beam in grid.beams]


def command(grid: str, name: str) -> str:
    """What makes the figures of a row."""
    return f"`python -m benchmarks.tables {grid} --only {name}`"


def _training_figures(row: Row) -> dict[str, float]:
    if row.measured is None:
        return {}
    at_rest, peak = row.measured["memory_at_rest_gb"], row.measured["training_peak_memory_gb"]
    return {
        "users": row.measured["users_per_second"],
        "targets": row.measured["targets_per_second"],
        "memory": peak - at_rest,
        "process": peak,
    }


def _with_indexers(grid: Grid, rows: Sequence[Row], head: list[str], lines: list[list[str]]) -> str:
    """A column of indexers before the others, where the grid has several; lines that are no row of ours have none."""
    if len(grid.indexers) == 1:
        return _markdown(head, lines)
    named = iter(rows)
    labels = {row.model.label for row in rows}
    first = [f"`{next(named).indexer}`" if line[0] in labels else "" for line in lines]
    return _markdown(["indexer", *head], [[own, *line] for own, line in zip(first, lines, strict=True)])


def _markdown(head: list[str], lines: Iterable[list[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines])


def _compared(grid: Grid) -> str:
    return "Imp." if grid.compare == ACCURACY else "Δ " + ", ".join(SHORT[metric] for metric in grid.compare)


def _seeds(row: Row) -> str:
    return ", ".join(map(str, row.seeds)) or MISSING


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return MISSING
    return _fraction(spread.mean) + (f" ± {_fraction(spread.sd)}" if spread.sd is not None else "")


def _fraction(value: float | None) -> str:
    return MISSING if value is None else f"{value:.4f}".replace("0.", ".", 1)


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{value:+.1f} %"


def _number(value: float | None, digits: int = 0) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"


def _ratio(ours: Mapping[str, float | None], theirs: Mapping[str, float | None], key: str) -> str:
    a, b = ours.get(key), theirs.get(key)
    return _percent(100 * (a / b - 1) if a and b else None)


def _times(slow: Sequence[float | None], fast: Sequence[float | None]) -> list[str]:
    return [f"{a / b:.2f}×" if a and b else MISSING for a, b in zip(slow, fast, strict=True)]


def _italics(cells: Iterable[str]) -> list[str]:
    return [f"*{cell}*" if cell not in ("", MISSING) else cell for cell in cells]
