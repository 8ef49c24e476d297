"""Sums that have no order, and draws that have no place."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.semantic_ids.quantizers.exact import Grid, hash_edge, hash_ids, row_sums, unit_rows


@settings(deadline=None)
@given(st.integers(1, 70), st.integers(1, 5))
def test_row_sums_are_sums_and_the_same_for_a_row_alone(width, rows):
    x_ID = torch.randn(rows, width, generator=torch.Generator().manual_seed(width))
    found = row_sums(x_ID)
    torch.testing.assert_close(found.double(), x_ID.double().sum(1), atol=1e-5, rtol=1e-5)
    assert torch.equal(found, torch.cat([row_sums(row.unsqueeze(0)) for row in x_ID]))
    assert torch.equal(found, row_sums(x_ID.T.contiguous().T))


@settings(deadline=None)
@given(st.floats(1e-30, 1e30), st.integers(1, 10**9))
def test_a_grid_makes_sums_exact_whatever_their_order(bound, n):
    values = (torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(n % 999)) * 2 - 1) * bound
    grid = Grid(bound, n)
    rounded = grid.round(values)
    assert (rounded - values).abs().max() <= grid.step / 2
    assert grid.step * 2**52 >= bound * n, "the sum of n such values stays where multiples of the step are exact"
    if n >= 500:
        exact = math.fsum(rounded.tolist())
        assert float(rounded.sum()) == exact == float(rounded.flip(0).cumsum(0)[-1])


def test_hashes_are_spread_evenly_and_depend_on_the_key():
    ids_I = torch.arange(100_000)
    for key in (0, 1, 1 << 40):
        hashes_I = hash_ids(ids_I, key)
        assert hashes_I.unique().numel() == len(ids_I)
        assert int(hashes_I.min()) >= 0 and int(hashes_I.max()) < hash_edge(1.0)
        for share in (0.01, 0.3):
            assert abs(float((hashes_I < hash_edge(share)).double().mean()) - share) < 0.005
    assert not torch.equal(hash_ids(ids_I, 0), hash_ids(ids_I, 1))


def test_unit_rows_keep_a_row_of_zeros():
    unit_ID, lengths_I = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    assert unit_ID.tolist() == [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    assert lengths_I.tolist() == [5.0, 0.0]
