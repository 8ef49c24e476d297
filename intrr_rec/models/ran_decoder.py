"""The RAN as decoding walks it, a level at a time, with all that no user changes computed beforehand.

Shape suffixes: B users, R prefixes, D width, K codes, F hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intrr_rec.models.ran import Ran, apply_head


class Steps(Protocol):
    """What a beam search walks: `RanSteps`, or what runs it elsewhere."""

    levels: int

    def begin(self, x_BD: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `RanSteps`."""

    def step(self, level: int, signal_RF: Tensor, chosen: Sequence[Tensor]) -> Tensor:
        """See `RanSteps`."""


class RanSteps(nn.Module):
    """Logits of each level, given the codes a beam has chosen.

    Args:
        ran: in evaluation mode.
        codebooks: L tensors `[K_l, D]`.
    """

    @torch.no_grad()
    def __init__(self, ran: Ran, codebooks: Sequence[Tensor]) -> None:
        super().__init__()
        self.levels, self.cumulative, self.hidden = ran.levels, ran.cumulative, ran.hidden
        self.signal = ran.signal
        self.maps = [0]  # of each level from its hidden layer to its scores
        self.register_buffer("first", codebooks[0] * ran.scale)
        for level, tables in enumerate(ran.context_tables(codebooks), start=1):
            head = ran.head(level, codebooks[level])
            self.maps.append(len(head))
            for j, (weight, bias) in enumerate(head):
                self.register_buffer(f"weight_{level}_{j}", weight.detach())
                self.register_buffer(f"bias_{level}_{j}", None if bias is None else bias.detach())
            for j, table_KF in enumerate(tables):
                self.register_buffer(f"table_{level}_{j}", table_KF)

    def begin(self, x_BD: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits of the first level `[B, K]`, and what each later level takes from the user state, `[B, F]` each."""
        return F.linear(x_BD, self.get_buffer("first")), self.signal(x_BD).split(self.hidden, dim=-1)

    def step(self, level: int, signal_RF: Tensor, chosen: Sequence[Tensor]) -> Tensor:
        """Logits of level `level` ≥ 1 after each prefix, `[R, K]`.

        Args:
            level: from 1 to L - 1.
            signal_RF: the level's part of what `begin` gave, of each prefix's user.
            chosen: the codes `[R]` of all levels before.
        """
        fused_RF = signal_RF
        for j, code_R in enumerate(chosen if self.cumulative else chosen[-1:]):
            fused_RF = fused_RF + F.embedding(code_R, self.get_buffer(f"table_{level}_{j}"))
        names = [(f"weight_{level}_{j}", f"bias_{level}_{j}") for j in range(self.maps[level])]
        return apply_head(F.relu(fused_RF), tuple((self.get_buffer(w), self.get_buffer(b)) for w, b in names))
