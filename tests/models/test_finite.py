"""One value that is no number is found, of whatever type and wherever it lies."""

import pytest
import torch

from intrr_rec.models.finite import finite


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_value_that_is_no_number_is_found(dtype, bad):
    x_ID = torch.randn(50, 37).to(dtype)
    assert finite(x_ID)
    x_ID[41, 30] = bad
    assert not finite(x_ID)
    assert finite(x_ID[:41])


def test_what_holds_no_such_value_at_all_is_finite():
    assert finite(torch.tensor(3)) and finite(torch.empty(0, 4)) and not finite(torch.tensor(torch.nan))
