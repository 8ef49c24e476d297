"""HSTU against a dense reference, times included; causal; indifferent to layout and padding."""

import math

import pytest
import torch

from intrr_rec.config import HstuConfig
from intrr_rec.data.loading.batch import Layout
from intrr_rec.models.backbones.hstu import TIME_BUCKETS, Hstu, time_edges
from intrr_rec.models.backbones.hstu_attention import time_bucket

WIDTH, HEADS, WINDOW = 12, 3, 10


def make_hstu(time_bias):
    torch.manual_seed(0)
    model = Hstu(HstuConfig(layers=2, width=WIDTH, heads=HEADS, dropout=0.0, time_bias=time_bias), WINDOW)
    for layer in model.layers:  # away from the initial scale, so that every term counts
        if time_bias:
            torch.nn.init.normal_(layer.time_bias)
        torch.nn.init.normal_(layer.position_bias)
        torch.nn.init.normal_(layer.uvqk.weight, std=0.5)
        torch.nn.init.normal_(layer.output.bias)
    return model


@pytest.fixture
def hstu():
    return make_hstu(False)


@pytest.fixture
def timed():
    return make_hstu(True)


def alone(length):
    """One history, a block of its own."""
    return Layout(torch.zeros(1, length, dtype=torch.int64))


def alone_at(times):
    """One history with the times of its events and of the one after the last."""
    return Layout(torch.zeros(1, len(times) - 1, dtype=torch.int64), times[None, :-1], times[None, 1:])


def some_times(length, scale=10**7):
    """Times of `length` events and the next: some equal, some apart by seconds, some by months."""
    apart = torch.randint(0, scale, (length + 1,)) // 10 ** torch.randint(0, 8, (length + 1,))
    return 1_400_000_000 + apart.cumsum(0)


def dense_reference(model, x_ND, times=None):
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
                    if times is not None:
                        seconds = max(abs(int(times[i + 1] - times[j])), 1)
                        score += layer.time_bias[min(math.floor(math.log(seconds) / 0.301), 127)]
                    mixed[i, head] += score * torch.sigmoid(score) / WINDOW * v[j, head]
        mean, variance = mixed.mean(1, keepdim=True), mixed.var(1, unbiased=False, keepdim=True)
        normed = (mixed - mean) / (variance + 1e-5).sqrt()
        x_ND = x_ND + (u * normed) @ layer.output.weight.T + layer.output.bias
    return x_ND


@pytest.mark.parametrize("length", [1, 2, 7, WINDOW])
def test_equals_the_dense_reference(hstu, length):
    x_ND = torch.randn(length, WIDTH)
    torch.testing.assert_close(hstu(x_ND, alone(length)), dense_reference(hstu, x_ND), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 7, WINDOW])
def test_with_times_equals_the_dense_reference(timed, length):
    x_ND, times = torch.randn(length, WIDTH), some_times(length)
    expected = dense_reference(timed, x_ND, times)
    torch.testing.assert_close(timed(x_ND, alone_at(times)), expected, rtol=1e-4, atol=1e-5)


def test_time_buckets_are_the_floor_of_log_seconds():
    seconds = [0, 1, 2, 3, 4, 59, 60, 3600, 86_400, 31_536_000, 2**31, -60, -86_400]
    layout = Layout(torch.zeros(1, 13), torch.zeros(1, 13, dtype=torch.int64), torch.tensor([seconds]))
    expected = [math.floor(math.log(max(abs(s), 1)) / 0.301) for s in seconds]
    assert time_bucket(layout, time_edges())[0, :, 0].tolist() == expected
    layout.request_time_CN[0, 0] = 2**62
    assert time_bucket(layout, time_edges()).max() == TIME_BUCKETS - 1


def test_times_change_states_and_reach_the_table(timed):
    x_ND, times = torch.randn(6, WIDTH), some_times(6)
    states_ND = timed(x_ND, alone_at(times))
    later = times.clone()
    later[-1] += 10**7  # the moment of the last prediction: no earlier state may know it
    changed_ND = timed(x_ND, alone_at(later))
    torch.testing.assert_close(changed_ND[:-1], states_ND[:-1], rtol=0, atol=0)
    assert (changed_ND[-1] - states_ND[-1]).abs().max() > 1e-4
    gradients = torch.autograd.grad(states_ND.square().sum(), [layer.time_bias for layer in timed.layers])
    used = time_bucket(alone_at(times), time_edges())[0][torch.ones(6, 6).tril().bool()].unique()
    for gradient in gradients:
        assert gradient[used].abs().min() > 0
        gradient[used] = 0
        assert not gradient.any()


def test_a_model_that_reads_times_refuses_a_layout_without(timed):
    with pytest.raises(AssertionError, match="carries no times"):
        timed(torch.randn(3, WIDTH), alone(3))


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


def test_packing_changes_nothing_where_times_count(timed):
    lengths, padding = (3, 3, 4, 5), torch.full((5, WIDTH), 7.0)
    histories, times = [torch.randn(n, WIDTH) for n in lengths], [some_times(n) for n in lengths]
    owner_CN = torch.tensor([[0, 0, 0, 1, 1, 1, 2, 2, 2, 2], [3, 3, 3, 3, 3, -1, -1, -1, -1, -1]])
    nothing = torch.zeros(5, dtype=torch.int64)
    event_CN = torch.cat([*(t[:-1] for t in times), nothing]).view(2, 10)
    request_CN = torch.cat([*(t[1:] for t in times), nothing]).view(2, 10)
    states_TD = timed(torch.cat([*histories, padding]), Layout(owner_CN, event_CN, request_CN))
    for x_ND, t, start in zip(histories, times, (0, 3, 6, 10), strict=True):
        own = timed(x_ND, alone_at(t))
        torch.testing.assert_close(states_TD[start : start + len(x_ND)], own, rtol=1e-5, atol=1e-5)


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model, x_ND = Hstu(HstuConfig(layers=1, width=WIDTH, heads=HEADS, dropout=0.5), WINDOW), torch.randn(4, WIDTH)
    assert not torch.equal(model(x_ND, alone(4)), model(x_ND, alone(4)))
    model.eval()
    assert torch.equal(model(x_ND, alone(4)), model(x_ND, alone(4)))
