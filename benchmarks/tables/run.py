"""Runs the cells of a grid: makes missing artefacts, skips what is finished, resumes what was interrupted.

Several processes may work on one grid: a cell and an artefact are locked while they are computed, and the lock dies with its
process. Under torchrun all ranks go through the same cells; the main one decides and the others are told.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.machine import describe
from benchmarks.tables.cells import CONFIG, FIGURES, INPUTS, Cell, Workplace, artefact_hash, artefact_settings
from benchmarks.tables.reuse import evaluate_alike, trained_alike
from intrr_rec.config import Section, save_recipe
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.data.raw.descriptors import Descriptor, find_tables, load_descriptor
from intrr_rec.distributed.world import Council, World, join_world
from intrr_rec.errors import ArtefactError, ConfigError, UserError
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.disk.lock import Lock, Taken
from intrr_rec.semantic_ids.build import build_semantic_ids
from intrr_rec.training.trainer import train

log = logging.getLogger(__name__)
MACHINE = "machine.json"
CHECKOUT = Path(__file__).parents[2]  # benchmarks are not installed
LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: `done`, `finished` before, `taken` by another process, or `failed` and why."""

    cell: Cell
    what: str
    why: str = ""


def run_cells(cells: Sequence[Cell], place: Workplace) -> list[Outcome]:
    """Run the cells one after another; one that fails does not stop the others."""
    with join_world() as world:
        session = _Session(place, world)
        return [session.attempt(cell) for cell in cells]


