"""Item texts → vectors artefact (`intrr embed`), shard by shard, so that a killed job goes on where it stopped.

Finished shards lie beside the target in a folder named after the job: dataset, encoder and settings. The artefact is made
of them at the very end, so there is the old one or the new one, and a job that was interrupted gives the same bytes as one
that was not.

Where vectors of the same encoder and settings lie at the target, those of items whose text is the same are taken from there, so that
a dataset that logs were added to costs its newcomers alone. An item keeps its number in such a dataset, so the two are compared
place by place.

Shape suffixes: R rows of a shard, B texts of a batch, D width of a vector.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from intrr_rec.data import dataset as prepared
from intrr_rec.errors import ArtefactError, DataError, nearest
from intrr_rec.io import artefact
from intrr_rec.io import shards as jobs
from intrr_rec.io.artefact import Manifest
from intrr_rec.vectors.table import KIND

if TYPE_CHECKING:  # for its type alone: precomputed vectors need no torch
    from intrr_rec.vectors.encoder import Encoder

log = logging.getLogger(__name__)

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"  # of `encoder`, which needs torch
FALLBACK = "title"
Storage = Literal["float16", "float32"]
# Compressing the low bits of floats costs time and saves little.
STORED = {
    "compression": {"item_id": "zstd", "embedding.list.element": "none", "text_hash": "none"},
    "use_dictionary": False,
}
_SAME = ("item_id", "text_hash")

_OURS = ("item", "item_id", "first_seen")  # columns of the item table that `prepare` makes


@dataclass(frozen=True)
class EmbedSettings:
    """How to embed; all of it is kept in the manifest.

    Attributes:
        text_column: column of the item table; an item without text there, or without the column `text`, is embedded by its `title`.
        batch: texts a batch.
        shard_rows: items a shard: the work that a killed job may lose.
        storage: type of the vectors on disk.
    """

    text_column: str = "text"
    batch: int = 16
    shard_rows: int = 8_192
    storage: Storage = "float16"


def embed_dataset(dataset: Path, out: Path, encoder: Encoder, settings: EmbedSettings = EmbedSettings()) -> Manifest:
    """Embed the text of every item of a dataset, in the order of its item table; what is at `out` is gone on from.

    Raises:
        ArtefactError: `dataset` is no dataset, `out` holds something else, or another process is at the same job.
        DataError: no such column, an item without any text, or a vector that cannot be stored.
    """
    source = artefact.read(dataset, prepared.KIND)
    items = Path(dataset) / prepared.ITEMS
    template = _check_texts(items, settings.text_column)
    config = {
        **asdict(settings),
        "encoder": encoder.name,
        "dimension": encoder.width,
        "template": template,
        "identity": encoder.identity,
    }
    job = {"dataset": source.content_hash, **{key: value for key, value in config.items() if key != "encoder"}}
    total = source.counts["items"]
    # The draft is opened first: a target that may not be written is known before hours of work.
    with (
        jobs.staging(Path(out), "embed", job) as staging,
        artefact.writing(out, KIND, config, keep_old=True) as draft,
        jobs.progress("embed", "items", total) as advance,
    ):
        shards, encoded = [], 0
        before = _reusable(Path(out), config)
        for number, table in enumerate(_shards(items, template, settings.shard_rows)):
            shard = staging / jobs.shard_name(number)
            if jobs.shard_rows(shard) != table.num_rows:
                known = None if before is None else before / shard.name
                encoded += _make_shard(shard, known, table, encoder, settings, lambda rows: advance(rows, True))
            else:
                advance(table.num_rows, False)
            shards.append(shard)
        for shard in shards:
            jobs.link(shard, draft.path / shard.name)
        draft.counts.update(items=total, dimension=encoder.width)
        draft.parents["dataset"] = source.content_hash
    log.info("%s: %d vectors of %d values by %s; %d encoded now", out, total, encoder.width, encoder.name, encoded)
    return artefact.read(out, KIND)


def _check_texts(items: Path, column: str) -> list[str]:
    """The columns a text is taken from, the first that has one; refuses an item without any before work begins."""
    schema = pq.read_schema(items)
    if column == EmbedSettings.text_column and column not in schema.names and FALLBACK in schema.names:
        log.info("%s: no column '%s': titles are embedded; --text-column names another", items, column)
        column = FALLBACK
    if column not in schema.names:
        free = [name for name in schema.names if name not in _OURS]
        if not free:
            raise DataError(f"{items}: holds no item texts; run `intrr prepare` with --items and the item table")
        near = nearest(column, free)
        hint = (
            f"did you mean --text-column {near}?" if near else f"name one of them, for instance --text-column {free[0]}"
        )
        raise DataError(f"{items}: no column '{column}'; it has {', '.join(free)}; {hint}")
    columns = [column, *([FALLBACK] if FALLBACK in schema.names and column != FALLBACK else [])]
    if not _is_text(schema.field(column).type):
        raise DataError(f"{items}: column '{column}' has type {schema.field(column).type}; texts must be strings")
    columns = [name for name in columns if _is_text(schema.field(name).type)]
    first: Any = None
    empty = fallen = 0
    for batch in pq.ParquetFile(items).iter_batches(columns=["item_id", *columns]):
        blank = [_blank(batch[name]) for name in columns]
        nothing = blank[0] if len(blank) == 1 else pc.and_(*blank)
        fallen += pc.sum(blank[0]).as_py() or 0
        count = pc.sum(nothing).as_py() or 0
        if count and not empty:
            first = batch["item_id"].filter(nothing)[0].as_py()
        empty += count
    if empty:
        raise DataError(
            f"{items}: column '{column}', item {first!r}: has no text{' and no title' if len(columns) > 1 else ''} "
            f"({empty} such items); fill it in the item table and run `intrr prepare` again, or name another --text-column"
        )
    if fallen:
        log.warning("%s: %d items have no '%s': their title is embedded instead", items, fallen, column)
    return columns


def text_columns(dataset: Path) -> list[str]:
    """The columns of a dataset's items that `embed_dataset` can take texts from.

    Raises:
        OSError: `dataset` holds no item table.
    """
    schema = pq.read_schema(Path(dataset) / prepared.ITEMS)
    return [field.name for field in schema if field.name not in _OURS and _is_text(field.type)]


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _blank(column: pa.Array) -> pa.Array:
    """True where a text is null, empty or only white space."""
    return pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(_strings(column))), 0).fill_null(True)


def _strings(column: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _shards(items: Path, columns: Sequence[str], rows: int) -> Iterator[pa.Table]:
    """Tables (item_id, text) of exactly `rows` items, the last one of fewer."""
    pending: list[pa.Table] = []
    held = 0
    for batch in pq.ParquetFile(items).iter_batches(columns=["item_id", *columns]):
        text = _strings(batch[columns[0]])
        for name in columns[1:]:
            text = pc.if_else(_blank(text), _strings(batch[name]), text)
        pending.append(pa.table({"item_id": batch["item_id"], "text": text}))
        held += batch.num_rows
        while held >= rows:
            table = pa.concat_tables(pending)
            yield table.slice(0, rows)
            pending, held = [table.slice(rows)], held - rows
    if held:
        yield pa.concat_tables(pending)


def _reusable(out: Path, config: dict[str, Any]) -> Path | None:
    """The vectors at `out`, where the same encoder made them by the same settings."""
    try:
        manifest = artefact.read(out, KIND)
    except ArtefactError:
        return None
    deciding = {key: value for key, value in config.items() if key not in ("encoder", "batch")}
    return out if all(manifest.config.get(key) == value for key, value in deciding.items()) else None


def _make_shard(
    shard: Path,
    known: Path | None,
    table: pa.Table,
    encoder: Encoder,
    settings: EmbedSettings,
    advance: Callable[[int], None],
) -> int:
    """Write a shard; returns how many of its texts were encoded.

    Args:
        known: the shard of this number in the vectors before; None where there are none.
        table: its items: item_id, text.
    """
    made = table.append_column("text_hash", _hashes(table["text"]))
    old = _known_rows(known, made)
    if old is not None and len(old) == len(made) and old["is_same"].combine_chunks().true_count == len(made):
        assert known is not None
        jobs.take_shard(known, shard)
        advance(len(made))
        return 0
    vectors_RD = np.empty((len(made), encoder.width), np.dtype(settings.storage))
    is_known_R = np.zeros(len(made), np.bool_)
    if old is not None:
        is_known_R[: len(old)] = old["is_same"].to_numpy()
        old_RD = old["embedding"].combine_chunks().flatten().to_numpy().reshape(len(old), -1)
        vectors_RD[: len(old)][is_known_R[: len(old)]] = old_RD[is_known_R[: len(old)]]
    advance(int(is_known_R.sum()))
    new_R = np.flatnonzero(~is_known_R)
    if len(new_R):
        vectors_RD[new_R] = _encode(made.take(pa.array(new_R)), encoder, settings, advance)
    ready = vectors_table(made["item_id"], vectors_RD).append_column("text_hash", made["text_hash"])
    jobs.write_shard(shard, ready, **STORED)
    return len(new_R)


def _known_rows(known: Path | None, made: pa.Table) -> pa.Table | None:
    """The first rows of the shard before, with a column `is_same`: whether item and text are those of `made` at that place."""
    if known is None or not known.is_file():
        return None
    schema = pq.read_schema(known)
    if "text_hash" not in schema.names or schema.field("item_id").type != made.schema.field("item_id").type:
        return None
    old = pq.read_table(known, columns=["item_id", "embedding", "text_hash"])[: len(made)]
    same = [pc.equal(old[name].combine_chunks(), made[name][: len(old)].combine_chunks()) for name in _SAME]
    return old.append_column("is_same", pc.and_(*same).fill_null(False))


def _hashes(texts: pa.ChunkedArray) -> pa.Array:
    """16 bytes that tell a text from any other."""
    made = [blake2b(text.encode(), digest_size=16).digest() for text in texts.to_pylist()]
    return pa.array(made, pa.binary(16))


def _encode(
    table: pa.Table, encoder: Encoder, settings: EmbedSettings, advance: Callable[[int], None]
) -> NDArray[np.floating[Any]]:
    """Vectors of the texts of `table`, `[R, D]`, in its order; texts of similar length are encoded together."""
    texts = table["text"].to_pylist()
    order_R = np.argsort(-encoder.lengths(texts), kind="stable")  # longest first: too large a batch fails at once
    vectors_RD = np.empty((len(texts), encoder.width), np.dtype(settings.storage))
    for start in range(0, len(texts), settings.batch):
        rows_B = order_R[start : start + settings.batch]
        with np.errstate(over="ignore"):
            vectors_RD[rows_B] = encoder.encode([texts[row] for row in rows_B])
        advance(len(rows_B))
    bad_R = np.flatnonzero(~np.isfinite(vectors_RD).all(axis=1))
    if len(bad_R):
        item = table["item_id"][int(bad_R[0])].as_py()
        raise DataError(
            f"{encoder.name}: the vector of item {item!r} does not fit {settings.storage} or is not finite; try "
            f"--storage float32 or --precision fp32"
        )
    return vectors_RD


def vectors_table(item_ids: pa.ChunkedArray | pa.Array, vectors_RD: NDArray[np.floating[Any]]) -> pa.Table:
    """A shard of a vectors artefact: item_id, embedding (fixed-size list of the array's own type)."""
    flat = pa.array(np.ascontiguousarray(vectors_RD).reshape(-1))
    return pa.table({"item_id": item_ids, "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors_RD.shape[1])})
