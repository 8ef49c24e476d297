"""HSTU's attention by the Triton kernels, interpreted, against the batched products: run by `test_triton_attention.py`.

Triton decides when it is imported whether it interprets, so this runs in a process of its own.
"""

import sys

import torch

from intrr_rec.data.loading.batch import Layout
from intrr_rec.models.backbones import hstu_attention as silu_attention
from intrr_rec.models.backbones import hstu_attention_triton as triton_attention
from intrr_rec.models.backbones.hstu_attention import Pairs

BUCKETS = 5


def owners(blocks, slots):
    """Jagged histories packed into blocks, with padding at the end of each."""
    owner_CN = torch.full((blocks, slots), -1)
    owner = 0
    for block in range(blocks):
        at = 0
        while at < slots - 3:
            length = int(torch.randint(1, slots, ()))
            owner_CN[block, at : min(at + length, slots - 2)] = owner
            at, owner = at + length, owner + 1
    return owner_CN


def compute(kernels, owner_CN, heads, width, with_times):
    """Values and gradients."""
    torch.manual_seed(1)
    blocks, slots = owner_CN.shape
    edges = torch.arange(2, BUCKETS + 1)
    times_CN = torch.randint(0, BUCKETS + 2, (2, blocks, slots)) if with_times else (None, None)
    leaves = [torch.randn(blocks * slots, 4 * heads * width), torch.randn(slots + 1)]
    leaves += [torch.randn(BUCKETS)] if with_times else []
    leaves = [leaf.requires_grad_() for leaf in leaves]
    silu_attention.kernels = lambda device: kernels
    pairs = Pairs.of(Layout(owner_CN, *times_CN), slots + 1, edges if with_times else None, torch.float32)
    time_bias_P = leaves[2] if with_times else None
    u_TD, attended_TD, *_ = silu_attention.silu_attention(leaves[0], pairs, heads, leaves[1], time_bias_P)
    at = torch.arange(u_TD.numel()).view(u_TD.shape)
    loss = (u_TD * attended_TD * at.cos()).sum() + (attended_TD * at.sin()).sum()
    return [u_TD, attended_TD, *torch.autograd.grad(loss, leaves)]


def main():
    """Every size by both ways."""
    for slots, heads, width, with_times in ((7, 2, 4, True), (40, 1, 20, True), (40, 2, 16, False)):
        torch.manual_seed(0)
        owner_CN = owners(2, slots)
        found = compute(triton_attention, owner_CN, heads, width, with_times)
        expected = compute(None, owner_CN, heads, width, with_times)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        print(slots, heads, width, with_times, "equal")


if __name__ == "__main__":
    sys.exit(main())
