"""Filters over columns of every type: each way to write a value, and what is said where nothing can pass."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.errors import ConfigError, DataError
from intrr_rec.io import artefact
from intrr_rec.serving.batch.filter_options import read_filters
from intrr_rec.serving.bundle.bundle import ITEM_TABLE, KIND, Bundle
from intrr_rec.serving.http.backend import Backend
from intrr_rec.serving.http.schemas import Filters, RecommendRequest

DAY = dt.datetime(2020, 1, 1, tzinfo=dt.timezone.utc)
N = 30
COLUMNS = {
    "brand": pa.array(["Acme", "Bolt", None] * 10),
    "price": pa.array([None if n == 0 else float(n) for n in range(N)]),
    "price32": pa.array([n + 0.1 for n in range(N)], pa.float32()),
    "count": pa.array(range(N), pa.int8()),
    "in_stock": pa.array([n % 2 == 0 for n in range(N)]),
    "dec": pa.array([Decimal(n) for n in range(N)], pa.decimal128(10, 2)),
    "released": pa.array([DAY.date() + dt.timedelta(days=n) for n in range(N)]),
    "when": pa.array([DAY + dt.timedelta(hours=12 * n) for n in range(N)], pa.timestamp("us", "UTC")),
    "seen": pa.array([(DAY + dt.timedelta(hours=n)).replace(tzinfo=None) for n in range(N)], pa.timestamp("ns")),
    "tags": pa.array([["a"] if n % 2 else None if n % 3 else ["b", "a"] for n in range(N)]),
    "sizes": pa.array([[float(n), 0.5] for n in range(N)]),
    "kind": pa.array(["x", "y"] * 15).dictionary_encode(),
    "big": pa.array([2**64 - 1 - n for n in range(N)], pa.uint64()),
    "attrs": pa.array([{"color": "red"}] * N),
    "cats": pa.array([[["a"], ["b"]]] * N),
    "blob": pa.array([b"\xff"] * N),
    "m": pa.array([[("k", 1)]] * N, pa.map_(pa.string(), pa.int64())),
    "dur": pa.array([dt.timedelta(1)] * N),
}


@pytest.fixture(scope="module")
def rich(bundles, tmp_path_factory) -> Bundle:
    """A bundle whose items have columns of every type."""
    import shutil

    old, path = bundles["path"], tmp_path_factory.mktemp("rich") / "bundle"
    with artefact.writing(path, KIND, {}) as draft:
        shutil.copytree(old.path, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        table = pq.read_table(old.path / ITEM_TABLE)
        for name, column in COLUMNS.items():
            table = table.append_column(name, column)
        pq.write_table(table, draft.path / ITEM_TABLE)
        draft.counts |= old.manifest.counts
    return Bundle.load(path)


SAME = {
    "price": (["1", "1.0", "1.00", "1e0", " 1 "], [1]),
    "price32": (["3.1", "3.10"], [3]),
    "count": (["7", "7.0"], [7]),
    "in_stock": (["True", "true", "TRUE", "1"], list(range(0, N, 2))),
    "dec": (["2", "2.0", "2.00", "2.000"], [2]),
    "released": (["2020-01-03", "2020-01-03T00:00:00"], [2]),
    "when": (["2020-01-02"], [2, 3]),
    "seen": (["2020-01-01T05:00:00Z", "2020-01-01 05:00:00", "2020-01-01T06:00:00+01:00"], [5]),
    "tags": (["b"], [n for n in range(N) if n % 2 == 0 and n % 3 == 0]),
    "sizes": (["4", "4.0"], [4]),
    "kind": (["y"], list(range(1, N, 2))),
    "big": (["18446744073709551614"], [1]),
    "brand": (["Bolt"], list(range(1, N, 3))),
}


@pytest.mark.parametrize("column", SAME)
def test_a_value_is_the_same_however_it_is_written(rich, column):
    values, items = SAME[column]
    for value in values:
        assert np.flatnonzero(rich.items.having(column, [value])).tolist() == items, value
    filters = read_filters(rich.items, where=[f"{column}={value}" for value in values])
    assert np.flatnonzero(filters.mask(rich.items)).tolist() == items


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0"])
def test_a_request_gives_values_in_their_own_type(rich, value):
    backend = Backend(rich)
    request = RecommendRequest(history=["3"], k=1, filters=Filters(where={"price": [value]}))
    assert backend.lacks(request) is None
    assert [item.item for item in backend.recommend([request])[0].items] == rich.items.own([1])
    truth = RecommendRequest(history=["3"], k=10, filters=Filters(where={"in_stock": [True]}))
    assert backend.lacks(truth) is None
    given = {item.item for item in backend.recommend([truth])[0].items}
    assert len(given) == 10 and given <= set(rich.items.own(range(0, N, 2)))


REFUSED = {
    "brand=acme": "no item has brand=acme; did you mean brand=Acme?",
    "brand=Zzzzz": "no item has brand=Zzzzz; there is brand=",
    "price=cheap": "column 'price' holds numbers, and 'cheap' is none; there is price=1.0",
    "price=nan": "column 'price' holds numbers, and 'nan' is none",
    "price=1e999": "no item has price=1e999",
    "count=1.5": "no item has count=1.5; there is count=0, count=1",
    "count=1000": "no item has count=1000",
    "dec=1.001": "no item has dec=1.001; there is dec=0.00",
    "in_stock=maybe": "column 'in_stock' holds true or false, and 'maybe' is none; there is in_stock=True, in_stock=False",
    "released=soon": "column 'released' holds dates, and 'soon' is none; there is released=2020-01-01",
    "when=2031-01-01": "no item has when=2031-01-01; there is when=2020-01-01T00:00:00+00:00",
    "tags=q": "no item has tags=q; there is tags=a, tags=b",
    "pricee=1": "no column 'pricee' to filter by; did you mean 'price'?",
    "colour=red": "no column 'colour' to filter by; there are brand, price",
    "attrs=red": "column 'attrs' has type struct<color: string>; items can be filtered by text, numbers",
    "cats=a": "column 'cats' has type list<",
    "m=k": "column 'm' has type map<",
    "blob=x": "column 'blob' has type binary",
    "dur=1": "column 'dur' has type duration",
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_nothing_can_pass_is_an_error_that_says_what_there_is(rich, word):
    with pytest.raises(ConfigError) as error:
        read_filters(rich.items, where=[word])
    assert REFUSED[word] in str(error.value)
    column, _, value = word.partition("=")
    reason = Backend(rich).lacks(RecommendRequest(history=[], filters=Filters(where={column: [value]})))
    assert reason is not None and reason.startswith("filters: no item can pass; ")
    assert reason.endswith(str(error.value).rpartition("; ")[2])


def test_filters_that_exclude_one_another_are_an_error(rich, tmp_path):
    with pytest.raises(
        ConfigError, match=r"no item passes all filters together \(brand=Acme, price=1\); leave one out"
    ):
        read_filters(rich.items, where=["brand=Acme", "price=1"])
    both = RecommendRequest(history=[], filters=Filters(where={"brand": ["Acme"], "price": [1]}))
    assert Backend(rich).lacks(both) == "filters: no item can pass; leave one out"
    with pytest.raises(ConfigError, match="newer than 2090"):
        read_filters(rich.items, where=["brand=Acme"], newer_than="2090-01-01")
    (tmp_path / "allow").write_text("nope\nnix\n")
    with pytest.raises(DataError, match="allow: none of its ids is an item of the bundle, whose ids are such as"):
        read_filters(rich.items, allow=tmp_path / "allow")


def test_an_id_that_prepare_takes_is_one_that_a_request_takes():
    from intrr_rec.config.logs.preparation import MAX_ID_CHARACTERS

    RecommendRequest(history=["x" * MAX_ID_CHARACTERS], filters=Filters(deny=["x" * MAX_ID_CHARACTERS]))
    with pytest.raises(ValueError, match="at most 1024"):
        RecommendRequest(history=["x" * (MAX_ID_CHARACTERS + 1)])
