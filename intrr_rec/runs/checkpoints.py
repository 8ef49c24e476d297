"""The checkpoints of a run: the newest few, named by their step, and the best one.

The newest hold model, optimizer, average of the weights and the state of the loop; `best` is a second name, by hard links, of the
one that was best at validation. They are written beside training where there is memory for a copy of what they hold.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from intrr_rec.distributed.checkpoint.async_writer import BackgroundWriter, Staging
from intrr_rec.distributed.checkpoint.storage import (
    Tree,
    checkpoint_tensors,
    load_checkpoint,
    read_state,
    remove_checkpoint,
    remove_unfinished,
    save_checkpoint,
)
from intrr_rec.distributed.finite import is_finite
from intrr_rec.distributed.parallelize import Parallel
from intrr_rec.distributed.world import World
from intrr_rec.errors import ArtefactError
from intrr_rec.io.stores.mirror import mirror_of
from intrr_rec.io.stores.storage import Folder, Location, below
from intrr_rec.runs.run_files import BEST, checkpoint_names, checkpoints_of

log = logging.getLogger(__name__)
T = TypeVar("T")
STEP = re.compile(r"step-[0-9]{8,18}")


class Checkpoints:
    """Saves and loads the checkpoints of one run; every rank calls each method.

    Args:
        run: the run folder.
        parallel: what is saved and loaded in place.
        world: this rank among its peers.
    """

    def __init__(self, run: Path, parallel: Parallel, world: World) -> None:
        self.run, self.folder = run, checkpoints_of(run)
        self.mirror = mirror_of(run)
        self.parallel = parallel
        self.world = world
        self._writer = BackgroundWriter(world)
        self._staging = Staging()

    @property
    def failed(self) -> bool:
        """Whether this rank knows of a save that failed and has not been raised yet."""
        return self._writer.failed

    def save(self, state: dict[str, Any], keep: int, *, best: bool = False, wait: bool = False) -> None:
        """Save all as of `state["step"]`, then remove those of later steps, which were skipped as damaged, and all but the
        `keep` newest of the others. What was begun before is finished first.

        Args:
            best: name it the best so far as well.
            wait: return when all is written. Else that goes on beside training, from a copy, and `wait` raises what it meets;
                where there is no memory for the copy it is waited for all the same.

        Raises:
            PlaceError: the disk is full or cannot be written; the checkpoints before this one are whole.
        """
        self.wait()
        state = copy.deepcopy(state)
        with self.parallel.weights(averaged=False):
            tensors = checkpoint_tensors(self.parallel, with_optimizer=True)
            taken = None if wait else self._staging.copied(tensors, self._writer.world)
            if taken is None:
                self._write(tensors, state, keep, best)
                return
        self._writer.start(lambda: self._write(taken, state, keep, best))

    def wait(self) -> None:
        """Until nothing is being written; raises as `save`."""
        self._writer.wait()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def _write(self, tensors: Tree, state: dict[str, Any], keep: int, best: bool) -> None:
        world = self._writer.world
        if self.mirror is not None and world.is_main:
            self.mirror.push()  # the figures that the state counts on
        name = f"step-{state['step']:08d}"
        save_checkpoint(
            below(self.folder, name), tensors, world, state, also=below(self.folder, BEST) if best else None
        )
        if world.is_main:
            there = self._newest_first()
            newest = there.index(name)
            for other in there[:newest] + there[newest + keep :]:
                remove_checkpoint(below(self.folder, other))
            if self.mirror is not None:
                remove_unfinished(self.folder)

    def load_newest(self) -> dict[str, Any] | None:
        """Load the newest checkpoint that is whole, and return its state; None where the run has none yet.

        Raises:
            ArtefactError: there are some, but none can be used.
        """
        if self.world.is_main:
            remove_unfinished(self.folder)
        return self.first_whole(lambda path: load_checkpoint(path, self.parallel, self.world, with_optimizer=True))

    def first_whole(self, load: Callable[[Location], T]) -> T | None:
        """What `load` makes of the newest checkpoint that it takes; None where there is none at all.

        Raises:
            ArtefactError: there are some, but `load` refused each.
        """
        complaints: list[str] = []

        def loaded(name: str) -> T | None:
            try:
                return load(below(self.folder, name))
            except ArtefactError as error:
                complaints.append(str(error))
                if self.world.is_main:
                    log.warning("skipped a checkpoint: %s", error)
                return None

        for name in self.world.broadcast(self._newest_first()):
            if (found := loaded(name)) is not None:
                return found
        if complaints:
            raise ArtefactError(
                f"{self.folder}: none of its checkpoints can be used ({complaints[0]}); put back a whole one, or remove "
                "the folder to train from the start"
            )
        return None

    def load_best(self) -> tuple[str, dict[str, Any]]:
        """Load the best model: the name of the checkpoint it came from, and the state that was saved with it.

        Where `best` is damaged, the newest checkpoint that is whole stands in for it, and a warning says so.

        Raises:
            ArtefactError: there is none, or it is damaged and so are all others.
        """
        best_place = below(self.folder, BEST)
        try:
            state = load_checkpoint(best_place, self.parallel, self.world, with_optimizer=False, averaged=True)
            self._require_finite(best_place)
            return BEST, state
        except ArtefactError as error:
            best = error
        found = (
            self.first_whole(self._load_stand_in) if self.world.broadcast(Folder.at(best_place).is_folder()) else None
        )
        if found is None:
            raise best
        if self.world.is_main:
            log.warning("%s; %s stands in for it, which need not be as good", best, found[0])
        return found

    def _load_stand_in(self, path: Location) -> tuple[str, dict[str, Any]]:
        state = load_checkpoint(path, self.parallel, self.world, with_optimizer=False, averaged=True)
        self._require_finite(path)
        return str(path).rpartition("/")[2], state | {"best_epoch": state["epoch"]}

    def _require_finite(self, path: Location) -> None:
        if not is_finite(self.parallel.module, self.world):
            raise ArtefactError(f"{path}: holds weights that are not finite numbers; train again into another --out")

    def newest_state(self) -> dict[str, Any]:
        """The state that the newest checkpoint was saved with; that of the best where it is the only one."""
        return read_state(below(self.folder, next(iter(self._newest_first()), BEST)))

    def _newest_first(self) -> list[str]:
        there = [name for name in checkpoint_names(self.run) if STEP.fullmatch(name)]  # a copy by hand is none of ours
        return sorted(there, key=lambda name: int(name[5:]), reverse=True)
