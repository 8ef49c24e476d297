"""The T5 stack against a dense reference; causal; indifferent to packing; buckets as in the T5 paper."""

import pytest
import torch

from intrr_rec.config import T5Config
from intrr_rec.data.loading.batch import Layout
from intrr_rec.models.backbones.t5 import T5, distance_bucket

WIDTH, HEADS, HEAD = 12, 3, 5


@pytest.fixture(params=[False, True], ids=["shallow", "deep"])
def t5(request):
    torch.manual_seed(0)
    shape = {"layers": 2, "width": WIDTH, "heads": HEADS, "head_width": HEAD, "feed_forward": 20, "dropout": 0.0}
    model = T5(T5Config(**shape, deep_feed_forward=request.param))
    torch.nn.init.normal_(model.distance_bias)
    for layer in model.layers:
        torch.nn.init.normal_(layer.attention_norm.weight)
    return model


def alone(length):
    return Layout(torch.zeros(1, length, dtype=torch.int64))


def rms(x, weight):
    return x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt() * weight


def dense_reference(model, x_ND):
    n = len(x_ND)
    for layer in model.layers:
        q, k, v = (rms(x_ND, layer.attention_norm.weight) @ layer.qkv.weight.T).split(HEADS * HEAD, 1)
        mixed = torch.zeros(n, HEADS * HEAD)
        for h, head in enumerate(slice(h * HEAD, (h + 1) * HEAD) for h in range(HEADS)):
            for i in range(n):
                scores = torch.stack([q[i, head] @ k[j, head] + model.distance_bias[i - j, h] for j in range(i + 1)])
                mixed[i, head] = scores.softmax(0) @ v[: i + 1, head]
        x_ND = x_ND + mixed @ layer.output.weight.T
        hidden = (rms(x_ND, layer.feed_forward_norm.weight) @ layer.expand.weight.T).relu()
        if layer.deepen is not None:
            hidden = (hidden @ layer.deepen.weight.T).relu()
        x_ND = x_ND + hidden @ layer.contract.weight.T
    return rms(x_ND, model.norm.weight)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_equals_the_dense_reference(t5, length):
    x_ND = torch.randn(length, WIDTH)
    torch.testing.assert_close(t5(x_ND, alone(length)), dense_reference(t5, x_ND), rtol=1e-4, atol=1e-5)


def test_a_later_item_leaves_earlier_states_unchanged(t5):
    x_ND = torch.randn(8, WIDTH)
    changed = x_ND.clone()
    changed[5] = torch.randn(WIDTH)
    before, after = t5(x_ND, alone(8)), t5(changed, alone(8))
    torch.testing.assert_close(after[:5], before[:5])
    assert ((after[5:] - before[5:]).abs().amax(1) > 1e-4).all()


def test_histories_packed_into_blocks_do_not_touch_one_another(t5):
    histories = [torch.randn(n, WIDTH) for n in (3, 4, 6)]
    owner_CN = torch.tensor([[0, 0, 0, 1, 1, 1, 1, -1], [2, 2, 2, 2, 2, 2, -1, -1]])
    padding = torch.full((1, WIDTH), 7.0)
    x_TD = torch.cat([histories[0], histories[1], padding, histories[2], padding, padding])
    states_TD = t5(x_TD, Layout(owner_CN))
    assert states_TD.isfinite().all()
    for x_ND, start in zip(histories, (0, 3, 8), strict=True):
        own = t5(x_ND, alone(len(x_ND)))
        torch.testing.assert_close(states_TD[start : start + len(x_ND)], own, rtol=1e-5, atol=1e-5)


def test_buckets_are_exact_nearby_then_logarithmic():
    bucket = distance_bucket(torch.tensor([-3, 0, 1, 15, 16, 20, 32, 64, 127, 128, 10_000])).tolist()
    assert bucket == [0, 0, 1, 15, 16, 17, 21, 26, 31, 31, 31]
