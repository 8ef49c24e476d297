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
import os
import shutil
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save, save_file

from intrr_rec.errors import ArtefactError, PlaceError
from intrr_rec.io import artefact
from intrr_rec.io.artefact import Draft, Manifest, Opened, file_hash
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.io.manifest import Hash
from intrr_rec.io.versions import link_or_copy
from intrr_rec.semantic_ids.artefact import CODES, NAME, TRIE
from intrr_rec.semantic_ids.trie import PrefixTrie
from intrr_rec.serving.bundle.bundle import KIND as BUNDLE
from intrr_rec.serving.bundle.bundle import SETTINGS, BundleSettings
from intrr_rec.serving.bundle.deltas.row_patch import Layout, apply_changes, bytes_of, find_changes
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
        size: its bytes.
        header: of a file of tensors whose rows are patched.
        begins: first byte of its tail; what stands before is the older file's.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")
    how: Literal["same", "rows", "trie", "tail", "whole"]
    size: int = Field(ge=0, le=1 << 50)
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
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    needed, free = sum(file.size for file in record.files.values()), shutil.disk_usage(out.absolute().parent).free
    if needed > free:
        raise PlaceError(f"{out}: the bundle takes {needed:,} bytes, and {free:,} are free; make room there")
    with artefact.writing(out, BUNDLE, new.config) as draft:
        draft.counts |= new.counts
        draft.parents |= new.parents
        # A trie comes after the codes and settings that it is of.
        for name in sorted(record.files, key=lambda name: record.files[name].how == "trie"):
            how = record.files[name].how
            _make_file(name, record.files[name], base, opened, draft.path)
            if file_hash(draft.path / name) != new.files[name]:
                if how == "same":
                    raise ArtefactError(
                        f"{base}: file {name} was altered after it was written; export the bundle whole"
                    )
                raise ArtefactError(f"{delta}: {name} does not come out as it was; {FIX}")


def _write_file(name: str, base: Path, bundle: Path, before: Manifest, after: Manifest, folder: Path) -> _File:
    size = (bundle / name).stat().st_size
    if before.files.get(name) == after.files[name]:
        return _File(how="same", size=size)
    if name == TRIE and _is_rebuilt(bundle, folder):
        return _File(how="trie", size=size)
    if name.endswith(".safetensors") and name in before.files:
        changes = find_changes(base / name, bundle / name)
        if bytes_of(changes) < WORTH * size:
            _pack(io.BytesIO(save(changes)), folder / f"rows-{name}{PACKED}")
            return _File(how="rows", size=size, header=Layout.read(bundle / name).text[8:].decode())
    begins = _common(base / name, bundle / name) if name in before.files else 0
    how: Literal["tail", "whole"] = "tail" if size - begins < WORTH * size else "whole"
    begins = begins if how == "tail" else 0
    with open(bundle / name, "rb") as file:
        file.seek(begins)
        _pack(file, folder / f"{how}-{name}{PACKED}")
    return _File(how=how, size=size, begins=begins)


def _make_file(name: str, file: _File, base: Path, opened: Opened, folder: Path) -> None:
    """Write a file of the new bundle, of no more bytes than the delta says that it has: what is packed may unpack to any number."""
    made = folder / name
    if file.how == "same":
        link_or_copy(base / name, made)
    elif file.how == "trie":
        _build_trie(folder, made)
    elif file.how == "rows":
        text = file.header.encode()
        header = len(text).to_bytes(8, "little") + text
        if Layout.parse(header, name).size != file.size:
            raise ArtefactError(f"{opened.folder.place}: {RECORD} tells two sizes of {name}; {FIX}")
        rows = folder / f"rows-{name}"
        _unpack(opened, rows.name, rows, file.size + LARGEST_HEADER)
        apply_changes(base / name, header, load_file(rows), made)
        rows.unlink()
    else:
        if file.begins:
            if not file.begins <= min(file.size, (base / name).stat().st_size):
                raise ArtefactError(f"{opened.folder.place}: {name} begins as no file of {base}; {FIX}")
            shutil.copyfile(base / name, made)
            os.truncate(made, file.begins)
        _unpack(opened, f"{file.how}-{name}", made, file.size - file.begins)


def _pack(source: IO[bytes], target: Path) -> None:
    with pa.OSFile(str(target), "wb") as file, pa.CompressedOutputStream(file, "zstd") as packed:
        shutil.copyfileobj(source, packed, BLOCK)


def _unpack(opened: Opened, name: str, out: Path, most: int) -> None:
    """Append what is packed to `out`.

    Raises:
        ArtefactError: it cannot be unpacked, or has more than `most` bytes.
    """
    packed = f"{name}{PACKED}"
    try:
        with pa.CompressedInputStream(opened.folder.open(packed), "zstd") as source, open(out, "ab") as file:
            while data := source.read(BLOCK):
                most -= len(data)
                if most < 0:
                    raise ArtefactError(f"{opened.folder.place}: {packed} holds more than {RECORD} says; {FIX}")
                file.write(data)
    except pa.ArrowException as error:
        raise ArtefactError(f"{opened.folder.place}: {packed} cannot be unpacked ({error}); {FIX}") from None


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
