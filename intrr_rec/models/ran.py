"""The Recursive-Assignment Network (IntRR section 3.2): L levels of fuse → assign → aggregate.

One module, two modes. *Redistribution* feeds each level the soft mixture of the level before (Eq. 6); *teacher forcing*
feeds it the codeword of the target. The codebooks are handed in: they live in a sharded table elsewhere.

Eq. 4's `MLP[x ‖ z]` is written as `W₂·relu(Wₓx + W_z z)`: the same function, but Wₓx is one product for all levels, and
where z is a codeword, W_z z is a row of a K-row table, so no product per token is needed.

Shape suffixes: B signals (items or user states), D width, L levels, K codes, F hidden width, W beams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intrr_rec.config import RanConfig
from intrr_rec.models.dropout import dropout

IN_CACHE = 512  # signals of which scores of some thousand codes stay in a core's cache
Head = tuple[tuple[Tensor, Tensor | None], ...]  # weight and bias of linear maps, one after the other


class Ran(nn.Module):
    """Maps a guidance signal x to a distribution over each level's codes.

    Args:
        levels: L, the de-duplication level included.
        width: D of signals and codewords.
        config: hidden width, context (previous level or sum of all before), assignment, similarity, dropout.
    """

    def __init__(self, levels: int, width: int, config: RanConfig) -> None:
        super().__init__()
        self.levels = levels
        self.hidden = config.hidden
        self.cumulative = config.context == "cumulative"
        self.straight_through = config.assignment == "straight_through"
        self.scale = width**-0.5 if config.similarity == "scaled" else 1.0
        self.dropout = config.dropout
        self.signal = nn.Linear(width, (levels - 1) * config.hidden)
        self.context = nn.ModuleList(nn.Linear(width, config.hidden, bias=False) for _ in range(levels - 1))
        self.output = nn.ModuleList(nn.Linear(config.hidden, width) for _ in range(levels - 1))

    def project_signal(self, x_BD: Tensor) -> Sequence[Tensor]:
        """Wₓx of levels 2 … L: a tuple of `[B, F]`."""
        return self.signal(x_BD).split(self.hidden, dim=-1)

    def context_tables(self, codebooks: Sequence[Tensor]) -> list[list[Tensor]]:
        """W_z applied to every codeword a level can see: `tables[l][j]` is `[K_j, F]`, for level l + 1 of 0 … L-2."""
        return [
            [projection(codebook_KD) for codebook_KD in self._visible(codebooks[: level + 1])]
            for level, projection in enumerate(self.context)
        ]

    def first_logits(self, x_BD: Tensor, codebook_KD: Tensor) -> Tensor:
        """Scores of the first level, `[B, D]` → `[B, K]` (Eq. 5 with h_1 = x)."""
        return F.linear(x_BD, codebook_KD * self.scale)

    def level_logits(self, fused_BF: Tensor, head: Head) -> Tensor:
        """Scores of a level after the first from the sum of its projections, `[…, F]`, which is spent, → `[…, K]` (Eq. 4 and 5)."""
        return apply_head(dropout(F.relu(fused_BF, inplace=True), self.dropout, self.training), head)

    def head(self, level: int, codebook_KD: Tensor) -> Head:
        """The scores of level `level` ≥ 1 as linear maps of its hidden layer.

        V(W₂a + b) is computed as (VW₂)a + Vb: the product of the two matrices is small beside one per signal. Not so where K is
        so large that two maps by way of D values take fewer products.
        """
        output, scaled_KD = cast(nn.Linear, self.output[level - 1]), codebook_KD * self.scale
        codes, width = codebook_KD.shape
        if self.hidden * codes > width * (self.hidden + codes):
            return (output.weight, output.bias), (scaled_KD, None)
        return ((scaled_KD @ output.weight, scaled_KD @ output.bias),)

    def teacher_forced(self, x_BD: Tensor, codes_BL: Tensor, codebooks: Sequence[Tensor]) -> list[Tensor]:
        """Logits of every level given the target's codes before it (Eq. 10): L tensors `[B, K_l]`."""
        signal, tables = self.project_signal(x_BD), self.context_tables(codebooks)
        logits = [self.first_logits(x_BD, codebooks[0])]
        for level in range(1, self.levels):
            seen = list(self._visible(range(level)))
            context = sum(F.embedding(codes_BL[:, j], table) for j, table in zip(seen, tables[level - 1], strict=True))
            logits.append(self.level_logits(signal[level - 1] + context, self.head(level, codebooks[level])))
        return logits

    def redistribute(self, x_BD: Tensor, codebooks: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Soft assignment level by level (Eq. 4-6).

        Returns:
            The sum of z_l over levels `[B, D]` (Eq. 7), and log p_l of each level, L tensors `[B, K_l]`.
        """
        log_p: list[Tensor] = []

        def probabilities(logits_BK: Tensor) -> Tensor:
            log_p.append(_log_softmax(logits_BK))
            return log_p[-1].exp()

        return self._mixture(x_BD, codebooks, self._heads(codebooks), probabilities), log_p

    @torch.no_grad()
    def mixture(self, x_BD: Tensor, codebooks: Sequence[Tensor]) -> Tensor:
        """The first of what `redistribute` returns, without gradients.

        On CPUs some signals at a time, so that what is [signals × codes] stays in the caches.
        """
        heads = self._heads(codebooks)
        parts = x_BD.split(IN_CACHE) if x_BD.device.type == "cpu" else (x_BD,)
        return torch.cat([self._mixture(part, codebooks, heads, _softmax) for part in parts])

    def _heads(self, codebooks: Sequence[Tensor]) -> list[Head]:
        return [self.head(level, codebooks[level]) for level in range(1, self.levels)]

    def _mixture(
        self,
        x_BD: Tensor,
        codebooks: Sequence[Tensor],
        heads: Sequence[Head],
        probabilities: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Level by level: scores, p_l, z_l; the sum of z_l."""
        signal = self.project_signal(x_BD)
        total_BD = z_BD = self._aggregate(probabilities(self.first_logits(x_BD, codebooks[0])), codebooks[0])
        for level, head in enumerate(heads, start=1):
            context_BD = total_BD if self.cumulative else z_BD
            fused_BF = signal[level - 1] + self.context[level - 1](context_BD)
            z_BD = self._aggregate(probabilities(self.level_logits(fused_BF, head)), codebooks[level])
            total_BD = total_BD + z_BD
        return total_BD

    def _aggregate(self, p_BK: Tensor, codebook_KD: Tensor) -> Tensor:
        """z_l (Eq. 6); straight-through: the likeliest codeword, differentiated as if it were the mixture."""
        mixture_BD = p_BK @ codebook_KD
        if not self.straight_through:
            return mixture_BD
        return mixture_BD + (codebook_KD[p_BK.argmax(-1)] - mixture_BD).detach()

    def _visible(self, before: Sequence) -> Sequence:
        return before if self.cumulative else before[-1:]


def _log_softmax(logits_BK: Tensor) -> Tensor:
    """In fp32, whatever the products before it were computed in."""
    return F.log_softmax(logits_BK, dim=-1, dtype=torch.float32)


def _softmax(logits_BK: Tensor) -> Tensor:
    return F.softmax(logits_BK, dim=-1, dtype=torch.float32)


def apply_head(hidden_BF: Tensor, head: Head) -> Tensor:
    """Scores of the hidden layer, `[…, F]` → `[…, K]`."""
    for weight, bias in head:
        hidden_BF = F.linear(hidden_BF, weight, bias)
    return hidden_BF
