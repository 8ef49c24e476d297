"""Figures of finished cells, as pages need them: read from run folders, and kept beside the page.

A page is made of the figures in the work folder and of those kept in `<page>.json`, so that it loses no row when the work
folder is gone. What the work folder holds stands instead of what was kept of that cell and seed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from benchmarks.tables.cells import CONFIG, FIGURES, INPUTS, Cell, Workplace
from benchmarks.tables.run import MACHINE
from intrr_rec.io.artefact import file_hash
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.formats.records import as_record, parse_json, read_text
from intrr_rec.runs.records import Baseline, Counts, Spread, read_run, summarize
from intrr_rec.runs.run_files import METRICS

MISSING = "–"
DIGITS = 12
SELECTED_BY = "recall@10"
FIX = "restore the file from the version control, or remove it"


class Figures(BaseModel):
    """What one run or measurement came to; or what several seeds of one cell came to, where only their spread is kept.

    Attributes:
        cell: its name, without the seed.
        seeds: of the runs; (0,) of a measurement.
        dataset: content hash of the dataset, shortened.
        test: test metrics over the seeds; empty of a measurement.
        curve: epoch and validation Recall@10 of each validation.
        counts, baseline: of the dataset, from the run.
        measured: what was measured (measures training and latency).
        card: lines of the run card, one a seed; of a measurement its sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    cell: str
    seeds: tuple[int, ...]
    dataset: str
    test: dict[str, Spread] = {}
    curve: tuple[tuple[float, float], ...] = ()
    counts: Counts | None = None
    baseline: Baseline | None = None
    measured: dict[str, Any] | None = None
    card: tuple[str, ...]


class _Kept(BaseModel):
    figures: list[Figures]


def read_kept(page: Path) -> list[Figures]:
    """What is kept beside a page; nothing where there is no file.

    Raises:
        ArtefactError: the file cannot be read.
    """
    path = page.with_suffix(".json")
    text = read_text(path)
    return [] if text is None else as_record(parse_json(text, str(path), FIX), _Kept, str(path), FIX).figures


def keep(page: Path, figures: Iterable[Figures]) -> None:
    """Write the file beside a page."""
    write_json(page.with_suffix(".json"), _Kept(figures=list(figures)).model_dump(mode="json", exclude_defaults=True))


def merge(measured: Sequence[Figures], kept: Sequence[Figures]) -> list[Figures]:
    """The figures of a cell, by seed: what the work folder holds, and what is kept of other seeds on the same dataset.

    Figures that were kept of several seeds stay until each of those seeds is measured again; till then its new figures
    wait, since no seed may count twice.
    """
    fresh = {seed for figures in measured for seed in figures.seeds}
    dataset = measured[0].dataset if measured else None
    staying = [f for f in kept if not set(f.seeds) <= fresh and dataset in (None, f.dataset)]
    covered = {seed for figures in staying for seed in figures.seeds}
    chosen = [*staying, *(f for f in measured if not set(f.seeds) & covered)]
    return sorted(chosen, key=lambda figures: figures.seeds)


def pool(spreads: Sequence[Spread]) -> Spread:
    """Mean and standard deviation over all runs of several spreads."""
    runs = np.array([spread.runs for spread in spreads])
    means = np.array([spread.mean for spread in spreads])
    total = int(runs.sum())
    mean = float((runs * means).sum() / total)
    squares = sum((s.runs - 1) * (s.sd or 0.0) ** 2 for s in spreads) + float((runs * (means - mean) ** 2).sum())
    return Spread(mean, float((squares / (total - 1)) ** 0.5) if total > 1 else None, total)


def figures_of(cell: Cell, place: Workplace) -> Figures:
    """Those of a finished cell.

    Raises:
        ArtefactError: a file of the folder cannot be read.
    """
    folder = place.folder(cell)
    settings, dataset, ids = _hashes(folder)
    own = {"cell": cell.name, "seeds": (cell.seed,), "dataset": dataset}
    if cell.measure != "accuracy":
        measured = json.loads((folder / FIGURES).read_text())
        batch = f"; {measured['users']} users a batch, median of {measured['repeats']}" if cell.beams else ""
        line = f"Settings {_code(settings)}, dataset {_code(dataset)}, Semantic IDs {_code(ids)}; {_machine(measured['machine'])}{batch}."
        return Figures(**own, measured=measured, card=(line,))
    run = read_run(folder)
    results = run.results
    epochs = f"{results.epochs:.0f}, {results.best_epoch:.0f}" if results.epochs and results.best_epoch else MISSING
    valid = f"{results.valid['recall@10']:.4f}".replace("0.", ".", 1) if results.valid else MISSING
    wall = f"{results.wall_seconds:,.0f} s" if results.wall_seconds else MISSING
    facts = [
        str(cell.seed),
        *map(_code, (settings, dataset, ids)),
        epochs,
        valid,
        wall,
        str(results.world_size or MISSING),
    ]
    lines = map(json.loads, (folder / METRICS).read_text().splitlines()) if (folder / METRICS).is_file() else ()
    return Figures(
        **own,
        test=summarize([run]),
        curve=tuple((line["epoch"], line[SELECTED_BY]) for line in lines if line["split"] == "valid"),
        counts=results.dataset,
        baseline=results.baseline,
        card=("| " + " | ".join([*facts, _machine(_json(folder / MACHINE))]) + " |",),
    )


def _hashes(folder: Path) -> tuple[str, str, str]:
    """SHA-256 of the resolved settings, and the content hashes of dataset and Semantic IDs, shortened; "" where there is none."""
    hashes = (_json(folder / INPUTS) or {"hashes": {}})["hashes"]
    full = (file_hash(folder / CONFIG), hashes.get("dataset"), hashes.get("semantic_ids"))
    settings, dataset, ids = ((value or "")[:DIGITS] for value in full)
    return settings, dataset, ids


def _code(value: str) -> str:
    return f"`{value}`" if value else MISSING


def _machine(machine: dict[str, Any] | None) -> str:
    if machine is None:
        return MISSING
    code = f", code {machine['code']}" if "code" in machine else ""
    return f"{machine['device']}, {machine['threads']} threads, torch {machine['torch']}{code}"


def _json(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None
