"""Figures of a run as SVG fragments for an HTML page.

Every function returns the text of one `<svg>` element that stands alone: no external reference, ids that differ from
those of every other figure on the page, and colours named as CSS variables, so that the page's own light and dark
styles apply. Text stays text, in the page's font.

Legend of suffixes: K codes, L levels.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, StrMethodFormatter

Points = Sequence[tuple[float, float]]

SERIES = 6
# matplotlib wants real colours: these stand-ins, used nowhere else, become CSS variables in `_svg`.
_INK, _MUTED, _MARK = "#010203", "#010204", "#010205"
_COLOURS = [f"#0102{0x10 + number:02x}" for number in range(SERIES)]
_CSS = {_INK: "currentColor", _MUTED: "var(--muted)", _MARK: "var(--mark)"} | {
    colour: f"var(--series-{number + 1})" for number, colour in enumerate(_COLOURS)
}
_STYLES = ["-", "--", "-.", ":"]
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "intrr",
    "font.size": 10,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": _MUTED,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "lines.linewidth": 1.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
}
_WIDTH = 5.0
_MAX_POINTS = 400


def curves(series: Mapping[str, Points], *, x_label: str, title: str, best: float | None = None) -> str:
    """Lines over the course of training.

    Args:
        series: name → (x, y) points in order of x; points that are not finite are left out of their line.
        x_label: what x counts.
        title: what the figure shows, for a reader who cannot see it.
        best: x of the checkpoint that was kept, marked by a vertical line.
    """
    with rc_context(_RC):
        figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained")
        axes = figure.add_subplot()
        heights: set[float] = set()
        for number, (name, points) in enumerate(series.items()):
            x, y = _thin(points)
            heights.update(y.tolist())
            # Lines beyond the palette repeat its colours, so the dash pattern must tell them apart too.
            style = _STYLES[(number // SERIES + number % SERIES) % len(_STYLES)]
            marker = "o" if len(x) == 1 else None
            axes.plot(x, y, style, color=_COLOURS[number % SERIES], label=name, marker=marker)
        if best is not None:
            axes.axvline(best, color=_MARK, linewidth=1, linestyle=(0, (2, 3)), label="best")
        if len(heights) == 1 and (constant := heights.pop()) > 0:
            axes.set_ylim(0, 2 * constant)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if len(axes.lines) > 1:
            figure.legend(loc="outside upper left", ncols=5, handlelength=1.8, columnspacing=1.0)
        return _svg(figure, f"{title}: {', '.join(series)} over {x_label}")


def bands(names: Sequence[str], series: Mapping[str, Sequence[float | None]], *, x_label: str) -> str:
    """Bars of several figures side by side, one group a band of users.

    Args:
        names: of the bands, below their groups.
        series: name → a value a band, None where there is none.
        x_label: what the bands are bands of.
    """
    with rc_context(_RC):
        figure = Figure(figsize=(_WIDTH, 2.9), layout="constrained")
        axes = figure.add_subplot()
        width = 0.8 / len(series)
        for number, (name, values) in enumerate(series.items()):
            places = np.arange(len(names)) + (number - (len(series) - 1) / 2) * width
            heights = [math.nan if value is None else value for value in values]
            axes.bar(places, heights, width, color=_COLOURS[number % SERIES], label=name)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.tick_params(axis="x", length=0)
        axes.set_xlabel(x_label)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        figure.legend(loc="outside upper left", ncols=5, handlelength=1.2, columnspacing=1.0)
        said = "; ".join(
            f"{name}: {', '.join('none' if v is None else f'{v:.4f}' for v in values)}"
            for name, values in series.items()
        )
        shown = ", ".join(name.replace("\n", " ") for name in names)
        return _svg(figure, f"By {x_label} ({shown}): {said}")


def spread(values: Mapping[int, int], *, x_label: str, y_label: str) -> str:
    """How many have each value, on a logarithmic axis; where a bar spans several values, their mean.

    Args:
        values: value (at least 1) → how many have it.
        x_label: what is counted, for one of them.
        y_label: what they are.
    """
    sizes, counts = np.array(sorted(values)), np.array([values[size] for size in sorted(values)])
    edges = np.unique(np.geomspace(sizes[0], sizes[-1] + 1, 25).round().astype(int))
    heights = np.histogram(sizes, edges, weights=counts)[0] / np.diff(edges)
    with rc_context(_RC):
        figure = Figure(figsize=(_WIDTH, 2.4), layout="constrained")
        axes = figure.add_subplot()
        axes.stairs(heights, edges, fill=True, color=_COLOURS[0])
        axes.set_xscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter("")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        middle = sizes[np.searchsorted(np.cumsum(counts), counts.sum() / 2)]
        return _svg(figure, f"{y_label} by {x_label}: from {sizes[0]} to {sizes[-1]}, median {middle}")


def ranked(values: Mapping[int, int], *, x_label: str, y_label: str) -> str:
    """Values from the largest down, both axes logarithmic: a power law is a straight line.

    Args:
        values: value → how many have it.
        x_label: what is ranked.
        y_label: what the values count.
    """
    sizes = np.array(sorted(values, reverse=True))
    ends = np.cumsum([values[size] for size in sizes])
    ranks = np.column_stack([np.append(1, ends[:-1] + 1), ends]).reshape(-1)
    with rc_context(_RC):
        figure = Figure(figsize=(_WIDTH, 2.4), layout="constrained")
        axes = figure.add_subplot()
        keep = np.unique(np.linspace(0, len(ranks) - 1, 2 * _MAX_POINTS).round().astype(int))
        axes.plot(ranks[keep], np.repeat(sizes, 2)[keep], color=_COLOURS[0])
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axis.set_minor_formatter("")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _svg(figure, f"{y_label} by {x_label}: {sizes[0]} at the top of {ends[-1]}, {sizes[-1]} at its end")


def timeline(periods: Mapping[int, int], *, y_label: str) -> str:
    """Counts over stretches of time, by the second (since 1970) each begins."""
    starts = np.array(sorted(periods))
    width = starts[1] - starts[0] if len(starts) > 1 else 86_400
    edges = np.append(starts, starts[-1] + width)
    days = edges / 86_400
    with rc_context(_RC):
        figure = Figure(figsize=(_WIDTH, 2.4), layout="constrained")
        axes = figure.add_subplot()
        axes.stairs([periods[start] for start in starts], days, fill=True, color=_COLOURS[2])
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda day, _: str(np.datetime64(int(day), "D"))))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.set_ylabel(y_label)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        return _svg(figure, f"{y_label} over {len(starts)} stretches of {width / 86_400:.0f} days")


def usage(counts_K: Sequence[int], *, level: int) -> str:
    """Items a code holds at one level, codes sorted by that number, against the even share."""
    sorted_K = np.sort(np.asarray(counts_K, dtype=float))[::-1]
    with rc_context(_RC):
        figure = Figure(figsize=(_WIDTH, 2.2), layout="constrained")
        axes = figure.add_subplot()
        _bars(axes, sorted_K, _COLOURS[0])
        axes.axhline(sorted_K.mean(), color=_MARK, linewidth=1.2, linestyle="--", label="even share")
        axes.set_xlabel(f"codes of level {level}, most used first")
        axes.set_ylabel("items")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.legend(loc="upper right")
        return _svg(figure, f"Items per code at level {level}: from {sorted_K[0]:.0f} down to {sorted_K[-1]:.0f}")


def collisions(groups: Mapping[int, int]) -> str:
    """How many Semantic IDs, before the digit, are shared by 1, 2, 3, … items (log scale)."""
    sizes = sorted(groups)
    with rc_context(_RC):
        figure = Figure(figsize=(_WIDTH, 2.2), layout="constrained")
        axes = figure.add_subplot()
        axes.bar(sizes, [groups[size] for size in sizes], color=_COLOURS[1], width=0.8)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_minor_formatter("")
        axes.set_xlabel("items that share one Semantic ID")
        axes.set_ylabel("Semantic IDs")
        axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        said = ", ".join(f"{groups[size]} hold {size}" for size in sizes[:6])
        return _svg(figure, f"Semantic IDs by the number of items that share them: {said}")


def redistribution(p_K: Sequence[Sequence[float]], codes: Sequence[int], names: Sequence[str], *, level: int) -> str:
    """The distribution p (IntRR Eq. 5) over one level's codes, one aligned strip an item, as in the paper's Fig. 3.

    Args:
        p_K: one distribution an item.
        codes: each item's ground-truth code, marked in its strip.
        names: a short name an item.
        level: counted from 1.
    """
    rows = [np.nan_to_num(np.asarray(row, dtype=float)) for row in p_K]
    top = max(max(float(row_K.max()) for row_K in rows), 1e-9)
    said = []
    with rc_context(_RC):
        figure = Figure(figsize=(_WIDTH, 0.45 + 1.15 * len(names)), layout="constrained")
        strips = figure.subplots(len(names), sharex=True, sharey=True, squeeze=False)[:, 0]
        for number, (row_K, code, name, axes) in enumerate(zip(rows, codes, names, strips, strict=True)):
            peak = int(row_K.argmax())
            at_code = float(row_K[code]) if 0 <= code < len(row_K) else math.nan
            text = f"SID {code}: p = {at_code:.2f}"
            if peak != code:
                text += f"; peak {peak}: p = {row_K[peak]:.2f}"
            _bars(axes, row_K, _COLOURS[number % SERIES])
            axes.axvline(code, color=_MARK, linewidth=0.8, linestyle=(0, (2, 3)))
            axes.plot([code], [top * 1.15], marker="v", color=_MARK, markersize=6, clip_on=False)
            axes.set_title(f"{name}: {text}", loc="left", fontsize=10)
            axes.set_xlim(-1, max(len(row_K) for row_K in rows))
            axes.set_ylim(0, top * 1.25)
            axes.yaxis.set_major_locator(MaxNLocator(2))
            said.append(f"{name}, {text}")
        axes.set_xlabel(f"codes of level {level}")
        return _svg(figure, f"Distribution over the codes of level {level}. {'. '.join(said)}")


def _bars(axes: Axes, values_K: np.ndarray, colour: str) -> None:
    """One filled path, whatever K is; beyond `_MAX_POINTS` codes a bar is the largest of several neighbours."""
    step = -(-len(values_K) // _MAX_POINTS)
    edges = np.append(np.arange(0, len(values_K), step), len(values_K)) - 0.5
    axes.stairs(np.maximum.reduceat(values_K, np.arange(0, len(values_K), step)), edges, fill=True, color=colour)


def _thin(points: Points) -> tuple[np.ndarray, np.ndarray]:
    """At most `_MAX_POINTS` points: means of equal runs of neighbours."""
    finite = np.array([point for point in points if math.isfinite(point[1])], dtype=float).reshape(-1, 2)
    parts = np.array_split(finite, min(len(finite), _MAX_POINTS)) if len(finite) else []
    means = np.array([part.mean(axis=0) for part in parts]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def _svg(figure: Figure, described: str) -> str:
    """The drawn figure as an inline `<svg>`, cleaned of what belongs to a file of its own."""
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", transparent=True, metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"])
    )
    drawn = buffer.getvalue()
    own = hashlib.sha256((described + drawn).encode()).hexdigest()[:8]
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn)[0]
    body = drawn[drawn.index("<g id=") : drawn.rindex("</svg>")]
    referred = set(re.findall(r"#(\w+)", body))
    body = re.sub(r' id="([^"]*)"', lambda match: f' id="{own}-{match[1]}"' if match[1] in referred else "", body)
    body = re.sub(r"url\(#(\w+)\)", rf"url(#{own}-\1)", body)
    body = re.sub(r'xlink:href="#(\w+)"', rf'href="#{own}-\1"', body)
    body = re.sub(r" font-family: [^;\"]*;?", "", body)
    body = re.sub(r' d="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]).replace("\n", ""), body)
    for stand_in, css in _CSS.items():
        body = body.replace(stand_in, css)
    label = escape(described)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{body}</svg>'
