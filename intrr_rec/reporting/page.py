"""What every page of ours is made with: the template environment, number formats, files read, figures of Semantic IDs."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import BaseModel, ValidationError

from intrr_rec.errors import ArtefactError
from intrr_rec.reporting import plots


class Level(BaseModel):
    """How one residual level uses its codes; fields as in `indexing.quality.level_quality`."""

    codes: int
    used: int | None = None
    dead: int | None = None
    entropy_ratio: float | None = None
    perplexity: float | None = None
    gini: float | None = None
    relative_error: float | None = None
    counts: list[int] = []


class Collisions(BaseModel):
    """Items on one path before the de-duplication digit; fields as in `indexing.quality.collision_quality`."""

    distinct_paths: int | None = None
    distinct_rate: float | None = None
    rate: float | None = None
    largest: int | None = None
    histogram: dict[int, int] = {}


class Purity(BaseModel):
    """A share of items or pairs that go together, and what chance alone would give."""

    share: float
    chance: float


class Quality(BaseModel):
    """quality.json of the semantic-ids artefact, as far as the page shows it."""

    levels: list[Level] = []
    collisions: Collisions = Collisions()
    neighbour_purity: list[Purity] = []
    category_purity: list[Purity] | None = None


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
    environment.filters |= {"number": _number, "duration": _duration, "path": _path, "percent": _percent}
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
        figures.append(Figure(plots.collisions(histogram), "Paths by the number of items they hold"))
    return figures


Record = TypeVar("Record", bound=BaseModel)


def read_record(path: Path, kind: type[Record], mend: str) -> Record | None:
    """A JSON file as `kind`; None where there is none. `mend` ends the line of an error."""
    text = read_text(path)
    if text is None:
        return None
    try:
        return kind.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "top level"
        raise ArtefactError(f"{path}: '{where}': {first['msg']}; {mend}") from None
    except ValueError as error:
        raise ArtefactError(f"{path}: is not JSON ({error}); {mend}") from None


def read_text(path: Path) -> str | None:
    """A text file; None where there is none.

    Raises:
        ArtefactError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{path}: cannot be read ({error}); mend or remove it") from None


def shell_word(path: Path) -> str:
    """The path as one word of a command to copy."""
    return shlex.quote(str(path))


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


def _path(sid: list[int]) -> str:
    return " · ".join(str(code) for code in sid)
