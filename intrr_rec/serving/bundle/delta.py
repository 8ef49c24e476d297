"""A delta: what a new bundle has that an older one has not, and the new bundle made of the two, byte for byte.

delta.json           hash of the older bundle, manifest of the new one, and how each of its files is made
rows-FILE            rows of its tensors that are new or have changed (`row_patch.py`)
tail-FILE            the end of a file that begins as the older one does, such as the last row groups of a table
whole-FILE           a file of which too little is the same

All three are compressed. Files that are the same are left out, and so is a trie, which is built of the Semantic IDs.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load, load_file, save, save_file

from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import Draft, Manifest, Opened, file_hash
from intrr_rec.io.atomic import write_json
from intrr_rec.io.manifest import Hash
from intrr_rec.io.versions import link_or_copy
from intrr_rec.semantic_ids.artefact import CODES, NAME, TRIE
from intrr_rec.semantic_ids.trie import PrefixTrie
from intrr_rec.serving.bundle.bundle import KIND as BUNDLE
from intrr_rec.serving.bundle.bundle import SETTINGS, BundleSettings
from intrr_rec.serving.bundle.row_patch import Layout, apply_changes, bytes_of, find_changes
from intrr_rec.serving.bundle.tensor_file import LARGEST_HEADER

log = logging.getLogger(__name__)
KIND, RECORD = "bundle delta", "delta.json"
FIX = "export the delta again"
BLOCK = 1 << 20
PACKED = ".zst"
WORTH = 0.5  # of a file's size, up to which a part of it is kept instead


class _File(BaseModel):
    """How a file of the new bundle is made.

    Attributes:
        header: of a file of tensors whose rows are patched.
        begins: first byte of its tail; what stands before is the older file's.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    how: Literal["same", "rows", "trie", "tail", "whole"]
    header: str = ""
    begins: int = Field(0, ge=0)


