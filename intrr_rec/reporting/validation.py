"""What an examination of raw logs found, in the terminal and as one self-contained page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from intrr_rec.config import PrepareConfig
from intrr_rec.data.validate.findings import Examination, Extent, Severity
from intrr_rec.data.validate.validate import examine
from intrr_rec.errors import DataError
from intrr_rec.io.console import console
from intrr_rec.io.disk.atomic import write_text
from intrr_rec.io.disk.room import require_writable
from intrr_rec.reporting import plots
from intrr_rec.reporting.page import Figure, render

_STYLE: dict[Severity, tuple[str, str]] = {
    "error": ("✘", "bold red"),
    "warning": ("!", "yellow"),
    "fine": ("✔", "green"),
}
_ORDER: tuple[Severity, ...] = ("error", "warning", "fine")


def validate(
    name: str,
    interactions: Sequence[Path],
    items: Path | None,
    config: PrepareConfig,
    out: Path,
    users: Path | None = None,
) -> None:
    """Examine raw logs, print what was found and write it to the page `out`.

    Raises:
        DataError: an error was found.
        PlaceError: the page cannot be written; known before anything is read.
    """
    require_writable(out)
    found = examine(name, interactions, items, config, users)
    screen = console(markup=False)
    show(found, screen)
    write_text(out, page(found))
    screen.print(f"with plots: {out}", style="dim")
    if errors := found.of("error"):
        first = errors[0]
        more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
        raise DataError(f"{name}: {first.says}{more}; fix it before `intrr prepare`")


def show(found: Examination, screen: Console) -> None:
    """Print the findings, errors first."""
    table = Table(title=f"{found.name}: {_headline(found)}", title_justify="left", show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=1)
    for severity in _ORDER:
        mark, style = _STYLE[severity]
        for finding in found.of(severity):
            said = Text(finding.says)
            if finding.advice:
                said.append(f"\n{finding.advice}", style="dim")
            table.add_row(Text(mark, style=style), finding.check, said)
    screen.print(table)


def page(found: Examination) -> str:
    """The page of an examination."""
    return render(
        "validation.html.j2",
        name=found.name,
        found=found,
        headline=_headline(found),
        groups=[(severity, _STYLE[severity][0], found.of(severity)) for severity in _ORDER],
        figures=_figures(found),
        extents=[
            (said, extent, _density(extent))
            for said, extent in (("as read", found.raw), ("kept", found.kept))
            if extent
        ],
    )


def _headline(found: Examination) -> str:
    errors, warnings = len(found.of("error")), len(found.of("warning"))
    return f"{_count(errors, 'error')}, {_count(warnings, 'warning')}, {_count(len(found.of('fine')), 'check')} without complaint"


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'s' * (number != 1)}"


def _density(extent: Extent) -> float:
    return extent.interactions / max(1, extent.users * extent.items)


def _figures(found: Examination) -> list[Figure]:
    figures = []
    if found.lengths:
        said = f"Histories by their length: median {_median(found.lengths):,}"
        figures.append(
            Figure(plots.spread(found.lengths, x_label="interactions of a user", y_label="users of that length"), said)
        )
    if found.popularity:
        said = f"Items by their interactions: the first hundredth has {_top_share(found.popularity):.0%} of all"
        figures.append(
            Figure(
                plots.spread(found.popularity, x_label="interactions of an item", y_label="items with as many"), said
            )
        )
        picture = plots.ranked(found.popularity, x_label="items, most popular first", y_label="interactions")
        figures.append(Figure(picture, "Popularity by rank: a straight line is a power law"))
    if found.periods:
        figures.append(Figure(plots.timeline(found.periods, y_label="interactions"), "Interactions over time"))
    return figures


def _median(values: Mapping[int, int]) -> int:
    sizes = sorted(values)
    ends = np.cumsum([values[size] for size in sizes])
    return sizes[int(np.searchsorted(ends, ends[-1] / 2))]


def _top_share(popularity: Mapping[int, int]) -> float:
    """Share of the interactions that the most popular hundredth of the items (at least one) has."""
    left = max(1, sum(popularity.values()) // 100)
    taken = 0
    for size in sorted(popularity, reverse=True):
        here = min(left, popularity[size])
        taken += here * size
        left -= here
    return taken / sum(size * items for size, items in popularity.items())
