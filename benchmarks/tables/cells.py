"""A grid's cells: what each is called, which recipe it resolves to, where it lies and how far it has come.

A cell's name follows from what it computes (dataset, indexer, recipe, overrides that differ, seed) and not from the table
that asks for it, so tables that share a cell share its run.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmarks.tables.grid import Grid
from intrr_rec.config import Recipe, load_recipe, same_run
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.io.artefact import Manifest, peek

State = Literal["finished", "interrupted", "missing", "changed", "impossible"]
Measure = Literal["accuracy", "training", "latency"]
CONFIG, INPUTS, RESULTS, FIGURES = "config.yaml", "run.json", "results.json", "figures.json"
ARTEFACTS = ("prepare.", "index.")  # settings of what a run reads: the dataset and the indexer name them
WITH_BACKBONE = ("intrr", "flattened")
FOLDERS = {"accuracy": "runs", "training": "training-speed", "latency": "latency"}


@dataclass(frozen=True)
class Cell:
    """One run, or one measurement."""

    measure: Measure
    dataset: Path  # descriptor
    indexer: str
    label: str
    recipe_file: Path
    words: tuple[str, ...]
    seed: int
    beams: tuple[int, ...] = ()

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved settings.

        Raises:
            ConfigError: a recipe or a setting that there is not.
        """
        return load_recipe(self.recipe_file, [*self.words, f"train.seed={self.seed}"])

    @cached_property
    def name(self) -> str:
        """Such as `beauty/rk_means/paper-hstu,align_weight=0.5`; the seed is not part of it."""
        return f"{self.dataset.stem}/{self.indexer}/{self._variant()}"

    @property
    def problem(self) -> str | None:
        """Why the recipe does not resolve, if it does not."""
        try:
            self.recipe  # noqa: B018
        except ConfigError as error:
            return str(error)
        return None

    @property
    def full_name(self) -> str:
        """The name, and the seed where the cell has one."""
        return f"{self.name}/seed{self.seed}" if self.measure == "accuracy" else self.name

    def _variant(self) -> str:
        given = dict(word.split("=", 1) for word in self.words if not word.startswith(ARTEFACTS))
        backbone = given.pop("model.backbone", None)
        try:
            base, own = load_recipe(self.recipe_file), self.recipe
            given = {key: _written(_value(own, key)) for key in given if _value(own, key) != _value(base, key)}
            backbone = own.model.backbone if own.model.kind in WITH_BACKBONE else None
        except ConfigError:
            pass  # named by its words; running it says what is wrong
        head = "-".join(filter(None, (self.recipe_file.stem, backbone)))
        return ",".join([head, *(f"{key.removeprefix('model.')}={given[key]}" for key in sorted(given))])


@dataclass(frozen=True)
class Workplace:
    """Where things lie: raw files in `data`, everything made in `work`."""

    data: Path
    work: Path

    def folder(self, cell: Cell) -> Path:
        """The run folder, or that of the measurement."""
        return self.work / FOLDERS[cell.measure] / cell.full_name

    def dataset(self, cell: Cell) -> Path:
        """The prepared dataset."""
        return self.work / cell.dataset.stem / "dataset"

    def semantic_ids(self, cell: Cell) -> Path:
        """The Semantic IDs."""
        return self.work / cell.dataset.stem / "semantic-ids" / cell.indexer

    def seeds(self, cells: Sequence[Cell]) -> list[int]:
        """Seeds of the cells, and of every run there is of the same names."""
        found = {cell.seed for cell in cells}
        for parent in {self.folder(cell).parent for cell in cells if cell.measure == "accuracy"}:
            names = (folder.name.removeprefix("seed") for folder in parent.glob("seed*"))
            found |= {int(name) for name in names if name.isdigit()}
        return sorted(found)

    def state(self, cell: Cell) -> State:
        """How far the cell has come.

        `changed`: it was computed with other settings, or from artefacts that were rebuilt since; it counts as nothing.
        `impossible`: its recipe does not resolve.
        """
        folder = self.folder(cell)
        if cell.problem:
            return "impossible"
        if not (folder / CONFIG).is_file():
            return "missing"
        done = (folder / (RESULTS if cell.measure == "accuracy" else FIGURES)).is_file()
        if done:
            same = same_run(folder / CONFIG, cell.recipe)
            return "finished" if same and self.same_inputs(cell, folder) and self._same_beams(cell) else "changed"
        return "interrupted"

    def same_inputs(self, cell: Cell, folder: Path) -> bool:
        """Whether the artefacts there now (if any) are those that what lies in `folder` was computed from."""
        recorded = json.loads((folder / INPUTS).read_text())["hashes"]
        for role, place in (("dataset", self.dataset(cell)), ("semantic_ids", self.semantic_ids(cell))):
            now = artefact_hash(place)
            if now is not None and now != recorded[role]:
                return False
        return True

    def _same_beams(self, cell: Cell) -> bool:
        if cell.measure != "latency":
            return True
        measured = json.loads((self.folder(cell) / FIGURES).read_text())["milliseconds"]
        return set(map(str, cell.beams)) <= set(measured)


def expand(grid: Grid, place: Path, seeds: Sequence[int] = ()) -> list[Cell]:
    """All cells, in the order they run: seed by seed, and in each as the grid lists datasets, indexers and models.

    Args:
        grid: what to expand.
        place: the grid file, which paths in it are relative to.
        seeds: instead of the grid's.

    Raises:
        ConfigError: two models of the grid are the same cell.
    """
    chosen = (seeds or grid.seeds) if grid.measure == "accuracy" else (0,)
    cells = [
        Cell(
            grid.measure,
            (place.parent / dataset).resolve(),
            indexer,
            model.label,
            (place.parent / model.recipe).resolve(),
            (*grid.set, *words, *model.set),
            seed,
            grid.beams,
        )
        for seed in chosen
        for dataset in grid.datasets
        for indexer, words in grid.indexers.items()
        for model in grid.models
        if model.indexers is None or indexer in model.indexers
    ]
    by_name: dict[str, Cell] = {}
    for cell in cells:
        if (twin := by_name.setdefault(cell.full_name, cell)) is not cell:
            raise ConfigError(f"{place}: '{twin.label}' and '{cell.label}' are one and the same run, {cell.name}")
    return cells


def select(cells: Iterable[Cell], patterns: Sequence[str]) -> list[Cell]:
    """Cells that a pattern names: exactly if there are such, else as a part of the name or as a glob.

    Raises:
        ConfigError: a pattern that names none.
    """
    cells = list(cells)
    if not patterns:
        return cells
    chosen: set[str] = set()
    for pattern in patterns:
        exact = [cell for cell in cells if pattern in (cell.name, cell.full_name)]
        loose = [cell for cell in cells if pattern in cell.full_name or fnmatch.fnmatch(cell.full_name, pattern)]
        if not (found := exact or loose):
            raise ConfigError(f"--only {pattern}: no cell of this grid is called so; see --list")
        chosen |= {cell.full_name for cell in found}
    return [cell for cell in cells if cell.full_name in chosen]


def artefact_hash(place: Path) -> str | None:
    """Content hash of the artefact there, by its manifest alone; None where there is none."""
    manifest = _manifest(place)
    return manifest.content_hash if manifest else None


def artefact_settings(place: Path) -> dict[str, Any] | None:
    """The settings that the artefact there was made with; None where there is none."""
    manifest = _manifest(place)
    return manifest.config if manifest else None


def _manifest(place: Path) -> Manifest | None:
    try:
        return peek(place)
    except ArtefactError:
        return None


def _value(recipe: Recipe, key: str) -> Any:
    value: Any = recipe
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _written(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
