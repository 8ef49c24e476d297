"""Dropout with one random byte an element.

torch's CPU dropout draws a 32-bit number an element, on one thread; at the sizes of this model that is a twelfth of a
training step. Here one 64-bit draw serves eight elements.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Zero each element with probability `p`, rounded to a multiple of 1/256, and scale the rest so that means stay.

    Args:
        x: any shape.
        p: in [0, 1).
        training: False returns `x` as it is.
    """
    dropped = min(255, round(256 * p))
    if not training or not dropped:
        return x
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return x * (kept.to(x.dtype) * (256 / (256 - dropped)))
