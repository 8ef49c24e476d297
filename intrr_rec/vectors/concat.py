"""Several vectors an item → one vectors artefact (`intrr concat-vectors`): how text, image and behaviour come together.

Each part is L2-normalised, multiplied by its weight and laid beside the others. Between two items that have all parts, the
squared distance is then Σ w² · 2(1 - cos) over the parts: a weight of 0.5 lets a part count a quarter.

Parts lie on disk in the dataset's order, so memory is bounded by a shard, not by the catalogue.

Shape suffixes: I items, R rows of a file, P rows of a shard, D width of a part.
"""

from __future__ import annotations

import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from intrr_rec.data.dataset import Dataset
from intrr_rec.errors import DataError, nearest
from intrr_rec.io import artefact
from intrr_rec.io.artefact import Manifest, file_hash
from intrr_rec.io.disk.places import not_the_input, url_of
from intrr_rec.io.formats.mapped import mapped_file
from intrr_rec.io.stores.staging import require_store, staged
from intrr_rec.vectors.embed import Storage, vectors_table
from intrr_rec.vectors.table import KIND, VectorTable, vectors_hash

log = logging.getLogger(__name__)

SHARD_ROWS = 8_192
IDS = ".ids.npy"


@dataclass(frozen=True)
class Part:
    """One kind of vectors.

    Attributes:
        path: Parquet with `item_id` and `column` (a file, a folder of shards, a vectors artefact), or a 2-D `.npy`. The rows
            of `x.npy` belong to the ids in `x.ids.npy` where that file is there, else to the dataset's items in the order of
            its item table (sorted by item id).
        weight: factor of the normalised vectors.
    """

    name: str
    path: Path
    column: str = "embedding"
    weight: float = 1.0


def parse_parts(words: Sequence[str], weights: Sequence[str] = ()) -> list[Part]:
    """Read `NAME=PATH[:COLUMN]` and `NAME=WEIGHT` words.

    Raises:
        DataError: a word of another form, a name given twice or unknown, a weight that is not a positive number.
        ConfigError: a URL.
    """
    parts: dict[str, Part] = {}
    for word in words:
        name, equals, place = word.partition("=")
        if not equals or not place or not re.fullmatch(r"[A-Za-z][\w-]*", name):
            raise DataError(
                f"--vectors {word}: write NAME=PATH or NAME=PATH:COLUMN, for instance text=work/text_vectors"
            )
        if name in parts:
            raise DataError(f"--vectors {word}: there is a part '{name}' already; give each its own name")
        path, colon, column = place.rpartition(":")
        whole = not colon or "/" in column or Path(place).exists()  # a colon of a URL is none of a column
        if url := url_of(place if whole else path):
            require_store(url)
        parts[name] = Part(name, Path(place)) if whole else Part(name, Path(path), column)
    for word in weights:
        name, equals, number = word.partition("=")
        if name not in parts:
            part = nearest(name, parts) or next(iter(parts))
            raise DataError(
                f"--weight {word}: no part '{name}', the parts are {', '.join(parts)}; write for instance --weight {part}=0.5"
            )
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise DataError(
                f"--weight {word}: '{number}' is not a positive number; to leave a part out, do not name it"
            )
        parts[name] = Part(name, parts[name].path, parts[name].column, weight)
    return list(parts.values())


def concat_vectors(dataset: Path, out: Path, parts: Sequence[Part], storage: Storage = "float16") -> Manifest:
    """Normalise, weigh and concatenate the parts, in their order, for every item of a dataset.

    A vector of zeros stays one: that part says nothing of that item.

    Raises:
        ArtefactError: `dataset` is no dataset, or `out` holds something else.
        DataError: a part that cannot be read or lacks an item, or an item that is zero in every part; names the part.
    """
    with staged() as places:
        parts = [replace(part, path=places.bring(part.path)) for part in parts]
        return _concat(dataset, out, parts, storage)


def _concat(dataset: Path, out: Path, parts: Sequence[Part], storage: Storage) -> Manifest:
    opened = Dataset.open(dataset)
    settings: dict[str, Any] = {"storage": storage, "normalization": "L2, each part"}
    with artefact.writing(out, KIND, settings) as draft:
        scratch = draft.path / ".scratch"
        scratch.mkdir()
        readers = []
        for part in parts:
            with _named(part):
                readers.append(_reader(part, opened, scratch / part.name))
                draft.parents[f"vectors/{part.name}"] = _hash(part.path)
        item_ids = opened.item_ids()
        widths = _write(draft.path, parts, readers, item_ids, np.dtype(storage))
        shutil.rmtree(scratch)
        draft.counts.update(items=opened.n_items, dimension=sum(widths))
        draft.parents["dataset"] = opened.manifest.content_hash
        settings["parts"] = [
            {"name": part.name, "column": part.column, "weight": part.weight, "dimension": width}
            for part, width in zip(parts, widths, strict=True)
        ]
    shown = ", ".join(f"{part.name} {width} x {part.weight:g}" for part, width in zip(parts, widths, strict=True))
    log.info("%s: %d vectors of %d values (%s)", out, opened.n_items, sum(widths), shown)
    return artefact.read(out, KIND)


Reader = Callable[[int, int], NDArray[np.float32]]
"""Vectors `[P, D]` of dense items start … end - 1."""


