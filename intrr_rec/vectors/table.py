"""Item content vectors: Parquet columns `item_id` and `embedding`, checked, in the dense ids of a dataset.

Shape suffixes: I items, R rows of the file(s), P rows of a block, D width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from intrr_rec.data.dataset import Dataset
from intrr_rec.data.raw.paths import PARQUET, files_hash, table_files
from intrr_rec.errors import DataError
from intrr_rec.io import artefact
from intrr_rec.io.disk.places import not_the_input
from intrr_rec.io.formats.mapped import roomy
from intrr_rec.io.formats.parquet import batches

log = logging.getLogger(__name__)

KIND = "vectors"
_BATCH_ROWS = 1 << 14
# Squared lengths between which float32 holds the distance of any two vectors, and of their means.
LEAST, MOST = 1e-30, 1e36


class VectorTable:
    """A Parquet file, or a folder of Parquet shards, with one vector an item; read in blocks, never whole.

    The columns are `item_id` (the dataset's own item ids) and `column` (list or fixed-size list of float16, float32 or
    float64). Vectors of other items are ignored. Without a dataset the dense id of a row is its place in the files.

    Args:
        zeros: whether a vector of zeros may stand for an item of which nothing is said, as in a part of several.

    Raises:
        DataError: a missing column, ids of the wrong type, a null, repeated or absent item; and, as blocks are read, vectors
            of unequal dimension or without values, a value that is not finite, or a length that float32 cannot hold.
    """

    def __init__(
        self, path: Path | str, dataset: Dataset | None = None, column: str = "embedding", *, zeros: bool = False
    ) -> None:
        self.path = Path(path)
        self._column = column
        self._zeros = zeros
        if (self.path / artefact.MANIFEST).is_file():  # of `intrr embed` or `concat-vectors`, not of others
            artefact.read(self.path, KIND)
        self.files = _files(path)
        self._rows = [_row_groups(file, column) for file in self.files]
        n_rows = sum(map(sum, self._rows))
        self.n_items = n_rows if dataset is None else dataset.n_items
        self._dense_R: np.ndarray | None = None
        if dataset is not None and not _in_order(self.files, dataset):
            self._dense_R = _dense_ids(self.path, self.files, dataset.item_ids())
        elif dataset is None and not n_rows:
            raise DataError(f"{path}: holds no vectors; embed the items first")
        ignored = n_rows - self.n_items
        if ignored and dataset is not None:
            log.info("%s: %d vectors belong to no item of %s: ignored", path, ignored, dataset.path)

    @cached_property
    def width(self) -> int:
        """D: the length of the first vector."""
        part = next(part for part, rows in enumerate(self._rows) if any(rows))
        _, vectors_PD = next(
            _vectors(self.files[part], range(len(self._rows[part])), self._rows[part], None, self._column)
        )
        return vectors_PD.shape[1]

    def blocks(self, rank: int = 0, size: int = 1) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(dense ids int64 `[P]`, float32 vectors `[P, D]`) of the row groups `rank`, `rank + size`, …; always the same."""
        row = number = 0
        for file, rows in zip(self.files, self._rows, strict=True):
            groups = [group for group in range(len(rows)) if (number + group) % size == rank]
            for first, vectors_PD in _vectors(file, groups, rows, self.width, self._column):
                ids_P = self._ids(row + first, len(vectors_PD))
                ours_P = ids_P >= 0
                self._require_lengths(file, first, vectors_PD, ours_P)
                yield (ids_P, vectors_PD) if ours_P.all() else (ids_P[ours_P], vectors_PD[ours_P])
            number += len(rows)
            row += sum(rows)

    def _require_lengths(self, file: Path, first: int, vectors_PD: np.ndarray, ours_P: np.ndarray) -> None:
        """Refuse what has no direction, or a length whose square overflows: distances to it say nothing."""
        with np.errstate(over="ignore"):
            squared_P = np.einsum("pd,pd->p", vectors_PD, vectors_PD)
        has_length_P = (squared_P >= LEAST) & (squared_P <= MOST)
        if self._zeros:
            has_length_P |= ~vectors_PD.any(axis=1)
        bad_P = np.flatnonzero(ours_P & ~has_length_P)
        if not len(bad_P):
            return
        row, largest = first + int(bad_P[0]), float(np.abs(vectors_PD[bad_P[0]]).max())
        what = "is zero" if not largest else f"has values up to {largest:.3g}, whose squares float32 cannot hold"
        more = f" (and {len(bad_P) - 1} more of this block)" if len(bad_P) > 1 else ""
        fix = "scale all vectors alike" if largest else "embed the item again"
        raise DataError(
            f"{file}: column '{self._column}', row {row + 1}, item {_item(file, row)!r}: the vector {what}{more}; {fix}"
        )

    def _ids(self, first: int, count: int) -> np.ndarray:
        if self._dense_R is None:
            return np.arange(first, first + count)
        return self._dense_R[first : first + count].astype(np.int64)


