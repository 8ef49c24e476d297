"""Dropout keeps means, drops the share asked for, and passes gradients where it kept."""

import pytest
import torch

from intrr_rec.models.dropout import dropout


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_drops_the_share_asked_for_and_keeps_the_mean(p):
    torch.manual_seed(0)
    y = dropout(torch.ones(997, 1003), p, training=True)
    assert abs((y == 0).double().mean().item() - p) < 1 / 512 + 2e-3
    assert abs(y.double().mean().item() - 1) < 1e-2
    assert len(y.unique()) == 2


def test_neighbours_are_dropped_independently():
    torch.manual_seed(0)
    kept = (dropout(torch.ones(4096, 8), 0.5, training=True) > 0).double()
    off_diagonal = torch.corrcoef(kept.T) - torch.eye(8)
    assert off_diagonal.abs().max() < 0.08  # five standard errors


def test_gradient_is_the_mask():
    torch.manual_seed(0)
    x = torch.randn(50, 7, requires_grad=True)
    y = dropout(x, 0.3, training=True)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), y.detach())


def test_does_nothing_outside_training_or_at_zero():
    x = torch.randn(3, 3)
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0, training=True) is x
