"""The small interface every indexer has, and where its vectors come from.

Shape legend: I items, D width, L levels, K codes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from intrr_rec.config import IndexConfig, Section
from intrr_rec.errors import ConfigError
from intrr_rec.semantic_ids.quantizers.exact import Peers

BLOCK_ROWS = 65_536
SAMPLE_ROWS = 65_536

OnProgress = Callable[[str, int, int, float], None]
"""Told (what is running, step done, steps at most, figure of merit) as a fit goes on."""


class VectorSource(Protocol):
    """Item vectors read in blocks, as often as wanted, never all at once.

    `n_items` counts the catalogue over all ranks; `blocks` yields this rank's rows only, always in the same order, as
    (dense item ids `[P]`, float32 vectors `[P, D]`).
    """

    @property
    def n_items(self) -> int:
        """I."""

    @property
    def width(self) -> int:
        """D."""

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Ids and vectors of this rank, block by block."""


@dataclass(frozen=True)
class TensorSource:
    """Vectors of items 0 … I-1 that already lie in memory."""

    x_ID: Tensor

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.x_ID)

    @property
    def width(self) -> int:
        """D."""
        return self.x_ID.shape[1]

    def blocks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Blocks of at most `BLOCK_ROWS` rows."""
        ids_I = torch.arange(len(self.x_ID))
        yield from zip(ids_I.split(BLOCK_ROWS), self.x_ID.split(BLOCK_ROWS), strict=True)


class Quantizer(Protocol):
    """Vectors → L codes each.

    Attributes:
        Config: the settings of its own, the section `index.<name>`; an empty `Section` where those of `index` are enough.
        fits_together: ranks fit it together, each from its share of the vectors; else one rank fits it from all vectors.
        sizes: K of each level.
        relative_error: after each level, Σ‖x − x̂‖² / Σ‖x‖² over the fitted vectors, in the space documented by the class.
    """

    Config: ClassVar[type[Section]]
    fits_together: ClassVar[bool]
    sizes: tuple[int, ...]
    relative_error: list[float]

    @classmethod
    def build(cls, config: IndexConfig, width: int, collaborative_IC: Tensor | None, peers: Peers) -> Quantizer:
        """A quantizer that is not fitted yet.

        Args:
            config: `config.sizes` are K of each level, `config.of("method")` the settings of its own.
            width: D of the vectors it will be given.
            collaborative_IC: what is known of each item's consumption, where `index.collaborative.weight` is set.
            peers: the ranks that fit together.
        """

    @property
    def codebooks(self) -> list[Tensor]:
        """L tables `[K_l, D']`, in the space their level quantises."""

    def fit(self, source: VectorSource, on_progress: OnProgress | None = None) -> None:
        """Learn the codebooks; the same source, settings and seed give the same codebooks."""

    def assign(self, x_ID: Tensor) -> tuple[Tensor, Tensor]:
        """int64 `codes_IL` and squared reconstruction distances `[I]`, codebooks unchanged."""

    def level_input(self, x_ID: Tensor, codes_Il: Tensor) -> Tensor:
        """`[I, D']` that level l is given once the l levels before it chose `codes_Il`: what its codebook is compared to."""

    def distances(self, x_ID: Tensor, codes_IL: Tensor) -> Tensor:
        """`[I, 1 + L]` under any codes: squared norm, then squared reconstruction distance after each level.

        Column sums over the first one's are `relative_error`.
        """

    def state(self) -> dict[str, Tensor]:
        """All that `assign` needs, by name, for safetensors."""

    def load_state(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`."""


def relative_error(quantizer: Quantizer, source: VectorSource, codes_IL: Tensor | None = None) -> list[float]:
    """After each level, Σ‖x − x̂‖² / Σ‖x‖² over a source, as the quantizer means x̂; without codes, under its own."""
    total_1L = torch.zeros(1 + len(quantizer.sizes), dtype=torch.float64)
    for ids_P, x_PD in source.blocks():
        codes_PL = quantizer.assign(x_PD)[0] if codes_IL is None else codes_IL[ids_P]
        total_1L += quantizer.distances(x_PD, codes_PL).sum(0, dtype=torch.float64).cpu()
    return (total_1L[1:] / total_1L[0].clamp(min=torch.finfo(torch.float64).tiny)).tolist()


def sample_rows(source: VectorSource) -> Tensor:
    """`[S, D]`: every n-th item's vector, n the least that leaves `SAMPLE_ROWS` or fewer; in dense item order.

    Raises:
        ConfigError: this process holds only a share of the items.
    """
    stride, seen, rows = -(-source.n_items // SAMPLE_ROWS), 0, []
    for ids_P, x_PD in source.blocks():
        rows.append(x_PD[ids_P % stride == 0])
        seen += len(ids_P)
    if seen < source.n_items:
        raise ConfigError(
            f"index.method: learns from all vectors in one process, but this one holds {seen} of {source.n_items}; "
            "run on one rank, or choose rk_means with assignment nearest"
        )
    return torch.cat(rows)