def read_vectors(path: Path | str, dataset: Dataset) -> np.ndarray:
    """All vectors of a dataset's items at once, float32 [I, D]; row `i` belongs to dense id `i`.

    Raises:
        DataError: as `VectorTable`.
    """
    table = VectorTable(path, dataset)
    vectors_ID = np.empty((table.n_items, table.width), np.float32)
    for ids_P, vectors_PD in table.blocks():
        vectors_ID[ids_P] = vectors_PD
    return vectors_ID


def map_vectors(path: Path | str, dataset: Dataset) -> NDArray[np.floating[Any]]:
    """All vectors of a dataset's items to be looked up, [I, D], float16 where they are stored so, else float32.

    Beyond a megabyte they lie in a file of TMPDIR that is mapped: no memory of the process grows with the catalogue.

    Raises:
        DataError: as `VectorTable`.
        PlaceError: TMPDIR has no room.
    """
    table = VectorTable(path, dataset)
    with pq.ParquetFile(table.files[0]) as parquet:
        stored = parquet.schema_arrow.field("embedding").type.value_type
    vectors_ID = roomy(np.float16 if pa.types.is_float16(stored) else np.float32, (table.n_items, table.width))
    for ids_P, vectors_PD in table.blocks():
        vectors_ID[ids_P] = vectors_PD
    return vectors_ID


def vectors_hash(path: Path | str) -> str:
    """Content hash of a vectors file or folder, wherever it lies: the parent hash of what is built from it."""
    return files_hash(_files(path))


def _files(path: Path | str) -> list[Path]:
    files = table_files(Path(path))
    if other := [file for file in files if file.suffix.lower() not in PARQUET]:
        raise DataError(
            f"{other[0]}: vectors are read from Parquet; give a .parquet file or a folder of them; `intrr concat-vectors` reads .npy"
        )
    return files


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        not_the_input(error)
        raise DataError(f"{file}: cannot be read as parquet ({error}); write the file again") from None


def _row_groups(file: Path, embedding: str) -> list[int]:
    """Rows of each row group of a file that has the two columns."""
    with _readable(file), pq.ParquetFile(file) as parquet:
        names = parquet.schema_arrow.names
        for column in ("item_id", embedding):
            if column not in names:
                raise DataError(f"{file}: no column '{column}'; it has {', '.join(names)}; rename the one you mean")
        return [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]


def _ids(file: Path, type_: pa.DataType) -> pa.Array:
    """The file's item ids, checked and cast to the dataset's type."""
    with _readable(file):
        ids = pq.ParquetFile(file).read(columns=["item_id"])["item_id"]
    wanted = "string" if pa.types.is_string(type_) else "integer"
    value_type = ids.type.value_type if pa.types.is_dictionary(ids.type) else ids.type
    is_string = any(
        is_kind(value_type) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )
    if not (is_string if wanted == "string" else pa.types.is_integer(value_type)):
        raise DataError(
            f"{file}: column 'item_id' has type {ids.type}, but the dataset's item ids are {wanted}s; write them the same way"
        )
    if ids.null_count:
        row = int(np.flatnonzero(ids.is_null().to_numpy())[0]) + 1
        raise DataError(f"{file}: column 'item_id', row {row}: the id is missing; fill it in or remove the row")
    if pa.types.is_uint64(value_type) and wanted == "integer":  # beyond int64 lies no item of a dataset
        ids = ids.cast(pa.uint64())
        ids = pc.if_else(pc.less_equal(ids, pa.scalar((1 << 63) - 1, pa.uint64())), ids, None)
    return ids.cast(type_).combine_chunks()


def _in_order(files: Sequence[Path], dataset: Dataset) -> bool:
    """Whether row `i` is item `i` throughout, as the verbs write them; some rows at a time."""
    rest, own = dataset.own_id_parts(), pa.array([], dataset.own_ids([]).type)
    for file in files:
        with _readable(file), pq.ParquetFile(file) as parquet:
            for batch in batches(parquet, _BATCH_ROWS, ["item_id"]):
                ids = batch["item_id"]
                while len(own) < len(ids) and (more := next(rest, None)) is not None:
                    own = pa.concat_arrays([own, more])
                if not own[: len(ids)].equals(ids):
                    return False
                own = own[len(ids) :]
    return not len(own) and next(rest, None) is None


