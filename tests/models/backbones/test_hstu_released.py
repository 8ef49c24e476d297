"""The released variant of HSTU against a dense reference; causal; indifferent to packing."""

import pytest
import torch

from intrr_rec.config import load_recipe
from intrr_rec.data.loading.batch import Layout
from intrr_rec.errors import ConfigError
from intrr_rec.models.backbones.kv_cache import Prompts
from intrr_rec.models.backbones.t5 import distance_bucket
from intrr_rec_example.hstu_released import HstuReleased

WIDTH, HEADS = 12, 3


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    model = HstuReleased(HstuReleased.Config(layers=2, width=WIDTH, heads=HEADS, dropout=0.0))
    for layer in model.layers:
        torch.nn.init.normal_(layer.norm.weight)
        torch.nn.init.normal_(layer.norm.bias)
    return model


def alone(length):
    return Layout(torch.zeros(1, length, dtype=torch.int64))


def dense_reference(model, x_ND):
    n, f = len(x_ND), WIDTH // HEADS
    for layer in model.layers:
        mean, variance = x_ND.mean(1, keepdim=True), x_ND.var(1, unbiased=False, keepdim=True)
        normed = (x_ND - mean) / (variance + 1e-5).sqrt() * layer.norm.weight + layer.norm.bias
        u, v, q, k = (normed @ layer.uvqk.weight.T + layer.uvqk.bias).split(WIDTH, 1)
        mixed = torch.zeros(n, WIDTH)
        for h, head in enumerate(slice(h * f, (h + 1) * f) for h in range(HEADS)):
            for i in range(n):
                scores = torch.stack([q[i, head] @ k[j, head] / f**0.5 for j in range(i + 1)])
                scores = scores + layer.distance_bias[distance_bucket(i - torch.arange(i + 1)), h]
                weights = (1 + scores.exp()).log()
                mixed[i, head] = weights @ v[: i + 1, head] / weights.sum()
        x_ND = x_ND + (u * torch.sigmoid(u) * mixed) @ layer.output.weight.T + layer.output.bias
    return x_ND


@pytest.mark.parametrize("length", [1, 2, 9, 20])
def test_equals_the_dense_reference(backbone, length):
    x_ND = torch.randn(length, WIDTH)
    torch.testing.assert_close(backbone(x_ND, alone(length)), dense_reference(backbone, x_ND), rtol=1e-4, atol=1e-5)


def test_a_later_item_leaves_earlier_states_unchanged(backbone):
    x_ND = torch.randn(8, WIDTH)
    changed = x_ND.clone()
    changed[5] = torch.randn(WIDTH)
    before, after = backbone(x_ND, alone(8)), backbone(changed, alone(8))
    torch.testing.assert_close(after[:5], before[:5])
    assert ((after[5:] - before[5:]).abs().amax(1) > 1e-4).all()


def test_histories_packed_into_blocks_do_not_touch_one_another(backbone):
    histories = [torch.randn(n, WIDTH) for n in (3, 4, 6)]
    owner_CN = torch.tensor([[0, 0, 0, 1, 1, 1, 1, -1], [2, 2, 2, 2, 2, 2, -1, -1]])
    padding = torch.full((1, WIDTH), 7.0)
    x_TD = torch.cat([histories[0], histories[1], padding, histories[2], padding, padding])
    states_TD = backbone(x_TD, Layout(owner_CN))
    assert states_TD.isfinite().all()
    for x_ND, start in zip(histories, (0, 3, 8), strict=True):
        own = backbone(x_ND, alone(len(x_ND)))
        torch.testing.assert_close(states_TD[start : start + len(x_ND)], own, rtol=1e-5, atol=1e-5)


def test_scores_that_leave_no_weight_do_not_divide_by_zero(backbone):
    for layer in backbone.layers:
        torch.nn.init.constant_(layer.distance_bias, -1e4)
    assert backbone(torch.randn(4, WIDTH), alone(4)).isfinite().all()


@torch.no_grad()
def test_tokens_read_one_by_one_give_the_states_of_one_pass(backbone):
    """Two prompts of unequal length in one block, then three tokens a beam."""
    prompts, own_BWGD = [torch.randn(n, WIDTH) for n in (5, 3)], torch.randn(2, 2, 3, WIDTH)
    _, packed = backbone.prefill(torch.cat(prompts), Layout(torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]])))
    laid_out = Prompts(packed, torch.tensor([0, 0]), torch.tensor([0, 5]), torch.tensor([5, 3]))
    cache = laid_out.cache(torch.arange(2))
    states = torch.stack([backbone.step(own_BWGD[:, :, g], cache) for g in range(3)], dim=2)
    for user, prompt_ND in enumerate(prompts):
        for beam in range(2):
            whole_ND = torch.cat([prompt_ND, own_BWGD[user, beam]])
            expected = dense_reference(backbone, whole_ND)[-3:]
            torch.testing.assert_close(states[user, beam], expected, rtol=1e-4, atol=1e-5)


def test_flattened_has_no_bias_by_time():
    with pytest.raises(ConfigError, match=r"kind flattened has no bias by time; set model\.hstu\.time_bias=false"):
        load_recipe(None, ["model.kind=flattened", "model.hstu.time_bias=true"])
