"""HSTU's attention against the formula under autograd: values, gradients, mixed precision."""

import pytest
import torch
import torch.nn.functional as F

from intrr_rec.data.loading.batch import Layout
from intrr_rec.models.backbones.hstu_attention import Pairs, silu_attention

HEADS, WIDTH, WINDOW, BUCKETS = 2, 8, 9, 5
OWNER_CN = torch.tensor([[0, 0, 0, 1, 1, 1], [2, 2, 2, 2, 2, 2], [3, 3, -1, -1, -1, -1]])


def example(with_times, dtype=torch.float64):
    """Projected u, v, q, k of every slot, the biases, and the pairs."""
    torch.manual_seed(0)
    bucket_CNN = torch.randint(0, BUCKETS, (*OWNER_CN.shape, OWNER_CN.shape[1]), dtype=torch.int32)
    leaves = [torch.randn(OWNER_CN.numel(), 4 * WIDTH, dtype=dtype), torch.randn(WINDOW, dtype=dtype)]
    leaves += [torch.randn(BUCKETS, dtype=dtype)] if with_times else []
    pairs = Pairs.of(Layout(OWNER_CN), WINDOW, bucket_CNN if with_times else None, dtype)
    return [leaf.requires_grad_() for leaf in leaves], pairs


def reference(projected_TE, pairs, position_bias_N, time_bias_P=None):
    """The formula, as autograd differentiates it."""
    blocks, slots = pairs.owner_CN.shape
    u_TD, v_TD, q_TD, k_TD = F.silu(projected_TE).chunk(4, dim=-1)
    v, q, k = (x.view(blocks, slots, HEADS, -1).transpose(1, 2) for x in (v_TD, q_TD, k_TD))
    apart_NN = torch.arange(slots)[:, None] - torch.arange(slots)
    scores_CHNN = q @ k.transpose(-1, -2) + position_bias_N[apart_NN.clamp(min=0)]
    if time_bias_P is not None:
        scores_CHNN = scores_CHNN + time_bias_P[pairs.bucket_CNN.long()][:, None]
    visible_CNN = Layout(pairs.owner_CN).visible_CNN()
    attended = (F.silu(scores_CHNN) * visible_CNN[:, None] / WINDOW) @ v
    return u_TD, attended.transpose(1, 2).reshape(u_TD.shape)


def loss(u_TD, attended_TD):
    """Something that weighs every element of both differently."""
    at = torch.arange(u_TD.numel(), dtype=u_TD.dtype).view(u_TD.shape)
    return (u_TD * attended_TD * at.cos()).sum() + (attended_TD * at.sin()).sum()


@pytest.mark.parametrize("with_times", [False, True])
def test_equals_the_formula_and_so_do_its_gradients(with_times):
    leaves, pairs = example(with_times)
    found = silu_attention(leaves[0], pairs, HEADS, leaves[1], leaves[2] if with_times else None)
    expected = reference(leaves[0], pairs, *leaves[1:])
    torch.testing.assert_close(found[:2], expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss(*found[:2]), leaves), torch.autograd.grad(loss(*expected), leaves)
    )


def test_hands_out_keys_and_values():
    leaves, pairs = example(False)
    _, _, k_CHNF, v_CHNF = silu_attention(leaves[0], pairs, HEADS, leaves[1], None)
    _, v_TD, _, k_TD = F.silu(leaves[0]).chunk(4, dim=-1)
    for found_CHNF, expected_TD in ((k_CHNF, k_TD), (v_CHNF, v_TD)):
        assert not found_CHNF.requires_grad
        torch.testing.assert_close(found_CHNF.transpose(1, 2).reshape(v_TD.shape), expected_TD.detach())


@pytest.mark.parametrize("with_times", [False, True])
def test_half_precision_comes_close(with_times):
    leaves, pairs = example(with_times, torch.float32)
    exact = torch.autograd.grad(loss(*reference(leaves[0], pairs, *leaves[1:])), leaves)
    coarse = leaves[0].detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        u_TD, attended_TD, _, _ = silu_attention(coarse, pairs, HEADS, leaves[1], leaves[2] if with_times else None)
    assert u_TD.dtype == attended_TD.dtype == torch.bfloat16
    found = torch.autograd.grad(loss(u_TD.float(), attended_TD.float()), [coarse, *leaves[1:]])
    for gradient, expected in zip(found, exact, strict=True):
        assert (gradient.float() - expected).norm() < 0.03 * expected.norm()
