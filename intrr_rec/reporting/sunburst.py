"""Prefixes as rings: each sector is a prefix, as wide as the share of items below it, coloured by its main category.

Legend of suffixes: I items, L residual levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from intrr_rec.reporting.plots import SERIES

# Sectors thinner than this share of the circle could be neither seen nor hit; they are drawn as one.
_THINNEST = 1 / 900
_RINGS = ((70.0, 150.0), (152.0, 205.0))
_LABEL_SHARE = 1 / 60
_LABEL_LETTERS = 26
_EXAMPLES = 3


@dataclass(frozen=True)
class Sector:
    """A prefix on the picture, or several thin ones.

    Attributes:
        ring: 0 for the inner one.
        start, end: turns from the top, clockwise.
        prefix: codes from the root; for merged sectors that of their parent.
        items: number of items below.
        merged: how many prefixes are drawn as this one; 1 for a sector of its own.
        label: most common category, -1 where none is known.
        label_items: how many of the items are in it.
        examples: dense ids of a few of its items.
    """

    ring: int
    start: float
    end: float
    prefix: tuple[int, ...]
    items: int
    merged: int
    label: int
    label_items: int
    examples: tuple[int, ...]


def sectors(codes_IL: np.ndarray, label_I: np.ndarray, within: Sequence[int] = ()) -> list[Sector]:
    """The two rings below a prefix, sectors of one category side by side, large ones first.

    Args:
        codes_IL: residual paths.
        label_I: category of each item, -1 for none.
        within: the prefix in the middle; the whole catalogue if empty.
    """
    depth = len(within)
    inside_I = np.flatnonzero((codes_IL[:, :depth] == np.asarray(within, codes_IL.dtype)).all(1))
    rings = codes_IL[inside_I, depth : depth + 2]
    order = np.lexsort(rings.T[::-1])
    items, rings = inside_I[order], rings[order]
    total = len(items)
    found: list[Sector] = []

    def sector(ring: int, start: float, prefix: tuple[int, ...], members: np.ndarray, merged: int = 1) -> Sector:
        known = label_I[members][label_I[members] >= 0]
        counts = np.bincount(known) if len(known) else np.zeros(0, int)
        label = int(counts.argmax()) if len(known) else -1
        end = start + len(members) / total
        examples = tuple(members[:_EXAMPLES].tolist())
        own = int(counts[label]) if label >= 0 else 0
        return Sector(ring, start, end, prefix, len(members), merged, label, own, examples)

    inner = [sector(0, 0.0, (*within, int(rings[run[0], 0])), items[run]) for run in _runs(rings[:, 0])]
    sizes: dict[int, int] = {}
    for part in inner:
        sizes[part.label] = sizes.get(part.label, 0) + part.items
    inner.sort(key=lambda part: (part.label < 0, -sizes[part.label], part.label, -part.items, part.prefix))
    members_of = {int(rings[run[0], 0]): run for run in _runs(rings[:, 0])}
    at = 0.0
    for part in inner:
        run = members_of[part.prefix[-1]]
        found.append(sector(0, at, part.prefix, items[run]))
        if rings.shape[1] == 2:
            children = sorted((run[child] for child in _runs(rings[run, 1])), key=lambda child: -len(child))
            wide = [child for child in children if len(child) / total >= _THINNEST]
            start = at
            for child in wide:
                found.append(sector(1, start, (*part.prefix, int(rings[child[0], 1])), items[child]))
                start = found[-1].end
            if thin := children[len(wide) :]:
                found.append(sector(1, start, part.prefix, items[np.concatenate(thin)], len(thin)))
        at += part.items / total
    return found


def draw(
    parts: Sequence[Sector],
    colour_of: dict[int, int],
    names: Sequence[str],
    titles: Callable[[int], str],
    *,
    by_category: bool,
) -> str:
    """The sectors as one `<svg>`; hovering names a sector's prefix, category and some titles.

    Args:
        parts: what `sectors` found.
        colour_of: category → series colour, 0 … 5; others are grey.
        names: category names.
        titles: title of a dense item.
        by_category: write categories around the rings, not titles.
    """
    drawn = [_sector(part, colour_of, names, titles) for part in parts]
    inner = [part for part in parts if part.ring == 0]
    drawn += _labels(inner, names, titles, by_category)
    total = sum(part.items for part in inner)
    said = f"Sunburst of {total} items: {len(inner)} prefixes in the inner ring"
    middle = f'<text text-anchor="middle" y="-2" fill="currentColor" font-size="17">{total:,}</text>'
    middle += '<text text-anchor="middle" y="16" fill="var(--muted)" font-size="12">items</text>'
    return f'<svg viewBox="-385 -385 770 770" role="img" aria-label="{said}">{"".join(drawn)}{middle}</svg>'


def _runs(sorted_values: np.ndarray) -> list[np.ndarray]:
    """Places of each value, for values in order."""
    places = np.arange(len(sorted_values))
    return np.split(places, np.flatnonzero(np.diff(sorted_values)) + 1)


def _sector(part: Sector, colour_of: dict[int, int], names: Sequence[str], titles: Callable[[int], str]) -> str:
    near, far = _RINGS[part.ring]
    start, end = part.start, min(part.end, part.start + 0.99999)  # an arc of a whole turn would vanish
    large = int(end - start > 0.5)
    corners = [_point(near, start), _point(far, start), _point(far, end), _point(near, end)]
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = corners
    path = f"M{ax} {ay}L{bx} {by}A{far} {far} 0 {large} 1 {cx} {cy}L{dx} {dy}A{near} {near} 0 {large} 0 {ax} {ay}Z"
    colour = colour_of.get(part.label)
    fill = "var(--muted)" if colour is None else f"var(--series-{colour % SERIES + 1})"
    opacity = (0.9 if part.ring == 0 else 0.6) if part.merged == 1 else 0.25
    where = ", ".join(map(str, part.prefix))
    lines = [f"{where}: {part.items:,} items" if part.merged == 1 else f"{part.merged:,} small prefixes below {where}"]
    if part.label >= 0:
        lines.append(f"{part.label_items / part.items:.0%} {names[part.label]}")
    lines += [titles(item) for item in part.examples]
    said = escape("\n".join(lines))
    return (
        f'<path d="{path}" fill="{fill}" fill-opacity="{opacity}" stroke="var(--page)" stroke-width=".6">'
        f"<title>{said}</title></path>"
    )


def _labels(
    inner: Sequence[Sector], names: Sequence[str], titles: Callable[[int], str], by_category: bool
) -> list[str]:
    """Words around the rings, for what is wide enough: runs of one category, or single sectors by a title."""
    runs: list[list[Sector]] = []
    for part in inner:
        if by_category and runs and runs[-1][0].label == part.label:
            runs[-1].append(part)
        else:
            runs.append([part])

    def word(part: Sector) -> str:
        if not by_category:
            return titles(part.examples[0])
        return names[part.label] if part.label >= 0 else "no category"

    return [_label((run[0].start + run[-1].end) / 2, word(run[0])) for run in runs if _width(run) >= _LABEL_SHARE]


def _width(run: Sequence[Sector]) -> float:
    return run[-1].end - run[0].start


def _label(turn: float, word: str) -> str:
    short = word if len(word) <= _LABEL_LETTERS else f"{word[: _LABEL_LETTERS - 1]}…"
    angle = 360 * turn - 90
    flip, anchor = (180, "end") if turn > 0.5 else (0, "start")
    x, y = _point(_RINGS[-1][1] + 8, turn)
    return (
        f'<text x="{x}" y="{y}" font-size="12" fill="currentColor" dominant-baseline="middle" text-anchor="{anchor}" '
        f'transform="rotate({angle + flip:.1f} {x} {y})">{escape(short)}</text>'
    )


def _point(radius: float, turn: float) -> tuple[float, float]:
    angle = 2 * math.pi * turn
    return round(radius * math.sin(angle), 2), round(-radius * math.cos(angle), 2)
