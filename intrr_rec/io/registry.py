"""A registry: the bundles that are, and were, served, and which of them is the current one.

registry.json        which bundle is current and which was before it; replaced in one step, and that alone is what promotes
bundles/HASH/        the bundles, by their content
decisions/00001.json who won and why, one file a decision

It lies on a disk or in an object store. Wherever a bundle is read, a registry is its current bundle.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from intrr_rec.errors import ArtefactError
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.formats.records import as_record, parse_json, sealed, unsealed
from intrr_rec.io.manifest import Hash, Manifest
from intrr_rec.io.stores.storage import Folder, Location, below, location

REGISTRY, BUNDLES, DECISIONS = "registry.json", "bundles", "decisions"
FIX = "put the file back"
MOST = 10**9  # decisions
_DECISION = re.compile(rf"{DECISIONS}/([0-9]{{5,9}})\.json")


class Registry(BaseModel):
    """`registry.json`.

    Attributes:
        current: content hash of the bundle that is served.
        previous: of the one before it, which a roll-back returns to.
        decision: number of the decision that made it so.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    registry_schema: int = Field(1, ge=1, le=1)
    current: Hash
    previous: Hash | None
    decision: int = Field(ge=1, lt=MOST)


def read_registry(place: Location) -> Registry | None:
    """The registry at a place; None where there is none.

    Raises:
        ArtefactError: it cannot be read, or was altered.
    """
    found = _read(place, REGISTRY)
    return None if found is None else as_record(found, Registry, f"{place}/{REGISTRY}", FIX)


def bundle_place(place: Location, content_hash: str) -> Location:
    """Where a registry holds a bundle."""
    return below(below(place, BUNDLES), content_hash[:16])


def require_listed(place: Location, found: Manifest, content_hash: str) -> None:
    """Refuse a bundle that is another than a registry's record says.

    Raises:
        ArtefactError: its content hash differs.
    """
    if found.content_hash != content_hash:
        raise ArtefactError(
            f"{place}: is bundle {found.content_hash[:12]}, and the registry's record says {content_hash[:12]}; put that one back"
        )


def current_of(place: Path | str) -> Location:
    """The current bundle of a registry; any other place is itself.

    Raises:
        ArtefactError: the registry cannot be read.
    """
    found = read_registry(location(place))
    return location(place) if found is None else bundle_place(location(place), found.current)


def decisions(place: Location) -> list[int]:
    """The numbers of all decisions, rising."""
    found = (_DECISION.fullmatch(name) for name in Folder.at(place).names(DECISIONS))
    return sorted(int(match[1]) for match in found if match)


def read_decision(place: Location, number: int) -> dict[str, Any]:
    """A decision.

    Raises:
        ArtefactError: it cannot be read, or was altered.
    """
    return _read(place, decision_name(number)) or {}


def write_decision(place: Location, number: int, content: dict[str, Any]) -> None:
    """Write a decision."""
    write_record(place, decision_name(number), content)


def write_record(place: Location, name: str, content: dict[str, Any]) -> None:
    """Write a sealed JSON file of a registry: readers see the old one or the new one.

    Raises:
        PlaceError: it cannot be written.
    """
    if isinstance(place, Path):
        write_json(place / name, sealed(content))
    else:
        Folder.at(place).write(name, json.dumps(sealed(content), indent=2, sort_keys=True).encode())


def decision_name(number: int) -> str:
    """The file of a decision, seen from the registry."""
    return f"{DECISIONS}/{number:05d}.json"


def _read(place: Location, name: str) -> dict[str, Any] | None:
    folder = Folder.at(place)
    if not folder.has(name):
        return None
    where = f"{place}/{name}"
    return unsealed(parse_json(folder.read(name), where, FIX), where, FIX)
