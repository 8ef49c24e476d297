"""One category an item, read from a column of the dataset's item table.

Shape legend: I items.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from intrr_rec.data.dataset import ITEMS, Dataset
from intrr_rec.errors import ConfigError

USUAL_COLUMNS = ("categories", "category")
# "Beauty > Makeup > Lips | Gifts" → root "Beauty", second "Makeup".
_PATH = r"^\s*(?P<root>[^>|]*[^>|\s])(?:\s*>\s*(?P<second>[^>|]*[^>|\s]))?"


@dataclass(frozen=True)
class Categories:
    """The second level of each item's first category path ("Beauty > Makeup > Lips" → "Makeup"), or its only level.

    Attributes:
        names: categories, sorted.
        label_I: int64 index into `names`, -1 where the item has none.
    """

    names: tuple[str, ...]
    label_I: Tensor


def read_categories(dataset: Dataset, column: str | None) -> Categories | None:
    """The items' categories; None where the item table has no column for them, or an empty one.

    Args:
        column: the column to read, of strings or lists of strings; None takes the first of `USUAL_COLUMNS` there is.

    Raises:
        ConfigError: `column` is not in the item table, or cannot be read as categories.
    """
    present = dataset.item_columns
    chosen = column or next((name for name in USUAL_COLUMNS if name in present), None)
    if chosen is None:
        return None
    if chosen not in present:
        raise ConfigError(
            f"index.category_column: {dataset.path}/{ITEMS} has no column '{chosen}'; it has {', '.join(present)}"
        )
    values = dataset.table(ITEMS, [chosen])[chosen]
    is_list = pa.types.is_list(values.type) or pa.types.is_large_list(values.type)
    try:
        text = pc.binary_join(values, " > ") if is_list else values.cast(pa.string())
    except pa.ArrowException:
        if column is None:
            return None
        raise ConfigError(
            f"index.category_column: column '{chosen}' has type {values.type}; give one of strings like 'A > B > C'"
        ) from None
    found = pc.extract_regex(text, _PATH)
    root, second = pc.struct_field(found, "root"), pc.struct_field(found, "second")
    name = pc.if_else(pc.equal(second, ""), root, second)
    names = sorted(name.drop_null().unique().to_pylist())
    if not names:
        return None
    label_I = pc.index_in(name, value_set=pa.array(names)).fill_null(-1).to_numpy().astype("int64")
    return Categories(tuple(names), torch.from_numpy(label_I))
