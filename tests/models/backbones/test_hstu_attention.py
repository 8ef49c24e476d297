"""HSTU's attention, over whole blocks and by tiles, against the formula under autograd: values, gradients, mixed precision."""

import pytest
import torch
import torch.nn.functional as F

from intrr_rec.data.loading.batch import Layout
from intrr_rec.models.backbones import hstu_attention, hstu_attention_tiles
from intrr_rec.models.backbones.hstu_attention import Pairs, attend_from, silu_attention, time_bucket
from intrr_rec.models.backbones.hstu_attention_tiles import make_tiles

HEADS, WIDTH, WINDOW, BUCKETS = 2, 8, 9, 5
OWNER_CN = torch.tensor([[0, 0, 0, 1, 1, 1], [2, 2, 2, 2, 2, 2], [3, 3, -1, -1, -1, -1]])
EDGES = torch.arange(1, BUCKETS)


@pytest.fixture(params=["whole blocks", "tiles"], autouse=True)
def way(request, monkeypatch):
    """Both ways over the same small blocks; tiles so small that histories share one and are cut into several."""
    monkeypatch.setattr(hstu_attention, "WHOLE_BLOCKS", 0 if request.param == "tiles" else 128)
    monkeypatch.setattr(hstu_attention_tiles, "SHORTEST", 3)
    monkeypatch.setattr(hstu_attention_tiles, "LONGEST", 4)
    return request.param


def example(with_times, dtype=torch.float64):
    """Projected u, v, q, k of every slot, the biases, and the pairs."""
    torch.manual_seed(0)
    times = torch.randint(0, BUCKETS + 1, (2, *OWNER_CN.shape)) if with_times else (None, None)
    leaves = [torch.randn(OWNER_CN.numel(), 4 * WIDTH, dtype=dtype), torch.randn(WINDOW, dtype=dtype)]
    leaves += [torch.randn(BUCKETS, dtype=dtype)] if with_times else []
    pairs = Pairs.of(Layout(OWNER_CN, *times), WINDOW, EDGES if with_times else None, dtype)
    return [leaf.requires_grad_() for leaf in leaves], pairs


def reference(projected_TE, pairs, position_bias_N, time_bias_P=None):
    """The formula, as autograd differentiates it."""
    blocks, slots = pairs.owner_CN.shape
    u_TD, v_TD, q_TD, k_TD = F.silu(projected_TE).chunk(4, dim=-1)
    v, q, k = (x.view(blocks, slots, HEADS, -1).transpose(1, 2) for x in (v_TD, q_TD, k_TD))
    apart_NN = torch.arange(slots)[:, None] - torch.arange(slots)
    scores_CHNN = q @ k.transpose(-1, -2) + position_bias_N[apart_NN.clamp(min=0)]
    if time_bias_P is not None:
        scores_CHNN = scores_CHNN + time_bias_P[time_bucket(pairs.layout, EDGES).long()][:, None]
    visible_CNN = Layout(pairs.owner_CN).visible_CNN() & (pairs.owner_CN >= 0)[:, :, None]
    attended = (F.silu(scores_CHNN) * visible_CNN[:, None] / WINDOW) @ v
    return u_TD, attended.transpose(1, 2).reshape(u_TD.shape)


def real(attended_TD):
    """What padding attends to is nobody's business."""
    return attended_TD * (OWNER_CN.flatten() >= 0)[:, None]


def loss(u_TD, attended_TD):
    """Something that weighs every element of both differently."""
    attended_TD = real(attended_TD)
    at = torch.arange(u_TD.numel(), dtype=u_TD.dtype).view(u_TD.shape)
    return (u_TD * attended_TD * at.cos()).sum() + (attended_TD * at.sin()).sum()


@pytest.mark.parametrize("with_times", [False, True])
def test_equals_the_formula_and_so_do_its_gradients(with_times):
    leaves, pairs = example(with_times)
    found = silu_attention(leaves[0], pairs, HEADS, leaves[1], leaves[2] if with_times else None)
    expected = reference(leaves[0], pairs, *leaves[1:])
    torch.testing.assert_close((found[0], real(found[1])), expected)
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


@pytest.mark.parametrize("with_times", [False, True])
def test_some_slots_alone_attend_to_the_same(with_times):
    leaves, pairs = example(with_times)
    at_S = torch.tensor([2, 0, 4, 11, 13])
    _, attended_TD = reference(leaves[0], pairs, *leaves[1:])
    _, v, q, k = (x.view(*OWNER_CN.shape, HEADS, -1) for x in F.silu(leaves[0]).chunk(4, dim=-1))
    time_bias_P = leaves[2] if with_times else None
    found_SHF = attend_from(
        at_S, q.flatten(0, 1)[at_S], k.transpose(1, 2), v.transpose(1, 2), pairs, leaves[1], time_bias_P
    )
    torch.testing.assert_close(found_SHF.flatten(1), attended_TD[at_S])


def test_tiles_hold_few_pairs_that_do_not_exist(monkeypatch):
    """At most 1.3 times the pairs, for histories of 120 events on average, lognormal as those of feeds are."""
    monkeypatch.undo()
    torch.manual_seed(0)
    for slots in (512, 2_048, 8_192):
        lengths = torch.exp(torch.randn(400) * 1.2 + 4.06).long().clamp(2, slots).tolist()
        needed = computed = 0
        for start in range(0, len(lengths), 20):
            owner = torch.repeat_interleave(torch.arange(20), torch.tensor(lengths[start : start + 20]))
            rows = -(-len(owner) // slots) + 20
            owner_CN = torch.full((rows, slots), -1)
            block = at = 0
            for number, length in enumerate(lengths[start : start + 20]):
                block, at = (block + 1, 0) if at + length > slots else (block, at)
                owner_CN[block, at : at + length] = number
                at += length
            computed += sum(tile.visible_QK.numel() for tile in make_tiles(Layout(owner_CN), None))
            needed += sum(length * (length + 1) // 2 for length in lengths[start : start + 20])
        assert needed < computed <= 1.3 * needed, (slots, computed / needed)


def test_a_tile_knows_its_pairs_by_their_distance():
    visible_QK = torch.ones(3, 5, dtype=torch.bool).tril(2)
    tile = hstu_attention_tiles.Tile(7, 9, 12, visible_QK, None)
    distance_QK = torch.arange(9, 12)[:, None] - torch.arange(7, 12)
    bias_N, pairs_QK = torch.randn(11), torch.randn(3, 5)
    assert torch.equal(tile.by_distance(bias_N)[visible_QK], bias_N[distance_QK[visible_QK]])
    wanted_K = torch.zeros(5).index_add_(0, distance_QK[visible_QK], pairs_QK[visible_QK])
    torch.testing.assert_close(tile.sum_by_distance(pairs_QK), wanted_K)
