"""Ranges, values ruled out and alternatives, on the command line and in requests: exact, and still k items."""

import numpy as np
import pytest

from intrr_rec.errors import ConfigError
from intrr_rec.serving.batch.filter_options import read_filters
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.conditions import Conditions
from intrr_rec.serving.http.backend import Backend
from intrr_rec.serving.http.schemas import Filters, Group, Range, RecommendRequest
from tests.serving.test_item_filters import N, rich

__all__ = ["rich"]  # a fixture


@pytest.mark.parametrize(
    ("words", "passes"),
    [
        (["price>=10"], lambda n: n >= 10),
        (["price<10"], lambda n: 0 < n < 10),  # item 0 has no price
        (["price>=10", "price<20"], lambda n: 10 <= n < 20),
        (["price>=9.5"], lambda n: n >= 10),
        (["price32>=3.1"], lambda n: n >= 3),
        (["count>=2.5"], lambda n: n >= 3),
        (["count<2.5"], lambda n: n < 3),
        (["count<1000"], lambda n: True),
        (["count>=-1000"], lambda n: True),
        (["dec<1.001"], lambda n: n < 2),
        (["big>=18446744073709551614"], lambda n: n < 2),
        (["released>=2020-01-03", "released<2020-01-05T01:00:00"], lambda n: 2 <= n < 5),
        (["when<2020-01-02"], lambda n: n < 2),
        (["when>=2020-01-01T13:00:00"], lambda n: n >= 2),
        (["seen>=2020-01-01T06:00:00+01:00"], lambda n: n >= 5),
        (["sizes>=25"], lambda n: n >= 25),  # of lists, one entry is enough
        (["sizes<0.7"], lambda n: True),
        (["brand!=Acme"], lambda n: n % 3 != 0),
        (["brand!=Acme", "brand!=Bolt"], lambda n: n % 3 == 2),  # a missing value passes
        (["tags!=b"], lambda n: n % 6 != 0),
        (["brand=Acme", "price>=10"], lambda n: n % 3 == 0 and n >= 10),
        (["brand=Acme OR price>=10"], lambda n: n % 3 == 0 or n >= 10),
        (["brand=Acme OR brand=Bolt", "count<9 OR in_stock=true"], lambda n: n % 3 < 2 and (n < 9 or n % 2 == 0)),
    ],
)
def test_words_choose_exactly(rich: Bundle, words, passes):
    filters = read_filters(rich.items, where=words)
    assert np.flatnonzero(filters.mask(rich.items)).tolist() == [n for n in range(N) if passes(n)]


def test_a_request_combines_conditions_and_gets_k_items(rich: Bundle):
    backend = Backend(rich)
    filters = Filters(
        without={"brand": ["Bolt"]},
        ranges={"price": Range(at_least=4, below="25")},
        any_of=[
            Group(where={"kind": ["x"]}, ranges={"released": Range(below="2020-01-11")}),
            Group(where={"count": [20, 21]}),
        ],
    )
    request = RecommendRequest(history=["3"], k=10, filters=filters)
    wanted = [n for n in range(4, 25) if n % 3 != 1 and ((n % 2 == 0 and n < 10) or n in (20, 21))]
    assert backend.lacks(request) is None
    found = [item.item for item in backend.recommend([request])[0].items]
    assert sorted(found) == sorted(rich.items.own(wanted)) and len(wanted) >= 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["brand>=a"],
            "column 'brand' has type string; ranges are of numbers, dates and timestamps, and lists of these",
        ),
        (["in_stock<1"], "column 'in_stock' has type bool; ranges are of"),
        (["price>=cheap"], "column 'price' holds numbers, and 'cheap' is none; there is price=1.0"),
        (["released<soon"], "column 'released' holds dates, and 'soon' is none"),
        (["pricee<1"], "no column 'pricee' to filter by; did you mean 'price'?"),
        (["brand!=acme"], "no item has brand=acme; did you mean brand=Acme?"),
        (["price>3"], "--where price>3: bounds are written >= and <"),
        (["price<=3"], "--where price<=3: bounds are written >= and <"),
        (["price>=1", "price>=2"], "--where price>=2: 'price' has such a bound already; give one"),
        (["price"], "--where price: write COLUMN=VALUE, COLUMN!=VALUE, COLUMN>=BOUND or COLUMN<BOUND"),
        (["price<"], "--where price<: write COLUMN=VALUE, COLUMN!=VALUE, COLUMN>=BOUND or COLUMN<BOUND"),
        (["=3"], "--where =3: write"),
        (["price>=50"], "no item passes all filters together (price>=50); leave one out"),
        (
            ["price>=50 OR count>=40", "brand!=Acme"],
            "no item passes all filters together (brand!=Acme, price>=50 OR count>=40); leave one out",
        ),
    ],
)
def test_what_cannot_be_is_refused(rich: Bundle, words, message):
    with pytest.raises(ConfigError) as caught:
        read_filters(rich.items, where=words)
    assert str(caught.value).startswith(message)


def test_conditions_that_differ_have_masks_of_their_own(rich: Bundle):
    keys = [read_filters(rich.items, where=[word]).shared() for word in ("count<9", "count>=9", "count=9", "count!=9")]
    assert len(set(keys)) == 4 and Conditions().key() == Conditions().key() and not Conditions()
    either = [read_filters(rich.items, where=[word]).shared() for word in ("count=1 OR count=2", "count=1 OR count=3")]
    assert either[0] != either[1]
