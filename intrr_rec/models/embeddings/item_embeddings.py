"""The representations of a catalogue, as wide as they were made or narrower: float32, bfloat16, or int8 with a scale a row.

Shape suffixes: I items, U items looked up, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Width = Literal["float32", "bfloat16", "int8"]
DTYPES: dict[Width, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
CHUNK = 65_536


@dataclass(frozen=True)
class Rows:
    """A table of item representations; what is read from it is float32.

    Attributes:
        values_ID: float32, bfloat16 or int8.
        scale_I: what int8 values of a row are multiplied by; None for the others.
    """

    values_ID: Tensor
    scale_I: Tensor | None = None

    @classmethod
    def narrow(cls, rows_ID: Tensor, width: Width) -> Rows:
        """float32 rows stored as `width`; int8 is symmetric, its largest magnitude the row's own."""
        if width != "int8":
            return cls(rows_ID.to(DTYPES[width]))
        scale_I = rows_ID.abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
        return cls((rows_ID / scale_I[:, None]).round().to(torch.int8), scale_I)

    def __len__(self) -> int:
        return len(self.values_ID)

    def take(self, items_U: Tensor) -> Tensor:
        """Rows of any shape of ids, `[…]` → `[…, D]`."""
        if self.values_ID.dtype == torch.float32:
            return F.embedding(items_U, self.values_ID)
        return self._widen(self.values_ID[items_U], None if self.scale_I is None else self.scale_I[items_U])

    def chunks(self) -> Iterator[Tensor]:
        """All rows in order, `[≤ CHUNK, D]` at a time."""
        for start in range(0, len(self), CHUNK):
            end = start + CHUNK
            yield self._widen(self.values_ID[start:end], None if self.scale_I is None else self.scale_I[start:end])

    @staticmethod
    def _widen(values: Tensor, scale: Tensor | None) -> Tensor:
        return values.float() if scale is None else values.float() * scale[..., None]
