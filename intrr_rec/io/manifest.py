"""`manifest.json`: what an artefact holds and what it was built from, sealed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from intrr_rec.errors import ArtefactError
from intrr_rec.io.formats.records import as_record, parse_json, sealed, unsealed
from intrr_rec.io.stores.storage import Location

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
COMPLETE = "complete.json"  # of a checkpoint: the hashes of its files, written last
_FIX = "build the artefact again"


def _file_name(name: str) -> str:
    path = PurePosixPath(name)
    if str(path) != name or path.is_absolute() or not path.parts or ".." in path.parts or "\0" in name:
        raise ValueError("is no name of a file inside the folder")
    return name


FileName = Annotated[str, Field(max_length=1024), AfterValidator(_file_name)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=1 << 53)]


class Manifest(BaseModel):
    """What an artefact holds and what it was built from.

    Attributes:
        files: SHA-256 of each file, by its path relative to the folder.
        counts: sizes, such as those of users and items.
        config: the settings it was made with.
        parents: content hash of what was read, by role ("dataset", "vectors").
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    kind: str
    files: dict[FileName, Hash]
    counts: dict[str, Count]
    config: dict[str, Any]
    parents: dict[str, str]
    schema_version: int = SCHEMA_VERSION

    @property
    def content_hash(self) -> str:
        """SHA-256 over the kind, the file hashes and the parents: equal content, equal hash, wherever it lies."""
        identity = {"kind": self.kind, "files": self.files, "parents": self.parents, "schema": self.schema_version}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def document(self) -> dict[str, Any]:
        """What `manifest.json` holds: this and its seal."""
        return sealed(self.model_dump())

    @classmethod
    def parse(cls, text: bytes, path: Location, kind: str | None, required: Collection[str] = ()) -> Manifest:
        """The manifest of an artefact.

        Args:
            text: of `manifest.json`.
            path: of the artefact, for error messages.
            kind: what it must be; None is any.
            required: patterns of file names; each must match at least one file.

        Raises:
            ArtefactError: cannot be read, was altered, is of another schema or kind, or lists no file that is `required`.
        """
        where = f"{path}/{MANIFEST}"
        value = parse_json(text, where, _FIX)
        found = value.get("schema_version") if isinstance(value, dict) else None
        if isinstance(found, int) and found != SCHEMA_VERSION:
            raise ArtefactError(f"{path}: schema {found}, this version reads {SCHEMA_VERSION}; build it again")
        manifest = as_record(unsealed(value, where, _FIX), cls, where, _FIX)
        if kind is not None and manifest.kind != kind:
            raise ArtefactError(f"{path}: is a '{manifest.kind}' artefact, but a '{kind}' artefact is needed here")
        for pattern in required or ("*",):
            if not any(fnmatchcase(name, pattern) for name in manifest.files):
                raise ArtefactError(f"{where}: lists no file {pattern}; {_FIX}")
        return manifest


def require_parent(path: Location, manifest: Manifest, role: str, parent_path: Location, parent: Manifest) -> None:
    """Refuse an artefact that was built from another `role` than the one given.

    Raises:
        ArtefactError: the recorded content hash differs from `parent`'s.
    """
    recorded = manifest.parents.get(role)
    if recorded != parent.content_hash:
        was = (recorded or "nothing")[:12]
        raise ArtefactError(
            f"{path}: was built from {role} {was}, but {parent_path} is {parent.content_hash[:12]}; "
            f"build it again from {parent_path} or give the {role} it came from"
        )
