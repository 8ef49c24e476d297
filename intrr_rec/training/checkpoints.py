"""The checkpoints of a run: the newest few, named by their step, and the best one.

The newest hold model, optimizer and the state of the loop; `best` holds the model that was best at validation.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from intrr_rec.errors import ArtefactError
from intrr_rec.parallel.apply import Parallel
from intrr_rec.parallel.checkpoint import (
    STATE,
    load_checkpoint,
    remove_checkpoint,
    remove_unfinished,
    save_checkpoint,
)
from intrr_rec.parallel.topology import World
from intrr_rec.training.run_dir import CHECKPOINTS

log = logging.getLogger(__name__)
BEST = "best"
T = TypeVar("T")


class Checkpoints:
    """Saves and loads the checkpoints of one run; every rank calls each method.

    Args:
        run: the run folder.
        parallel: what is saved and loaded in place.
        world: this rank among its peers.
    """

    def __init__(self, run: Path, parallel: Parallel, world: World) -> None:
        self.folder = run / CHECKPOINTS
        self.parallel = parallel
        self.world = world

    def save(self, state: dict[str, Any], keep: int) -> None:
        """Save all as of `state["step"]`, then remove those of later steps, which were skipped as damaged, and all but the
        `keep` newest of the others.

        Raises:
            ArtefactError: the disk is full or cannot be written; the checkpoints before this one are whole.
        """
        path = self.folder / f"step-{state['step']:08d}"
        with self.parallel.weights(averaged=False):
            save_checkpoint(path, self.parallel, self.world, state, with_optimizer=True)
        if self.world.is_main:
            there = self._newest_first()
            newest = there.index(path)
            for other in there[:newest] + there[newest + keep :]:
                remove_checkpoint(other)

    def save_best(self, state: dict[str, Any]) -> None:
        """Save the model as the best so far, its average where there is one; raises as `save`."""
        with self.parallel.weights(averaged=True):
            save_checkpoint(self.folder / BEST, self.parallel, self.world, state, with_optimizer=False)

    def load_newest(self) -> dict[str, Any] | None:
        """Load the newest checkpoint that is whole, and return its state; None where the run has none yet.

        Raises:
            ArtefactError: there are some, but none can be used.
        """
        if self.world.is_main:
            remove_unfinished(self.folder)
        return self.first_whole(lambda path: load_checkpoint(path, self.parallel, self.world, with_optimizer=True))

    def first_whole(self, load: Callable[[Path], T]) -> T | None:
        """What `load` makes of the newest checkpoint that it takes; None where there is none at all.

        Raises:
            ArtefactError: there are some, but `load` refused each.
        """
        complaints: list[str] = []

        def loaded(name: str) -> T | None:
            try:
                return load(self.folder / name)
            except ArtefactError as error:
                complaints.append(str(error))
                if self.world.is_main:
                    log.warning("skipped a checkpoint: %s", error)
                return None

        for name in self.world.told([path.name for path in self._newest_first()]):
            if (found := loaded(name)) is not None:
                return found
        if complaints:
            raise ArtefactError(
                f"{self.folder}: none of its checkpoints can be used ({complaints[0]}); put back a whole one, or remove "
                "the folder to train from the start"
            )
        return None

    def load_best(self) -> dict[str, Any]:
        """Load the best model, and return the state it was saved with.

        Raises:
            ArtefactError: there is none, or it is damaged.
        """
        return load_checkpoint(self.folder / BEST, self.parallel, self.world, with_optimizer=False)

    def newest_state(self) -> dict[str, Any]:
        """The state that the newest checkpoint was saved with; that of the best where it is the only one."""
        newest = next(iter(self._newest_first()), self.folder / BEST)
        return json.loads((newest / STATE).read_text())

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), key=lambda path: int(path.name[5:]), reverse=True)
