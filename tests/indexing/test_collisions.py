"""The de-duplication digit against a dictionary-based oracle."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.errors import ConfigError
from intrr_rec.indexing.collisions import dedup_digits


def test_unique_is_zero_and_colliding_count_from_one_in_item_order():
    codes_IL = torch.tensor([[3, 1], [0, 0], [3, 1], [2, 2], [0, 0], [3, 1]])
    assert dedup_digits(codes_IL, 8).tolist() == [1, 1, 2, 0, 2, 3]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60))
def test_agrees_with_a_dictionary(paths):
    sizes, seen, expected = Counter(paths), Counter(), []
    for path in paths:
        seen[path] += 1
        expected.append(seen[path] if sizes[path] > 1 else 0)
    digits_I = dedup_digits(torch.tensor(paths), 100)
    assert digits_I.tolist() == expected
    assert len({(*path, digit) for path, digit in zip(paths, expected, strict=True)}) == len(paths)


def test_overflow_is_refused_never_clamped():
    codes_IL = torch.tensor([[5, 7]] * 3 + [[1, 1]])
    assert dedup_digits(codes_IL, 4).max() == 3
    with pytest.raises(
        ConfigError, match=r"3 items share the path \(5, 7\), but 3 digits tell apart 2 .* raise index\."
    ):
        dedup_digits(codes_IL, 3)
