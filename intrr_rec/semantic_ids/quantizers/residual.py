"""What residual quantisers share: each level quantises what the levels before it left unexplained.

Shape legend: I items, P items of a block, D width, L levels, l levels so far, K codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from intrr_rec.config import Section
from intrr_rec.semantic_ids.quantizers.exact import row_sums, unit_rows
from intrr_rec.semantic_ids.quantizers.kmeans import BLOCK, Nearest


class ResidualQuantizer:
    """L codebooks over residuals; a subclass says how they are learned.

    With `normalize` on, the input of every level, the vector itself included, is L2-normalised and the residual is taken
    from the normalised vector, so that every level clusters directions. Off, it is plain residual quantisation.

    Attributes:
        codebooks: L tables `[K_l, D]`, in the space their level clusters.
        relative_error: after each level, Σ‖x − x̂‖² / Σ‖x‖² over the fitted vectors. With `normalize`, x is the normalised
            vector and x̂ puts every level's codeword back at the length its residual had, which the codes alone do not
            carry: compare it between levels rather than with a plain fit.
    """

    Config: ClassVar[type[Section]] = Section
    fits_together: ClassVar[bool] = False

    def __init__(self, sizes: Sequence[int], *, normalize: bool) -> None:
        self.sizes = tuple(sizes)
        self.normalize = normalize
        self.codebooks: list[Tensor] = []
        self.relative_error: list[float] = []

    def assign(self, x_ID: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest codeword at every level: int64 `codes_IL`, and `distances_I` as `relative_error` means them."""
        nearest = [Nearest(codebook_KD) for codebook_KD in self.codebooks]
        codes_IL = torch.empty(len(x_ID), len(nearest), dtype=torch.int64, device=x_ID.device)
        distances_I = torch.empty(len(x_ID), dtype=x_ID.dtype, device=x_ID.device)
        for start in range(0, len(x_ID), BLOCK):
            # All levels of a block while it lies in cache.
            input_PD, scale_P = self._first(x_ID[start : start + BLOCK])
            for level, find in enumerate(nearest):
                codes_P = find(input_PD)
                codes_IL[start : start + BLOCK, level] = codes_P
                chosen_PD = find.centroids_KD.index_select(0, codes_P)
                left_PD = torch.sub(input_PD, chosen_PD, out=chosen_PD)
                if level + 1 < len(nearest):
                    input_PD, scale_P = self._next(left_PD, scale_P)
            distances_I[start : start + BLOCK] = scale_P.square() * row_sums(left_PD.square_())
        return codes_IL, distances_I

    def level_input(self, x_ID: Tensor, codes_Il: Tensor) -> Tensor:
        """`[I, D]` that level l is given once the levels before it chose `codes_Il`."""
        input_ID, scale_I = self._first(x_ID)
        for codes_I, codebook_KD in zip(codes_Il.unbind(1), self.codebooks, strict=False):
            input_ID, scale_I = self._next(input_ID - codebook_KD[codes_I], scale_I)
        return input_ID

    def distances(self, x_ID: Tensor, codes_IL: Tensor) -> Tensor:
        """`[I, 1 + L]` under any codes: the squared norm of x, then the squared distance left after each level."""
        input_ID, scale_I = self._first(x_ID)
        columns = [row_sums(input_ID.square())]
        for codes_I, codebook_KD in zip(codes_IL.unbind(1), self.codebooks, strict=True):
            left_ID = input_ID - codebook_KD[codes_I]
            columns.append(scale_I.square() * row_sums(left_ID.square()))
            input_ID, scale_I = self._next(left_ID, scale_I)
        return torch.stack(columns, 1)

    def state(self) -> dict[str, Tensor]:
        """All that `assign` needs, by name, for safetensors."""
        return {f"codebook.{level}": codebook_KD.contiguous() for level, codebook_KD in enumerate(self.codebooks)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""
        self.codebooks = [state[f"codebook.{level}"] for level in range(len(self.sizes))]

    def _first(self, x_ID: Tensor) -> tuple[Tensor, Tensor]:
        """The first level's input, and the length one unit of it stands for: 1."""
        unit_I = x_ID.new_ones(len(x_ID))
        return (unit_rows(x_ID)[0] if self.normalize else x_ID), unit_I

    def _next(self, left_ID: Tensor, scale_I: Tensor) -> tuple[Tensor, Tensor]:
        """A later level's input, and the length one unit of it stands for in the first level's input."""
        if not self.normalize:
            return left_ID, scale_I
        unit_ID, lengths_I = unit_rows(left_ID)
        return unit_ID, scale_I * lengths_I
