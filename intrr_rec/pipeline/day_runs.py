"""The runs of all days, a folder each: which one training goes on from, and which are removed."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact
from intrr_rec.io.disk.atomic import remove_tree
from intrr_rec.io.disk.places import url_of
from intrr_rec.io.registry import bundle_place, read_registry
from intrr_rec.io.stores.staging import staged
from intrr_rec.io.stores.storage import Folder, Location, below
from intrr_rec.pipeline.faults import content_hash, weights
from intrr_rec.runs.run_files import RESULTS
from intrr_rec.runs.run_record import input_place, read_run_record

log = logging.getLogger(__name__)
LETTERS = 12
_NAME = re.compile(rf"[0-9a-f]{{{LETTERS}}}")


@dataclass(frozen=True)
class Runs:
    """The folder of the runs, and the registry that their bundles are promoted into."""

    place: Location
    registry: Location

    def finished(self) -> list[str]:
        """Names of the runs that have results, the newest first."""
        folder = Folder.at(self.place)
        if not folder.is_folder():
            return []
        ages = {}
        for name in filter(_NAME.fullmatch, folder.folders()):
            if (found := Folder.at(below(self.place, name)).beside(RESULTS).get(RESULTS)) is not None:
                ages[name] = found[1] or 0
        return sorted(ages, key=lambda name: ages[name], reverse=True)

    def start(self, own: str) -> Location | None:
        """The run to start from: that of the bundle that is served, else the newest; None where there is no other than `own`.

        Those whose Semantic IDs are kept no more are passed over.

        Raises:
            ArtefactError: all were passed over.
        """
        others = [below(self.place, name) for name in self.finished() if name != own]
        served = self._served(previous=False)
        for place in sorted(others, key=lambda place: weights(place) not in served):  # stable: else the newest first
            with suppress(ArtefactError):
                if _has_ids(place):
                    return place
        if others:
            raise ArtefactError(
                f"{self.place}: the Semantic IDs of no run are kept any more, so none can be started from; put them back, or "
                "give the pipeline another work"
            )
        return None

    def prune(self, own: str, keep: int) -> None:
        """Remove all but the newest `keep` runs; `own` and those of the bundles in the registry stay."""
        finished = self.finished()
        served = self._served(previous=True)
        for name in finished[keep:]:
            place = below(self.place, name)
            if name == own or weights(place) in served:
                continue
            if isinstance(place, Path):
                remove_tree(place)
            else:
                Folder.at(self.place).remove_folder(name)
            log.info("%s: removed; %d runs are kept", place, keep)

    def _served(self, *, previous: bool) -> set[str]:
        """The weights of the current bundle, and of the one before it."""
        found = read_registry(self.registry)
        names = [] if found is None else [found.current, found.previous if previous else None]
        return {
            artefact.peek(bundle_place(self.registry, name)).parents.get("checkpoint", "")
            for name in names
            if name is not None
        }


def _has_ids(place: Location) -> bool:
    with staged() as places:
        run = places.run(place, write=False)
        record = read_run_record(run)
        ids = input_place(run, record, "semantic_ids")
        return ids is not None and content_hash(url_of(ids) or Path(ids)) == record.hashes.semantic_ids
