"""HSTU against a dense reference; causal; indifferent to layout and padding."""

import pytest
import torch

from intrr_rec.config import HstuConfig
from intrr_rec.data.batch import Layout
from intrr_rec.models.hstu import Hstu

WIDTH, HEADS, WINDOW = 12, 3, 10


@pytest.fixture
def hstu():
    torch.manual_seed(0)
    model = Hstu(HstuConfig(layers=2, width=WIDTH, heads=HEADS, dropout=0.0), WINDOW)
    for layer in model.layers:  # away from the initial scale, so that every term counts
        torch.nn.init.normal_(layer.position_bias)
        torch.nn.init.normal_(layer.uvqk.weight, std=0.5)
        torch.nn.init.normal_(layer.output.bias)
    return model


def alone(length):
    """One history, a block of its own."""
    return Layout(torch.zeros(1, length, dtype=torch.int64))


def dense_reference(model, x_ND):
    """One sequence, one head and one pair of positions at a time."""
    n, f = len(x_ND), WIDTH // HEADS
    for layer in model.layers:
        mean, variance = x_ND.mean(1, keepdim=True), x_ND.var(1, unbiased=False, keepdim=True)
        projected = ((x_ND - mean) / (variance + 1e-5).sqrt()) @ layer.uvqk.weight.T
        u, v, q, k = (projected * torch.sigmoid(projected)).split(WIDTH, 1)
        mixed = torch.zeros(n, WIDTH)
        for head in (slice(h * f, (h + 1) * f) for h in range(HEADS)):
            for i in range(n):
                for j in range(i + 1):
                    score = q[i, head] @ k[j, head] + layer.position_bias[i - j]
                    mixed[i, head] += score * torch.sigmoid(score) / WINDOW * v[j, head]
        mean, variance = mixed.mean(1, keepdim=True), mixed.var(1, unbiased=False, keepdim=True)
        normed = (mixed - mean) / (variance + 1e-5).sqrt()
        x_ND = x_ND + (u * normed) @ layer.output.weight.T + layer.output.bias
    return x_ND


@pytest.mark.parametrize("length", [1, 2, 7, WINDOW])
def test_equals_the_dense_reference(hstu, length):
    x_ND = torch.randn(length, WIDTH)
    torch.testing.assert_close(hstu(x_ND, alone(length)), dense_reference(hstu, x_ND), rtol=1e-4, atol=1e-5)


def test_a_later_item_leaves_earlier_states_unchanged(hstu):
    x_ND = torch.randn(WINDOW, WIDTH)
    before = hstu(x_ND, alone(WINDOW))
    changed = x_ND.clone()
    changed[6] = torch.randn(WIDTH)  # not + 1, which layer norm would undo
    after = hstu(changed, alone(WINDOW))
    torch.testing.assert_close(after[:6], before[:6], rtol=0, atol=0)
    assert ((after[6:] - before[6:]).abs().amax(1) > 1e-4).all()


def test_histories_packed_into_blocks_do_not_touch_one_another(hstu):
    histories = [torch.randn(n, WIDTH) for n in (3, 3, 4, 5)]
    padding = torch.full((5, WIDTH), 7.0)
    owner_CN = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2, 2], [3, 3, 3, 3, 3, -1, -1, -1, -1, -1]])
    states_TD = hstu(torch.cat([*histories, padding]), Layout(owner_CN))
    for x_ND, start in zip(histories, (0, 3, 6, 10), strict=True):
        own = hstu(x_ND, alone(len(x_ND)))
        torch.testing.assert_close(states_TD[start : start + len(x_ND)], own, rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model, x_ND = Hstu(HstuConfig(layers=1, width=WIDTH, heads=HEADS, dropout=0.5), WINDOW), torch.randn(4, WIDTH)
    assert not torch.equal(model(x_ND, alone(4)), model(x_ND, alone(4)))
    model.eval()
    assert torch.equal(model(x_ND, alone(4)), model(x_ND, alone(4)))