class _Delta(BaseModel):
    """`delta.json`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    base: Hash
    bundle: Manifest
    files: dict[str, _File]


def write_delta(base: Path, bundle: Path, out: Path) -> Manifest:
    """Write what makes `bundle` of `base`.

    Args:
        base: the older bundle.
        bundle: the new one.
        out: the delta; one there is replaced when the new one is whole.

    Raises:
        ArtefactError: one of the two is no whole bundle.
    """
    with artefact.writing(out, KIND, {}) as draft:
        fill_delta(draft, base, bundle)
    found = artefact.peek(out)
    counts = found.counts
    log.info(
        "%s: %d bytes, %.1f %% of the bundle's", out, counts["bytes"], 100 * counts["bytes"] / counts["bundle_bytes"]
    )
    return found


def fill_delta(draft: Draft, base: Path, bundle: Path) -> None:
    """`write_delta` into an artefact that is being written; `bundle` may lie in its folder."""
    before, after = (artefact.read(place, BUNDLE) for place in (base, bundle))
    files = {name: _write_file(name, base, bundle, before, after, draft.path) for name in after.files}
    record = _Delta(base=before.content_hash, bundle=after, files=files)
    write_json(draft.path / RECORD, record.model_dump(mode="json"))
    draft.parents |= {"base": before.content_hash, "bundle": after.content_hash}
    draft.counts |= {"items": after.counts["items"], "base_items": before.counts["items"]}
    for name, place in (("bytes", draft.path), ("bundle_bytes", bundle)):
        draft.counts[name] = sum(each.stat().st_size for each in place.iterdir() if each.is_file())


def apply_delta(base: Path, delta: Path, out: Path) -> None:
    """Write the new bundle; files that are the same get a second name where that is possible.

    Raises:
        ArtefactError: the delta is of another bundle than `base`, or one of them was altered.
    """
    artefact.open_artefact(delta, KIND, lambda opened: _apply(base, delta, opened, out), (RECORD,))


def base_of(delta: Manifest) -> str:
    """Content hash of the bundle that a delta is applied to."""
    return delta.parents["base"]


def _apply(base: Path, delta: Path, opened: Opened, out: Path) -> None:
    record = opened.record(RECORD, _Delta)
    found = artefact.peek(base).content_hash
    if found != record.base:
        raise ArtefactError(f"{delta}: is over bundle {record.base[:12]}, but {base} is {found[:12]}; {FIX}")
    new = record.bundle
    if set(record.files) != set(new.files):
        raise ArtefactError(f"{delta}: {RECORD} does not say how every file is made; {FIX}")
    for name, file in record.files.items():
        if file.how == "same" and file_hash(base / name) != new.files[name]:
            raise ArtefactError(f"{base}: file {name} was altered after it was written; export the bundle whole")
    with artefact.writing(out, BUNDLE, new.config) as draft:
        draft.counts |= new.counts
        draft.parents |= new.parents
        # A trie comes after the codes that it is of.
        for name in sorted(record.files, key=lambda name: record.files[name].how == "trie"):
            _make_file(name, record.files[name], base, opened, draft.path)
        for name, expected in new.files.items():
            if record.files[name].how != "same" and file_hash(draft.path / name) != expected:
                raise ArtefactError(f"{delta}: {name} does not come out as it was; {FIX}")


def _write_file(name: str, base: Path, bundle: Path, before: Manifest, after: Manifest, folder: Path) -> _File:
    if before.files.get(name) == after.files[name]:
        return _File(how="same")
    if name == TRIE and _is_rebuilt(bundle, folder):
        return _File(how="trie")
    if name.endswith(".safetensors") and name in before.files:
        changes = find_changes(base / name, bundle / name)
        if bytes_of(changes) < WORTH * (bundle / name).stat().st_size:
            _pack(io.BytesIO(save(changes)), folder / f"rows-{name}{PACKED}")
            return _File(how="rows", header=Layout.read(bundle / name).text[8:].decode())
    size = (bundle / name).stat().st_size
    begins = _common(base / name, bundle / name) if name in before.files else 0
    if size - begins < WORTH * size:
        with open(bundle / name, "rb") as file:
            file.seek(begins)
            _pack(file, folder / f"tail-{name}{PACKED}")
        return _File(how="tail", begins=begins)
    with open(bundle / name, "rb") as file:
        _pack(file, folder / f"whole-{name}{PACKED}")
    return _File(how="whole")


def _make_file(name: str, file: _File, base: Path, opened: Opened, folder: Path) -> None:
    if file.how == "same":
        link_or_copy(base / name, folder / name)
    elif file.how == "trie":
        _build_trie(folder, folder / name)
    elif file.how == "tail":
        shutil.copyfile(base / name, folder / name)
        with open(folder / name, "r+b") as made:
            made.truncate(file.begins)
            made.seek(file.begins)
            with _unpacked(opened, f"tail-{name}") as packed:
                shutil.copyfileobj(packed, made, BLOCK)
    elif file.how == "whole":
        with open(folder / name, "wb") as made, _unpacked(opened, f"whole-{name}") as packed:
            shutil.copyfileobj(packed, made, BLOCK)
    else:
        text = file.header.encode()
        header = len(text).to_bytes(8, "little") + text
        with _unpacked(opened, f"rows-{name}") as packed:
            changes = load(packed.read(2 * Layout.parse(header, name).size + LARGEST_HEADER))
        apply_changes(base / name, header, changes, folder / name)


def _pack(source: IO[bytes], target: Path) -> None:
    with pa.OSFile(str(target), "wb") as file, pa.CompressedOutputStream(file, "zstd") as packed:
        shutil.copyfileobj(source, packed, BLOCK)


def _unpacked(opened: Opened, name: str) -> Any:
    return pa.CompressedInputStream(opened.folder.open(f"{name}{PACKED}"), "zstd")


def _common(old: Path, new: Path) -> int:
    """How many bytes both files begin with."""
    same = 0
    with open(old, "rb") as a, open(new, "rb") as b:
        while True:
            was, now = a.read(BLOCK), b.read(BLOCK)
            if was != now or not now:
                return same + next(
                    (n for n, (x, y) in enumerate(zip(was, now, strict=False)) if x != y), min(len(was), len(now))
                )
            same += len(now)


def _is_rebuilt(bundle: Path, scratch: Path) -> bool:
    """Whether a bundle's trie is the one that its codes give here."""
    made = scratch / f"whole-{TRIE}"
    _build_trie(bundle, made)
    same = file_hash(made) == file_hash(bundle / TRIE)
    made.unlink()
    return same


def _build_trie(bundle: Path, out: Path) -> None:
    settings: Any = BundleSettings.model_validate(json.loads((bundle / SETTINGS).read_bytes()))
    trie = PrefixTrie.build(load_file(bundle / CODES)[NAME].long(), settings.codes_per_level)
    save_file(trie.tensors(), out)
