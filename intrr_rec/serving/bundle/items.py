"""The items of a bundle as people know them: own ids, titles, popularity, and the columns of the item table.

`items.safetensors` holds what every answer needs as flat arrays that are mapped: own ids and titles (`item_index.py`), `popularity`
(events in the training part), `by_popularity` (dense ids, the most popular first), `newcomer` (the model never saw it); and, to
find ids, `number` where they are whole numbers in rising order, or `by_id` (dense ids in the order of own ids) where that is
neither so nor the order of dense ids. `items.parquet` holds what filters ask for, a
row an item in the order of dense ids: `item_id` (string), `title`, `first_seen` (its first event, seconds since 1970; null where
nobody had it or the logs have no times), then the free columns of the item table. Shape suffix: I items.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from intrr_rec.data.dataset import ITEMS, Dataset
from intrr_rec.data.popularity import falling_order
from intrr_rec.errors import ArtefactError, ConfigError, instead
from intrr_rec.io.disk.places import not_the_input
from intrr_rec.io.formats.parquet import batches
from intrr_rec.serving.bundle.item_columns import having, is_filterable, within
from intrr_rec.serving.bundle.item_index import BYTES, OFFSETS, ItemIndex, texts
from intrr_rec.serving.bundle.tensor_file import TensorFile
from intrr_rec.serving.bundle.title_search import BITS, GROUP, SEARCH, TitleSearch, write_search

OWN = ("item_id", "title", "first_seen")
RESERVED = (*OWN, "popularity", "newcomer")  # of the item table these are not carried over
_TYPES = {"item_id": pa.string(), "title": pa.string(), "first_seen": pa.int64()}
CHUNK = 1 << 16  # items that are written together


class ItemTable:
    """What is known of the items; columns that no one asks for stay on disk.

    The files stay open, so ones that take their place later are not mixed with them.

    Args:
        path: of `items.parquet`, for error messages.
        file: that file, open.
        flat: the arrays of `items.safetensors`.
        grams: those of `search.safetensors`; None of a bundle without: a search looks at every title.

    Raises:
        ArtefactError: a column or an array is missing or of another type or length.
    """

    def __init__(
        self, path: Path, file: pq.ParquetFile, flat: Mapping[str, Tensor], grams: Tensor | None = None
    ) -> None:
        self.path = path
        self._file = file
        self.schema = self._file.schema_arrow
        for name, expected in _TYPES.items():
            if name not in self.schema.names or self.schema.field(name).type != expected:
                raise ArtefactError(f"{path}: has no column '{name}' of type {expected}; export the bundle again")
        order_I = flat["by_id"].numpy() if "by_id" in flat else None
        number_I = flat["number"].numpy() if "number" in flat else None
        self.index = ItemIndex(texts(flat, "id"), order_I, number_I)
        # Looking at the numbers once also has their pages at hand before the first request.
        if number_I is not None and not all(rises(number_I[f : f + CHUNK + 1]) for f in range(0, len(number_I), CHUNK)):
            raise ArtefactError(f"{path}: the numbers of its items do not rise; export the bundle again")
        self._titles = texts(flat, "title")
        self.popularity_I: NDArray[np.int64] = flat["popularity"].numpy()
        self.by_popularity_I: NDArray[np.int64] = flat["by_popularity"].numpy()
        self.newcomer_I: NDArray[np.bool_] = flat["newcomer"].numpy().view(np.bool_)
        found = [file.metadata.num_rows, len(self._titles), *map(len, (self.popularity_I, self.by_popularity_I))]
        found += [len(each) for each in (self.newcomer_I, order_I, number_I) if each is not None]
        if set(found) != {len(self)} or not all(
            _are_items(each) for each in (self.by_popularity_I, order_I) if each is not None
        ):
            raise ArtefactError(
                f"{path}: its columns and the arrays beside it differ in length, or name an item that is none; export the bundle again"
            )
        grams_HG = None if grams is None else grams.numpy()
        if grams_HG is not None and (grams_HG.dtype != np.uint8 or grams_HG.shape != (BITS, -(-len(self) // GROUP))):
            raise ArtefactError(f"{path.parent}: {SEARCH} is not of its items; export the bundle again")
        self.search = TitleSearch(self._titles, self.by_popularity_I, grams_HG)

    def __len__(self) -> int:
        return len(self.index.ids)

    @property
    def columns(self) -> list[str]:
        """The columns that a filter may name."""
        return [each.name for each in self.schema if each.name not in OWN and is_filterable(each.type)]

    def dense(self, own_ids: Iterable[str]) -> list[int | None]:
        """Dense id of each item; None for an item the bundle does not know."""
        return [item if item >= 0 else None for item in self.places(own_ids).tolist()]

    def places(self, own_ids: Iterable[str]) -> NDArray[np.int64]:
        """`dense` as an array, -1 for None."""
        wanted = pa.array(own_ids, pa.large_string())
        return self.index.places(wanted) if len(wanted) else np.zeros(0, np.int64)

    def own(self, items: Iterable[int]) -> list[str]:
        """The user's own id of each dense id."""
        return self.own_column(items).to_pylist()

    def own_column(self, items: Iterable[int]) -> pa.Array:
        """`own` as a column of strings."""
        return self.index.ids.take(pa.array(items, pa.int64())).cast(pa.string())

    def titles(self, items: Iterable[int]) -> list[str]:
        """What to call each item (dense ids)."""
        return self._titles.take(pa.array(items, pa.int64())).to_pylist()

    def having(self, column: str, values: Iterable[str]) -> NDArray[np.bool_]:
        """Which items have one of these values, compared by the column's type; an entry of a list counts as one. `[I]`

        Raises:
            ConfigError: no such column, one that cannot be filtered by, or a value that no item has.
        """
        return having(column, self._filtered(column), list(values))

    def within(self, column: str, bounds: tuple[str | None, str | None]) -> NDArray[np.bool_]:
        """Which items have a number or moment from the first bound on that is below the second; an entry of a list is enough. `[I]`

        Raises:
            ConfigError: no such column, one that has no order, or a bound that is none of its type.
        """
        return within(column, self._filtered(column), bounds)

    def _filtered(self, column: str) -> pa.Array:
        if column not in self.schema.names or column in OWN:
            raise ConfigError(f"no column '{column}' to filter by{instead(column, self.columns) or '; there is none'}")
        return self._column(column).combine_chunks()

    def newer(self, than: int) -> NDArray[np.bool_]:
        """Which items nobody had before a moment (seconds since 1970); one that nobody has had counts as new. `[I]`

        Raises:
            ConfigError: the logs had no times.
        """
        if not self.tells_age:
            raise ConfigError("the logs of this bundle had no times, so nothing tells which items are new")
        return pc.fill_null(pc.greater_equal(self._column("first_seen"), than), True).to_numpy()

    @cached_property
    def tells_age(self) -> bool:
        """Whether anything is known of when items were first had."""
        first = self._column("first_seen")
        return first.null_count < len(first)

    def _column(self, name: str) -> pa.ChunkedArray:
        try:
            return self._file.read(columns=[name])[name]
        except (OSError, pa.ArrowException) as error:
            not_the_input(error)
            raise ArtefactError(f"{self.path}: was cut short while it was in use; export the bundle again") from None


