"""Item content vectors: Parquet columns `item_id` and `embedding`, read into the order of a dataset's dense ids.

Shape suffixes: I items, R rows of the file(s), D width.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from intrr_rec.data.prepared import Dataset
from intrr_rec.data.schema import files_hash, table_files
from intrr_rec.errors import DataError

log = logging.getLogger(__name__)

_BATCH_ROWS = 1 << 14


def read_vectors(path: Path | str, dataset: Dataset) -> np.ndarray:
    """Read the vectors of a dataset's items, float32 [I, D]; row `i` belongs to dense id `i`.

    Args:
        path: a Parquet file, or a folder of Parquet shards, with `item_id` (the dataset's own item ids) and `embedding`
            (list or fixed-size list of float16, float32 or float64). Vectors of other items are ignored.
        dataset: names the items and their order.

    Raises:
        DataError: a missing column, ids of the wrong type, a null, repeated or absent item, vectors of unequal
            dimension, or a value that is not finite.
    """
    files = _files(path)
    known = dataset.item_ids()
    ids_of = [_ids(file, known.type) for file in files]
    dense_R = pc.index_in(pa.chunked_array(ids_of, known.type), value_set=known.combine_chunks())
    dense_R = dense_R.combine_chunks().fill_null(-1).to_numpy()
    _check_items(Path(path), files, ids_of, dense_R, known)
    vectors_ID: np.ndarray | None = None
    start = 0
    for file, ids in zip(files, ids_of, strict=True):
        for first, vectors_RD in _vectors(file, ids, None if vectors_ID is None else vectors_ID.shape[1]):
            if vectors_ID is None:
                vectors_ID = np.empty((dataset.n_items, vectors_RD.shape[1]), np.float32)
            if vectors_RD.shape[1] != vectors_ID.shape[1]:
                raise _unequal(file, first + 1, vectors_RD.shape[1], vectors_ID.shape[1])
            rows_R = dense_R[start + first : start + first + len(vectors_RD)]
            vectors_ID[rows_R[rows_R >= 0]] = vectors_RD[rows_R >= 0]
        start += len(ids)
    assert vectors_ID is not None
    ignored = int((dense_R < 0).sum())
    if ignored:
        log.info("%s: %d vectors belong to no item of %s: ignored", path, ignored, dataset.path)
    return vectors_ID


def vectors_hash(path: Path | str) -> str:
    """Content hash of a vectors file or folder, wherever it lies: the parent hash of what is built from it."""
    return files_hash(_files(path))


def _files(path: Path | str) -> list[Path]:
    files = table_files(Path(path))
    if files[0].suffix.lower() != ".parquet":
        raise DataError(f"{files[0]}: vectors are read from Parquet; give a .parquet file or a folder of them")
    return files


def _ids(file: Path, type_: pa.DataType) -> pa.Array:
    """The file's item ids, checked and cast to the dataset's type."""
    try:
        names = pq.read_schema(file).names
        for column in ("item_id", "embedding"):
            if column not in names:
                raise DataError(f"{file}: no column '{column}'; it has {', '.join(names)}; rename the one you mean")
        ids = pq.read_table(file, columns=["item_id"])["item_id"]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read as parquet ({error}); write the file again") from None
    wanted = "string" if pa.types.is_string(type_) else "integer"
    value_type = ids.type.value_type if pa.types.is_dictionary(ids.type) else ids.type
    is_string = pa.types.is_string(value_type) or pa.types.is_large_string(value_type)
    if not (is_string if wanted == "string" else pa.types.is_integer(value_type)):
        raise DataError(
            f"{file}: column 'item_id' has type {ids.type}, but the dataset's item ids are {wanted}s; write them the same way"
        )
    if ids.null_count:
        row = int(np.flatnonzero(ids.is_null().to_numpy())[0]) + 1
        raise DataError(f"{file}: column 'item_id', row {row}: the id is missing; fill it in or remove the row")
    return ids.cast(type_).combine_chunks()


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
        raise DataError(
            f"{path}: {len(absent_I)} of the dataset's {len(known)} items have no vector, the first is item {item!r}; "
            f"embed them too"
        )


def _vectors(file: Path, ids: pa.Array, width: int | None) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, float32 [R, D]) batches of a file's embeddings, checked. `width`: D where it is known already."""
    first = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS, columns=["embedding"]):
            vectors_RD = _batch(file, first, ids, batch.column(0), width)
            yield first, vectors_RD
            first, width = first + len(vectors_RD), vectors_RD.shape[1]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read as parquet ({error}); write the file again") from None


def _batch(file: Path, first: int, ids: pa.Array, column: pa.Array, width: int | None) -> np.ndarray:
    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not (is_list and pa.types.is_floating(kind.value_type)):
        raise DataError(
            f"{file}: column 'embedding' has type {kind}; write a fixed-size list of float16, float32 or float64"
        )
    if column.null_count:
        row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(f"{file}: column 'embedding', row {row + 1}, item {ids[row].as_py()!r}: the vector is missing")
    lengths_R = pc.list_value_length(column).to_numpy()
    width = int(lengths_R[0]) if width is None else width
    unequal_R = np.flatnonzero(lengths_R != width)
    if len(unequal_R):
        raise _unequal(file, first + int(unequal_R[0]) + 1, int(lengths_R[unequal_R[0]]), width)
    # A null inside a vector turns into NaN here, and is refused with it.
    values = column.flatten().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        vectors_RD = values.astype(np.float32, copy=False).reshape(len(column), width)
    bad_R = np.flatnonzero(~np.isfinite(vectors_RD).all(axis=1))
    if len(bad_R):
        row = first + int(bad_R[0])
        value = vectors_RD[bad_R[0]][~np.isfinite(vectors_RD[bad_R[0]])][0]
        raise DataError(
            f"{file}: column 'embedding', row {row + 1}, item {ids[row].as_py()!r}: holds {value}; embed the item again"
        )
    return vectors_RD


def _unequal(file: Path, row: int, width: int, expected: int) -> DataError:
    return DataError(
        f"{file}: column 'embedding', row {row}: has {width} values where the rows before have {expected}; "
        f"all vectors need one dimension"
    )