class _Session:
    def __init__(self, place: Workplace, world: World) -> None:
        self.place, self.world, self.council = place, world, Council(world)
        self.broken: dict[Path, str] = {}  # artefacts that could not be made, and why: not tried again for every cell

    def attempt(self, cell: Cell) -> Outcome:
        """Take the cell if it is free, and compute it."""
        try:
            with ExitStack() as held:
                claim = self.council.broadcast(lambda: self._claim(cell, held))
                if claim != "free":
                    return Outcome(cell, str(claim))
                log.info("%s: begins", cell.full_name)
                self._artefacts(cell)
                self._together(lambda: self._train(cell) if cell.measure == "accuracy" else self._measure(cell))
                return Outcome(cell, "done")
        except UserError as error:
            log.error("%s: %s", cell.full_name, error)
            return Outcome(cell, "failed", str(error))
        except Exception as error:
            if self.world.size > 1:
                raise  # the other ranks may be somewhere else: only the launcher can end them
            log.exception("%s: a fault of ours", cell.full_name)
            return Outcome(cell, "failed", f"{type(error).__name__}: {' '.join(str(error).split())}")

    def _claim(self, cell: Cell, held: ExitStack) -> str:
        cell.recipe  # noqa: B018 - says what is wrong with it
        if self.place.state(cell) == "finished":
            return "finished"
        if not _lock(self.place.folder(cell), held, wait=False):
            return "taken"
        state = self.place.state(cell)  # again: another process may have finished it since
        if state == "changed" and cell.measure == "accuracy":
            raise ArtefactError(
                f"{self.place.folder(cell)}: holds results of other settings or of artefacts rebuilt since; "
                "remove it, or choose another --work"
            )
        return "finished" if state == "finished" else "free"

    def _artefacts(self, cell: Cell) -> None:
        descriptor = load_descriptor(cell.dataset)
        dataset, ids, recipe = self.place.dataset(cell), self.place.semantic_ids(cell), cell.recipe
        vectors, settings = _vectors_of(descriptor, cell, self.place.data), descriptor.settings(recipe.prepare)

        def prepare() -> None:
            if self.world.is_main:
                found = find_tables(descriptor, cell.dataset, self.place.data)
                prepare_dataset(found.interactions, found.items, dataset, settings)

        def index() -> None:
            _require_files(vectors)
            build_semantic_ids(dataset, vectors, ids, recipe.index)

        self._make(dataset, settings, prepare)
        self._make(ids, recipe.index, index)

    def _make(self, target: Path, settings: Section, work: Callable[[], object]) -> None:
        with ExitStack() as held:

            def needed() -> str:
                if target in self.broken:
                    raise ArtefactError(self.broken[target])
                _lock(target, held, wait=True)
                recorded = artefact_settings(target)
                if recorded is None:
                    return "make"
                _require_settings(target, recorded, settings)
                return "there"

            if self.council.broadcast(needed) == "there":
                return
            try:
                self._together(work)
            except UserError as error:
                self.broken[target] = str(error)
                raise

    def _train(self, cell: Cell) -> None:
        folder = self.place.folder(cell)
        if trained := self.council.broadcast(lambda: trained_alike(cell, self.place)):
            log.info("%s: evaluates %s, which was trained alike", cell.full_name, trained)
            evaluate_alike(Path(trained), cell, folder, self.world)
        else:
            train(
                cell.recipe,
                dataset=self.place.dataset(cell),
                semantic_ids=self.place.semantic_ids(cell),
                vectors=self._vectors(cell),
                out=folder,
            )
        if self.world.is_main:
            write_json(folder / MACHINE, describe(self.world.device))

    def _measure(self, cell: Cell) -> None:
        """In a process of its own, so that its peak memory is its own."""
        if not self.world.is_main:
            return
        folder, dataset, ids = self.place.folder(cell), self.place.dataset(cell), self.place.semantic_ids(cell)
        save_recipe(cell.recipe, folder / CONFIG)
        hashes = {"dataset": artefact_hash(dataset), "semantic_ids": artefact_hash(ids)}
        words = ["epoch", "--no-evaluation"] if cell.measure == "training" else ["decoding"]
        words += ["--config", str(folder / CONFIG), "--dataset", str(dataset), "--semantic-ids", str(ids)]
        words += ["--vectors", str(self._vectors(cell)), "--out", str(folder / FIGURES)]
        words += ["--beams", ",".join(map(str, cell.beams))] if cell.measure == "latency" else []
        write_json(folder / INPUTS, {"hashes": hashes, "command": " ".join(["python -m benchmarks.speed", *words])})
        (folder / FIGURES).unlink(missing_ok=True)
        alone = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
        alone["PYTHONPATH"] = os.pathsep.join([str(CHECKOUT), *filter(None, [alone.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.speed", *words],
            env=alone,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise UserError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])

    def _together(self, work: Callable[[], object]) -> None:
        """`work` on every rank; what the main one met is raised on all."""
        met: list[UserError] = []
        try:
            work()
        except UserError as error:
            met.append(error)

        def confess() -> None:
            if met:
                raise met[0]

        self.council.broadcast(confess)
        confess()

    def _vectors(self, cell: Cell) -> Path:
        return _vectors_of(load_descriptor(cell.dataset), cell, self.place.data)


def _lock(target: Path, held: ExitStack, *, wait: bool) -> bool:
    """Lock `target` until `held` closes; False where another process holds it and we do not wait."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = held.enter_context(Lock(target.with_name(f".{target.name}.making"), wait=wait))
    except Taken:
        return False
    if not lock.certain:
        log.warning("%s: this file system has no locks; do not run two processes on it", target.parent)
    return True


def _vectors_of(descriptor: Descriptor, cell: Cell, data: Path) -> Path:
    if descriptor.vectors is None:
        raise ConfigError(f"{cell.dataset}: names no vectors, and a grid needs them; add `vectors:`, a Parquet file")
    return data / descriptor.vectors


def _require_files(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and not path.exists():
            raise ConfigError(f"{path}: is missing; give the folder of the raw files as --data")


def _require_settings(target: Path, recorded: dict[str, object], settings: Section) -> None:
    defaults = type(settings)().model_dump(mode="json")
    for key, value in settings.model_dump(mode="json").items():
        if recorded.get(key, defaults[key]) != value:
            raise ArtefactError(
                f"{target}: was made with {key} {recorded.get(key)!r}, the grid wants {value!r}; "
                "remove it, or choose another --work"
            )
