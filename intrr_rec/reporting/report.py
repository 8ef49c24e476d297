"""A run folder → one self-contained `report.html`.

The page is made from what the other verbs left in the folder and from nothing else: config.yaml (needed), plan.txt,
metrics.jsonl, results.json, inspection.json (each optional; its section then names the command that brings it).
Numbers are shown as they were recorded, none is recomputed but ratios.

Legend of suffixes: K codes, L levels.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from intrr_rec.errors import ArtefactError
from intrr_rec.evaluation.slices import SLICED_BY, band_name
from intrr_rec.io.disk.atomic import write_text
from intrr_rec.io.disk.room import require_writable
from intrr_rec.io.formats.records import read_record, read_sealed_text, shell_word
from intrr_rec.reporting import plots
from intrr_rec.reporting.page import Figure, render, usage_figures
from intrr_rec.runs.metrics_file import metric_lines
from intrr_rec.runs.records import FIX, Results, read_results
from intrr_rec.runs.run_record import FIX as AGAIN

_MAX_EXAMPLES = 12
_MAX_SHARING = 6
_HEADLINE = ("recall@10", "ndcg@10")
_NOT_FIGURES = {"step", "epoch", "split", "seconds"}
_PER_LEVEL = re.compile(r"(.+)_l(\d+)")
_AT_CUTOFF = re.compile(r"(.+)@(\d+)")


class Item(BaseModel):
    """An item as people see it."""

    item_id: int | str
    title: str | None = None
    sid: list[int] = []

    @property
    def label(self) -> str:
        """The title, or the id where there is none."""
        return self.title or f"item {self.item_id}"


class Redistributed(Item):
    """An item with its assignment distributions: `levels[l][k]` is p of IntRR Eq. 5."""

    levels: list[list[float]] = Field(min_length=1)


class Recommended(Item):
    """An item of the ranked list."""

    score: float | None = None


class Example(BaseModel):
    """One test user: what was seen, what came next, what was recommended."""

    user_id: int | str
    history: list[Item]
    target: Item
    recommended: list[Recommended]


class Inspection(BaseModel):
    """inspection.json: single items and users to look at."""

    redistribution: list[Redistributed] = []
    examples: list[Example] = []


def write_report(run: Path) -> Path:
    """Write `run/report.html` from the files in the run folder and return its path.

    Raises:
        ArtefactError: `run` is no run folder, or one of its files cannot be read.
        PlaceError: the folder cannot be written.
    """
    run = Path(run)
    if not run.is_dir():
        raise ArtefactError(f"{run}: no such run folder; train first with `intrr train --out {shell_word(run)}`")
    config = read_sealed_text(run / "config.yaml", AGAIN)
    if config is None:
        raise ArtefactError(f"{run}: has no config.yaml, so it is not a run folder; give the --out of `intrr train`")
    target = run / "report.html"
    require_writable(target)
    lines = metric_lines(run / "metrics.jsonl")
    results = read_results(run)
    inspection = read_record(run / "inspection.json", Inspection, FIX)
    quality = results.semantic_ids if results else None

    page = render(
        "report.html.j2",
        name=(results and results.name) or run.resolve().name,
        run=shell_word(run),
        results=results,
        headline=_headline(results),
        table=_metric_table(results),
        slices=_slices(results),
        training=_training_figures(lines, results.best_epoch if results else None),
        quality=quality,
        usage=usage_figures(quality),
        redistribution=_redistribution_figures(inspection),
        sharing=list(zip(_letters(), inspection.redistribution, strict=False)) if inspection else [],
        examples=inspection.examples[:_MAX_EXAMPLES] if inspection else [],
        examples_total=len(inspection.examples) if inspection else 0,
        plan=read_sealed_text(run / "plan.txt", AGAIN),
        config=config,
    )
    write_text(target, page)
    return target


def _headline(results: Results | None) -> list[dict[str, Any]]:
    """Test figures with their intervals, beside the baseline's, with the ratio where it exists."""
    if results is None:
        return []
    below = results.baseline.metrics if results.baseline else {}
    return [
        {
            "metric": metric,
            "value": results.test[metric],
            "interval": results.intervals.get("test", {}).get(metric),
            "baseline": below.get(metric),
            "ratio": _ratio(results, metric),
        }
        for metric in _HEADLINE
        if metric in results.test
    ]