def _write(
    folder: Path, parts: Sequence[Part], readers: Sequence[Reader], item_ids: pa.ChunkedArray, storage: np.dtype[Any]
) -> list[int]:
    """Write the shards; returns the widths of the parts."""
    widths: list[int] = []
    empty = [0] * len(parts)
    for number, start in enumerate(range(0, len(item_ids), SHARD_ROWS)):
        ids_P = item_ids.slice(start, SHARD_ROWS)
        pieces = []
        for n, (part, reader) in enumerate(zip(parts, readers, strict=True)):
            x_PD = reader(start, start + len(ids_P)).astype(np.float64)
            bad_P = np.flatnonzero(~np.isfinite(x_PD).all(axis=1))
            if len(bad_P):
                item = ids_P[int(bad_P[0])].as_py()
                raise DataError(f"part '{part.name}': {part.path}: item {item!r}: not finite; embed the item again")
            norm_P = np.linalg.norm(x_PD, axis=1, keepdims=True)
            empty[n] += int((norm_P == 0).sum())
            pieces.append(part.weight * x_PD / np.where(norm_P > 0, norm_P, 1))
        widths = [piece.shape[1] for piece in pieces]
        x_PD = np.concatenate(pieces, axis=1)
        blank_P = np.flatnonzero(~x_PD.any(axis=1))
        if len(blank_P):
            names = ", ".join(part.name for part in parts)
            item = ids_P[int(blank_P[0])].as_py()
            raise DataError(f"item {item!r}: its vector is zero in every part ({names}); embed the item")
        with np.errstate(over="ignore"):
            stored_PD = x_PD.astype(storage)
        held_P = np.isfinite(stored_PD).all(axis=1) & stored_PD.any(axis=1)
        if not held_P.all():
            item = ids_P[int(np.flatnonzero(~held_P)[0])].as_py()
            raise DataError(
                f"item {item!r}: its vector does not fit {storage}; bring the weights of the parts near 1, or --storage float32"
            )
        pq.write_table(vectors_table(ids_P, stored_PD), folder / f"part-{number:05d}.parquet", use_dictionary=False)
    for part, count in zip(parts, empty, strict=True):
        if count:
            log.warning(
                "part '%s': %d items have a vector of zeros there; the other parts decide for them", part.name, count
            )
    return widths


def _reader(part: Part, dataset: Dataset, scratch: Path) -> Reader:
    if part.path.suffix.lower() == ".npy":
        return _read_npy(part, dataset)
    table = VectorTable(part.path, dataset, part.column, zeros=True)
    shape = (dataset.n_items, table.width)
    rows_ID = mapped_file(scratch, np.float32, shape)
    for ids_P, x_PD in table.blocks():
        rows_ID[ids_P] = x_PD
    return lambda start, end: rows_ID[start:end]


def _read_npy(part: Part, dataset: Dataset) -> Reader:
    if part.column != Part.column:
        raise DataError(f"{part.path}: an .npy file has no columns; leave ':{part.column}' out")
    x_RD = _load_npy(part.path)
    if x_RD.ndim != 2 or x_RD.dtype.kind != "f" or not x_RD.shape[1]:
        raise DataError(f"{part.path}: holds {x_RD.dtype} of shape {x_RD.shape}; vectors are a 2-D array of floats")
    companion = part.path.with_name(part.path.name.removesuffix(part.path.suffix) + IDS)
    if companion.is_file():
        row_I = _rows_by_id(companion, len(x_RD), dataset)
        return lambda start, end: x_RD[row_I[start:end]]
    if len(x_RD) != dataset.n_items:
        raise DataError(
            f"{part.path}: has {len(x_RD)} rows, but the dataset has {dataset.n_items} items; write one row an item, in the "
            f"order of the dataset's items.parquet, or the item id of each row into {companion.name}"
        )
    return lambda start, end: x_RD[start:end]


def _load_npy(path: Path) -> NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        not_the_input(error)
        raise DataError(f"{path}: cannot be read as .npy ({error}); write it with numpy.save") from None


def _rows_by_id(path: Path, n_rows: int, dataset: Dataset) -> NDArray[np.int64]:
    """Row of every dense item, by the file of ids."""
    ids_R = _load_npy(path)
    known = dataset.item_ids()
    wanted = "U" if pa.types.is_string(known.type) else "iu"
    if ids_R.shape != (n_rows,) or ids_R.dtype.kind not in wanted:
        kind = "strings" if wanted == "U" else "integers"
        raise DataError(
            f"{path}: holds {ids_R.dtype} of shape {ids_R.shape}; needed are {n_rows} ids, {kind} as in the dataset"
        )
    ids = pa.array(ids_R).cast(known.type)
    counts = ids.filter(pc.is_in(ids, value_set=known.combine_chunks())).value_counts()
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise DataError(f"{path}: item {twice[0]['values'].as_py()!r} stands there twice; keep one")
    row_I = pc.index_in(known, value_set=ids)
    if row_I.null_count:
        item = known.filter(row_I.is_null())[0].as_py()
        raise DataError(
            f"{path}: {row_I.null_count} of the dataset's {len(known)} items are missing, the first is item {item!r}; "
            f"embed them too"
        )
    return row_I.to_numpy().astype(np.int64)


def _hash(path: Path) -> str:
    return file_hash(path) if path.suffix.lower() == ".npy" else vectors_hash(path)


@contextmanager
def _named(part: Part) -> Iterator[None]:
    """Let complaints about a part name it."""
    try:
        yield
    except DataError as error:
        raise DataError(f"part '{part.name}': {error}") from None
