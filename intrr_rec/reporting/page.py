"""What every page of ours is made with: the template environment, number formats, files read, figures of Semantic IDs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from intrr_rec.reporting import plots
from intrr_rec.semantic_ids.quality.records import Quality


@dataclass(frozen=True)
class Figure:
    """An SVG fragment (see plots.py) and the words under it."""

    svg: str
    caption: str


def render(template: str, **values: Any) -> str:
    """The text of a page from one of the templates beside this file."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "duration": _duration, "sid": _sid, "percent": _percent}
    return environment.get_template(template).render(**values)


def usage_figures(quality: Quality | None) -> list[Figure]:
    """Use of each level's codes, then the histogram of collisions."""
    if quality is None:
        return []
    figures = []
    for number, level in enumerate(quality.levels, start=1):
        if level.counts:
            ratio = "" if level.entropy_ratio is None else f"entropy {level.entropy_ratio:.1%} of the maximum, "
            dead = sum(count == 0 for count in level.counts)
            caption = f"Level {number}: {ratio}{dead} dead of {level.codes} codes"
            figures.append(Figure(plots.usage(level.counts, level=number), caption))
    if histogram := quality.collisions.histogram:
        figures.append(Figure(plots.collisions(histogram), "Semantic IDs by the number of items that share them"))
    return figures


def _number(value: float | None, digits: int = 4) -> str:
    """A count with thousands apart, a real number with `digits` decimals, a dash for nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _sid(sid: list[int]) -> str:
    return " · ".join(str(code) for code in sid)
