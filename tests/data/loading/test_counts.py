"""Items go to their owners, and sums over all rows of an item come back to each of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intrr_rec.data.loading.counts import COUNT_BITS, add_up, by_owner, distinct


@pytest.mark.parametrize("scale", [1, 1_000, 1 << 31], ids=["dense", "sorted", "large"])
@given(rows=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=60))
def test_each_row_gets_the_sum_of_its_item(scale, rows):
    items_K, count_K = np.array(rows, np.int64).reshape(-1, 2).T
    total_K, found = add_up(items_K * scale << COUNT_BITS | count_K)
    assert total_K.tolist() == [int(count_K[items_K == item].sum()) for item in items_K]
    assert found == len(set(items_K.tolist()))
    of_one_owner, found = add_up(items_K * scale * 3 + 2 << COUNT_BITS | count_K, 3)
    assert (of_one_owner.tolist(), found) == (total_K.tolist(), len(set(items_K.tolist())))


@pytest.mark.parametrize("scale", [1, 1 << 52], ids=["items", "items beside which no place fits"])
@given(items=st.lists(st.integers(0, 40), max_size=60))
def test_distinct_items_are_those_of_numpy(scale, items):
    item_N = np.array(items, np.int64) * scale
    for found, expected in zip(distinct(item_N), np.unique(item_N, return_inverse=True), strict=True):
        assert found.tolist() == expected.tolist()


def test_rows_lie_owner_by_owner():
    items_U, count_U = np.array([0, 3, 4, 5, 9, 10]), np.array([7, 6, 5, 4, 3, 2])
    order_U, sent_R, row_U = by_owner(items_U, count_U, 3)
    assert (row_U >> COUNT_BITS).tolist() == [0, 3, 9, 4, 10, 5] == items_U[order_U].tolist()
    assert (row_U % (1 << COUNT_BITS)).tolist() == [7, 6, 3, 5, 2, 4]
    assert sent_R.tolist() == [3, 2, 1]