def _dense_ids(path: Path, files: Sequence[Path], known: pa.ChunkedArray) -> np.ndarray | None:
    """Dense id of every row, -1 for items that are not the dataset's; None where row `i` is item `i` throughout."""
    ids_of = [_ids(file, known.type) for file in files]
    if pa.chunked_array(ids_of, known.type).equals(known):
        return None
    value_set = known.combine_chunks()
    dense_R = np.concatenate(
        [pc.index_in(ids, value_set=value_set).fill_null(-1).to_numpy(zero_copy_only=False) for ids in ids_of]
    )
    _check_items(path, files, ids_of, dense_R, known)
    return dense_R


def _check_items(
    path: Path, files: Sequence[Path], ids_of: Sequence[pa.Array], dense_R: np.ndarray, known: pa.ChunkedArray
) -> None:
    """Every item of the dataset exactly once."""
    ours_R = np.flatnonzero(dense_R >= 0)
    first_R = ours_R[np.unique(dense_R[ours_R], return_index=True)[1]]
    if len(first_R) < len(ours_R):
        again = int(np.setdiff1d(ours_R, first_R)[0])
        ends = np.cumsum([len(ids) for ids in ids_of])
        n = int(np.searchsorted(ends, again, side="right"))
        row = again - int(ends[n]) + len(ids_of[n])
        item = ids_of[n][row].as_py()
        raise DataError(f"{files[n]}: column 'item_id', row {row + 1}: item {item!r} has a vector already; keep one")
    absent_I = np.setdiff1d(np.arange(len(known)), dense_R)
    if len(absent_I):
        item = known[int(absent_I[0])].as_py()
        if (
            len(absent_I) == len(known)
            and (other := next((ids[0].as_py() for ids in ids_of if len(ids)), None)) is not None
        ):
            raise DataError(
                f"{path}: has a vector of none of the dataset's {len(known)} items: their ids are such as {item!r}, those of column "
                f"'item_id' such as {other!r}; write both the same way"
            )
        raise DataError(
            f"{path}: {len(absent_I)} of the dataset's {len(known)} items have no vector, the first is item {item!r}; "
            f"embed them too"
        )


def _vectors(
    file: Path, groups: Sequence[int], rows: Sequence[int], width: int | None, embedding: str
) -> Iterator[tuple[int, np.ndarray]]:
    """(first row in the file, float32 [P, D]) blocks of the row groups. `width`: D where it is known already."""
    with _readable(file), pq.ParquetFile(file) as parquet:
        for group in groups:
            first = sum(rows[:group])
            for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[embedding]):
                vectors_PD = _block(file, first, batch.column(0), width, embedding)
                yield first, vectors_PD
                first, width = first + len(vectors_PD), vectors_PD.shape[1]


def _block(file: Path, first: int, column: pa.Array, width: int | None, name: str) -> np.ndarray:
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (is_list and pa.types.is_floating(kind.value_type)):
        raise DataError(
            f"{file}: column '{name}' has type {kind}; write a fixed-size list of float16, float32 or float64"
        )
    if column.null_count:
        row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{file}: column '{name}', row {row + 1}, item {_item(file, row)!r}: the vector is missing")
    lengths_P = pc.list_value_length(column).to_numpy()
    width = int(lengths_P[0]) if width is None else width
    if not width:
        raise DataError(f"{file}: column '{name}', row {first + 1}: the vector has no values; embed the items again")
    unequal_P = np.flatnonzero(lengths_P != width)
    if len(unequal_P):
        raise DataError(
            f"{file}: column '{name}', row {first + int(unequal_P[0]) + 1}: has {lengths_P[unequal_P[0]]} values where "
            f"the rows before have {width}; all vectors need one dimension"
        )
    # A null inside a vector turns into NaN here, and is refused with it.
    values = column.flatten().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore", invalid="ignore"):
        vectors_PD = values.astype(np.float32, copy=False).reshape(len(column), width)
        finite = np.isfinite(vectors_PD.sum())  # one pass that misses nothing; what it suspects is looked at closely
    bad_P = np.flatnonzero([] if finite else ~np.isfinite(vectors_PD).all(axis=1))
    if len(bad_P):
        row = first + int(bad_P[0])
        value = vectors_PD[bad_P[0]][~np.isfinite(vectors_PD[bad_P[0]])][0]
        raise DataError(
            f"{file}: column '{name}', row {row + 1}, item {_item(file, row)!r}: holds {value}; embed the item again"
        )
    return vectors_PD


def _item(file: Path, row: int) -> int | str:
    return pq.ParquetFile(file).read(columns=["item_id"])["item_id"][row].as_py()