def _metric_table(results: Results | None) -> dict[str, Any] | None:
    """Rows of the metric table, columns in the order recall@1, recall@5, …, ndcg@5, …; None where all is missing."""
    if results is None:
        return None
    rows = {"test": results.test, "validation": results.valid}
    if results.baseline:
        rows[f"{results.baseline.name} (test)"] = results.baseline.metrics
    columns = sorted({metric for metrics in rows.values() for metric in metrics}, key=_metric_order)
    if not columns:
        return None
    return {
        "columns": columns,
        "rows": [(name, [metrics.get(metric) for metric in columns]) for name, metrics in rows.items() if metrics],
        "ratios": [_ratio(results, metric) for metric in columns],
    }


def _ratio(results: Results, metric: str) -> float | None:
    below = results.baseline.metrics.get(metric) if results.baseline else None
    return results.test[metric] / below if below and metric in results.test else None


def _metric_order(metric: str) -> tuple[int, str, int]:
    match = _AT_CUTOFF.fullmatch(metric)
    family, cutoff = (match[1], int(match[2])) if match else (metric, 0)
    known = ["recall", "ndcg"]
    return known.index(family) if family in known else len(known), family, cutoff


def _slices(results: Results | None) -> list[dict[str, Any]]:
    """A figure and a table of each slicing of the test users."""
    found = []
    for kind, words in SLICED_BY.items():
        bands = results.slices.get(kind, []) if results else []
        if not bands:
            continue
        columns = sorted({metric for band in bands for metric in band.metrics or ()}, key=_metric_order)
        names = [band_name(band.lowest, band.highest) for band in bands]
        labels = [f"{name}\n{band.share:.1%}" for name, band in zip(names, bands, strict=True)]
        drawn = {metric: [(band.metrics or {}).get(metric) for band in bands] for metric in _HEADLINE}
        rows = [
            (name, band.users, band.share, [(band.metrics or {}).get(metric) for metric in columns])
            for name, band in zip(names, bands, strict=True)
        ]
        figure = Figure(plots.bands(labels, drawn, x_label=f"{words}; below, share of users"), f"Test users by {words}")
        found.append({"words": words, "figure": figure, "columns": columns, "rows": rows})
    return found


def _training_figures(lines: list[dict[str, Any]], best_epoch: float | None) -> list[Figure]:
    """One figure for each family of recorded numbers: losses, metrics by cut-off, per-level curves, and what is left."""
    axis = "epoch" if all("epoch" in line for line in lines) else "step"
    families: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for line in lines:
        for key, value in line.items():
            if key in _NOT_FIGURES or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            family, curve = _family(key, line)
            families[str(line["split"]), family][curve].append((float(line[axis]), float(value)))
    figures = []
    for (split, family), series in sorted(families.items(), key=lambda entry: _figure_order(*entry[0])):
        series = {name: points for name, points in series.items() if any(math.isfinite(y) for _, y in points)}
        if not series:
            continue
        ordered = {name: series[name] for name in sorted(series, key=_natural)}
        words = f"{'Validation' if split == 'valid' else 'Training'}: {family.replace('_', ' ')}"
        best = best_epoch if axis == "epoch" and split == "valid" else None
        figures.append(Figure(plots.curves(ordered, x_label=axis, title=words, best=best), words))
    return figures


def _family(key: str, line: Mapping[str, Any]) -> tuple[str, str]:
    """The figure a recorded number belongs to, and its curve's name there."""
    if key == "loss" or key.startswith("loss_") or key.endswith("_nll"):
        return "loss", key
    if match := _PER_LEVEL.fullmatch(key):
        return f"{match[1]} per level", f"level {match[2]}"
    if f"{key}_l1" in line:
        return f"{key} per level", "sum of levels"
    if match := _AT_CUTOFF.fullmatch(key):
        return f"{match[1]}@k", key
    return key, key


def _figure_order(split: str, family: str) -> tuple[int, str, str]:
    """Losses, then metrics, then per-level curves, then the rest."""
    kinds = [family == "loss", family.startswith("recall@"), family.endswith("@k"), family.endswith(" per level"), True]
    return kinds.index(True), family, split


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _redistribution_figures(inspection: Inspection | None) -> list[Figure]:
    if inspection is None:
        return []
    items = inspection.redistribution[:_MAX_SHARING]
    figures = []
    for level in range(min((min(len(item.levels), len(item.sid)) for item in items), default=0)):
        codes = [item.sid[level] for item in items]
        p_K = [item.levels[level] for item in items]
        if any(not row for row in p_K):
            continue
        shared = f"all share code {codes[0]}" if len(set(codes)) == 1 else "their codes differ"
        svg = plots.redistribution(p_K, codes, _letters()[: len(items)], level=level + 1)
        figures.append(Figure(svg, f"Level {level + 1}: {shared}"))
    return figures


def _letters() -> list[str]:
    return [chr(ord("A") + number) for number in range(_MAX_SHARING)]
