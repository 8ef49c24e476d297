"""The merged order is that of all places sorted, and uses every sequence up evenly."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from intrr_rec.data.loading.interleave import Interleaving


@given(st.lists(st.integers(0, 30), min_size=1, max_size=9).filter(sum))
def test_the_first_of_the_order_are_those_of_the_sorted_places(lengths):
    merged = Interleaving(np.array(lengths))
    places = [
        ((element + (number + 0.5) / len(lengths)) / length, number)
        for number, length in enumerate(lengths)
        for element in range(length)
    ]
    order = [number for _, number in sorted(places)]
    for count in range(len(order) + 1):
        expected = [order[:count].count(number) for number in range(len(lengths))]
        assert merged.first(count).tolist() == expected


def test_a_large_order_is_even_everywhere():
    length_G = np.array([1_000, 70_000, 50_001, 3])
    merged = Interleaving(length_G)
    for count in range(0, merged.total, 4_999):
        taken_G = merged.first(count)
        assert taken_G.sum() == count
        assert (abs(taken_G - length_G * count / merged.total) < 2).all()