def rises(number_N: NDArray[np.int64]) -> bool:
    """Whether each number is above the one before."""
    return bool((number_N[1:] > number_N[:-1]).all())


def _are_items(item_I: NDArray[np.int64]) -> bool:
    """Whether all of these are dense ids of as many items; looked at a part at a time."""
    parts = (item_I[first : first + CHUNK] for first in range(0, len(item_I), CHUNK))
    return all(int(part.min()) >= 0 and int(part.max()) < len(item_I) for part in parts)


def write_items(dataset: Dataset, is_new_I: NDArray[np.bool_] | None, table: Path, flat: Path) -> None:
    """Write a dataset's items, those the model never saw marked, some at a time: `items.parquet`, `items.safetensors`, and beside it
    `search.safetensors`.

    Args:
        is_new_I: None where the model saw all.
    """
    n_items, sizes, is_sorted, last = dataset.n_items, {"id": 0, "title": 0}, True, None
    for part, ids in _parts(dataset):
        rises = pc.all(pc.less(ids[:-1], ids[1:])).as_py() is not False  # None: there is but one
        is_sorted = is_sorted and rises and (last is None or last < ids[0].as_py())
        last = ids[-1].as_py()
        for name, column in (("id", part["item_id"]), ("title", part["title"])):
            sizes[name] += pc.sum(pc.binary_length(column)).as_py()
    popularity_I = dataset.popularity()
    arrays: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        f"{name}.{OFFSETS}": (torch.int64, (n_items + 1,)) for name in sizes
    }
    arrays |= {f"{name}.{BYTES}": (torch.uint8, (size,)) for name, size in sizes.items()}
    arrays |= dict.fromkeys(("popularity", "by_popularity"), (torch.int64, (n_items,)))
    arrays["newcomer"] = (torch.uint8, (n_items,))
    way = "number" if is_sorted and isinstance(last, int) else None if is_sorted else "by_id"
    if way is not None:
        arrays[way] = (torch.int64, (n_items,))
    writer = None
    with TensorFile(flat, arrays) as file:
        first, begun = 0, dict.fromkeys(sizes, 0)
        for part, ids in _parts(dataset):
            writer = writer or pq.ParquetWriter(table, part.schema)
            writer.write_table(part)
            for name, column in (("id", part["item_id"]), ("title", part["title"])):
                text = pa.concat_arrays(column.cast(pa.large_string()).chunks)
                _, offsets, data = text.buffers()
                own = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
                written = np.frombuffer(data or b"", np.uint8)[own[0] : own[-1]]
                file.write(f"{name}.{OFFSETS}", first, torch.from_numpy(own - own[0] + begun[name]))
                file.write(f"{name}.{BYTES}", begun[name], torch.from_numpy(written.copy()))
                begun[name] += len(written)
            if way == "number":
                file.write(way, first, torch.from_numpy(ids.to_numpy().copy()))
            first += len(part)
        order_I = falling_order(popularity_I)
        for first in range(0, n_items, CHUNK):
            part = slice(first, min(first + CHUNK, n_items))
            file.write("popularity", first, torch.from_numpy(np.array(popularity_I[part])))
            file.write("by_popularity", first, torch.from_numpy(np.array(order_I[part])))
            is_new = np.zeros(part.stop - first, np.uint8) if is_new_I is None else is_new_I[part].astype(np.uint8)
            file.write("newcomer", first, torch.from_numpy(is_new))
        if way == "by_id":
            ids = dataset.item_ids().cast(pa.string())
            file.write(way, 0, torch.from_numpy(pc.sort_indices(ids).to_numpy().astype(np.int64)))
    if writer is not None:
        writer.close()
    with safe_open(flat, framework="pt") as mapped:
        tensors = {name: mapped.get_tensor(name) for name in mapped.keys()}  # noqa: SIM118 it is no dictionary
    write_search(texts(tensors, "title"), tensors["by_popularity"].numpy(), flat.parent / SEARCH)


def _parts(dataset: Dataset) -> Iterator[tuple[pa.Table, pa.ChunkedArray]]:
    """The rows of `items.parquet`, and their own ids as the dataset has them, some at a time."""
    with dataset.events.folder.open(ITEMS) as handle:
        file = pq.ParquetFile(handle)
        for batch in batches(file, CHUNK):
            table = pa.Table.from_batches([batch])
            named = [
                table[name].cast(pa.string()) for name in ("title", "text", "item_id") if name in table.column_names
            ]
            columns = {
                "item_id": table["item_id"].cast(pa.string()),
                "title": pc.coalesce(*named),
                "first_seen": table["first_seen"],
            }
            free = [name for name in table.column_names if name not in (*RESERVED, "text", "item")]
            yield pa.table(columns | {name: table[name] for name in free}), table["item_id"]
