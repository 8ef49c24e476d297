"""What `intrr inspect-ids` shows, and the mistakes it answers in one line."""

import pyarrow as pa
import pytest
import torch
from rich.console import Console

from intrr_rec.data.dataset import Dataset
from intrr_rec.errors import ArtefactError, ConfigError, DataError
from intrr_rec.semantic_ids.artefact import Growth, Published, SemanticIds
from intrr_rec.semantic_ids.inspect import _title, print_ids
from tests.semantic_ids.catalogue import make_catalogue

CODES_IL = torch.tensor([[1, 3, 1], [0, 2, 1], [0, 2, 2], [1, 0, 0], [1, 3, 2], [1, 3, 3], [1, 2, 0]])
ITEMS = [10, 20, 30, 40, 50, 60, 70]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Seven items, titled after their ids; item 99 is retired. The second is a dataset of other items."""
    folder = tmp_path_factory.mktemp("inspect")
    dataset, _ = make_catalogue(folder / "in", ITEMS, torch.ones(7, 2).numpy())
    other, _ = make_catalogue(folder / "other", ITEMS[1:], torch.ones(6, 2).numpy())
    retired = Published(pa.array([99]), torch.tensor([[1, 1, 0]]), torch.tensor([1]))
    SemanticIds.write(
        folder / "ids",
        codes_IL=CODES_IL,
        codes_per_level=(2, 4, 4),
        codebooks=(torch.ones(2, 3), torch.ones(4, 3)),
        quantizer={},
        item_ids=pa.chunked_array([ITEMS]),
        quality={},
        config={},
        parents={"dataset": Dataset.open(dataset).manifest.content_hash},
        growth=Growth(2, torch.tensor([1, 1, 1, 1, 1, 1, 2]), retired, {}),
    )
    return folder / "ids", dataset, other


def lines(capsys, pair, **asked):
    print_ids(pair[0], pair[1], **({"item": None, "prefix": None, "show": 5} | asked))
    return [line.strip(" │├└─") for line in capsys.readouterr().out.splitlines()]


def test_an_item_level_by_level(capsys, pair):
    assert lines(capsys, pair, item="10") == [
        "Title 10  item 10, sid 1,3,1, since version 1",
        "level 1  1  5 items",
        "Title 40",
        "Title 70",
        "level 2  1,3  3 items",
        "Title 50",
        "Title 60",
    ]
    assert lines(capsys, pair, item="70", show=1) == [
        "Title 70  item 70, sid 1,2,0, since version 2",
        "level 1  1  5 items",
        "Title 10",
        "… and 3 more",
        "level 2  1,2  1 item",
    ]


def test_a_prefix_most_items_first(capsys, pair):
    assert lines(capsys, pair, prefix="1", show=1) == [
        "prefix 1  5 items of 7",
        "1,3  3 items",
        "Title 10",
        "… and 2 more",
        "1,0  1 item",
        "Title 40",
        "1,2  1 item",
        "Title 70",
    ]
    assert lines(capsys, pair, prefix="0, 2") == ["prefix 0,2  2 items of 7", "Title 20", "Title 30"]
    assert lines(capsys, pair, prefix="0,2,2") == ["prefix 0,2,2  1 item of 7", "Title 30"]


@pytest.mark.parametrize(
    ("asked", "kind", "said"),
    [
        ({"item": "45"}, DataError, "no item 45; the nearest ids are 20, 30, 40, 50, 60"),
        ({"item": "9" * 30}, DataError, "the nearest ids are 50, 60, 70"),
        ({"item": "x"}, DataError, "'x' is not an item id .* whose ids are integers"),
        ({"item": "99"}, DataError, "item 99 .* is retired; its Semantic ID 1,1,0 stays taken"),
        ({"prefix": "2"}, DataError, "has code 2 at level 1; the nearest codes there are 0, 1"),
        ({"prefix": "1,1"}, DataError, "has code 1 after 1; the nearest codes there are 0, 2, 3"),
        ({"prefix": "1,3,1,0"}, DataError, "has 4 codes, but Semantic IDs of .* have 3"),
        ({"prefix": "1;3"}, DataError, "such as 12,7"),
        ({}, ConfigError, "either --item ID or --prefix"),
        ({"item": "10", "prefix": "1"}, ConfigError, "either --item ID or --prefix"),
    ],
)
def test_mistakes_are_one_line_with_the_nearest_choices(pair, asked, kind, said):
    with pytest.raises(kind, match=said) as caught:
        print_ids(pair[0], pair[1], **({"item": None, "prefix": None, "show": 5} | asked))
    assert "\n" not in str(caught.value)


def test_a_dataset_the_ids_were_not_built_for(pair):
    ids, _, other = pair
    with pytest.raises(ArtefactError, match="was built from dataset"):
        print_ids(ids, other, item="20", prefix=None, show=5)


def test_string_ids_and_titles_with_markup(tmp_path, capsys):
    """A title is shown as it is, brackets and all, and long ones are cut."""
    from intrr_rec.semantic_ids.inspect import item_tree

    class Titles:
        def titles(self, items):
            return [["[bold]A[/bold]", "B" * 200][item] for item in items]

    SemanticIds.write(
        tmp_path / "ids",
        codes_IL=torch.tensor([[0, 1], [0, 2]]),
        codes_per_level=(2, 3),
        codebooks=(torch.ones(2, 3),),
        quantizer={},
        item_ids=pa.chunked_array([["a-1", "b-2"]]),
        quality={},
        config={},
        parents={},
    )
    ids = SemanticIds.open(tmp_path / "ids")
    Console(width=300).print(item_tree(ids, Titles(), "a-1", 5))
    said = capsys.readouterr().out
    assert "[bold]A[/bold]  item a-1, sid 0,1" in said and "B" * 89 + "…" in said
    with pytest.raises(DataError, match="no item 'a-2'; the nearest ids are a-1, b-2"):
        item_tree(ids, Titles(), "a-2", 5)


def test_a_title_does_not_steer_the_terminal():
    hostile = "\x1b]0;owned\x07\x1b[31mred\r\n\x9b2J\u202eevil[bold]"
    shown = _title(hostile)
    assert all(sign.isprintable() for sign in shown) and shown.count("\N{REPLACEMENT CHARACTER}") == 6
    assert "\\[bold]" in shown and "red" in shown
