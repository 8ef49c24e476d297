"""Categories as item tables write them."""

from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.data.dataset import ITEMS, Dataset
from intrr_rec.errors import ConfigError
from intrr_rec.io.stores import storage
from intrr_rec.semantic_ids.quality.categories import read_categories


class Folder:
    """As much of a dataset as is read."""

    item_columns = Dataset.item_columns
    table = Dataset.table

    def __init__(self, path, **columns):
        self.path = path
        self.events = SimpleNamespace(folder=storage.Folder.at(path))
        pq.write_table(pa.table({"item_id": list(range(len(next(iter(columns.values())))))} | columns), path / ITEMS)


def labels(found):
    return [found.names[label] if label >= 0 else None for label in found.label_I.tolist()]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["Beauty > Makeup > Lips | Gifts > X", "Beauty>Hair ", " Toys "], ["Makeup", "Hair", "Toys"]),
        (["A | B > C", None, "", "   "], ["A", None, None, None]),
        ([["Beauty", "Skin Care"], [], None, ["Solo"]], ["Skin Care", None, None, "Solo"]),
        ([3, None, 12], ["3", None, "12"]),
    ],
)
def test_second_level_of_the_first_path(tmp_path, values, expected):
    assert labels(read_categories(Folder(tmp_path, category=values), None)) == expected


def test_which_column(tmp_path):
    folder = Folder(tmp_path, categories=["A > B"], category=["C"], shelf=["D"], odd=[{"x": 1}])
    assert labels(read_categories(folder, None)) == ["B"]
    assert labels(read_categories(folder, "shelf")) == ["D"]
    with pytest.raises(ConfigError, match=r"no column 'self'; it has item_id, categories"):
        read_categories(folder, "self")
    with pytest.raises(ConfigError, match="column 'odd' has type struct"):
        read_categories(folder, "odd")


@pytest.mark.parametrize("columns", [{"title": ["a"]}, {"category": [None]}, {"category": [{"x": 1}]}])
def test_none_there(tmp_path, columns):
    assert read_categories(Folder(tmp_path, **columns), None) is None
