"""Items go to their owners, and sums over all rows of an item come back to each of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intrr_rec.data.loading.counts import add_up, by_owner


@pytest.mark.parametrize("scale", [1, 1_000, 1 << 52], ids=["dense", "sorted", "ids beside which no place fits"])
@given(rows=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 9)), max_size=60))
def test_each_row_gets_the_sum_of_its_item(scale, rows):
    items_K, count_K = np.array(rows, np.int64).reshape(-1, 2).T
    total_K, distinct = add_up(items_K * scale, count_K)
    assert total_K.tolist() == [int(count_K[items_K == item].sum()) for item in items_K]
    assert distinct == len(set(items_K.tolist()))
    of_one_owner, distinct = add_up(items_K * scale * 3 + 2, count_K, 3)
    assert (of_one_owner.tolist(), distinct) == (total_K.tolist(), len(set(items_K.tolist())))


def test_rows_lie_owner_by_owner():
    items_U, count_U = np.array([0, 3, 4, 5, 9, 10]), np.array([7, 6, 5, 4, 3, 2])
    order_U, sent_R, rows_U2 = by_owner(items_U, count_U, 3)
    assert rows_U2.tolist() == [[0, 7], [3, 6], [9, 3], [4, 5], [10, 2], [5, 4]]
    assert (sent_R.tolist(), items_U[order_U].tolist()) == ([3, 2, 1], rows_U2[:, 0].tolist())
