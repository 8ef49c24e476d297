"""Arithmetic whose result does not depend on how rows are cut into blocks, threads or ranks.

Rows: `row_sums` adds in an order fixed by the width alone, where a library's reduction may choose by shape. Sums over rows:
values are first rounded to a grid so coarse that every partial sum is exact in float64, and exact sums have no order.
Draws: a row is drawn by a hash of its item id, never by its place.

Shape legend: I rows, D width.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

_EXACT_BITS = 52  # of a float64's 53; one is left for rounding up to the grid
_HASH_BITS = 62


class Peers(Protocol):
    """The ranks that fit together; `intrr_rec.distributed.world.World` is one, `ALONE` another."""

    @property
    def rank(self) -> int:
        """Number of this rank."""

    @property
    def size(self) -> int:
        """How many there are."""

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum over ranks, on every rank."""

    def gather_rows(self, rows_ND: Tensor) -> Tensor:
        """Rows of all ranks, rank after rank; N is the same on every rank."""


class Alone:
    """A rank without peers."""

    rank, size = 0, 1

    def sum(self, values: Tensor) -> Tensor:
        """The values themselves."""
        return values

    def gather_rows(self, rows_ND: Tensor) -> Tensor:
        """The rows themselves."""
        return rows_ND


ALONE = Alone()


def row_sums(x_ID: Tensor) -> Tensor:
    """Sum of each row `[I]`: the upper half of the columns is added to the lower until one is left."""
    width = x_ID.shape[1]
    while width > 1:
        half = width // 2
        kept = width - half
        folded = x_ID[:, :half] + x_ID[:, kept:width]
        x_ID = torch.cat([folded, x_ID[:, half:kept]], 1) if kept > half else folded
        width = kept
    return x_ID.squeeze(1)


def lengths(x_ID: Tensor) -> Tensor:
    """Euclidean length of each row, `[I]`."""
    return row_sums(x_ID.square()).sqrt_()


def unit_rows(x_ID: Tensor) -> tuple[Tensor, Tensor]:
    """Rows divided by their length (a row of zeros stays), and the lengths `[I]`."""
    lengths_I = lengths(x_ID)
    return x_ID / lengths_I.clamp(min=1e-12).unsqueeze(1), lengths_I


def padded_gather(rows_ID: Tensor, peers: Peers) -> Tensor:
    """Rows of all ranks, rank after rank, where each may hold another number of them."""
    counts = peers.gather_rows(torch.tensor([[len(rows_ID)]], device=rows_ID.device)).squeeze(1).tolist()
    most = max(counts)
    padded = rows_ID.new_zeros(most, *rows_ID.shape[1:])
    padded[: len(rows_ID)] = rows_ID
    gathered = peers.gather_rows(padded)
    return torch.cat([gathered[rank * most : rank * most + count] for rank, count in enumerate(counts)])


class Grid:
    """Multiples of a power of two on which sums of `n` values of at most `bound` in size are exact in float64."""

    def __init__(self, bound: float, n: int) -> None:
        exponent = math.frexp(bound)[1] + math.frexp(n)[1] - _EXACT_BITS
        self.step = math.ldexp(1.0, exponent)
        self._magic = math.ldexp(1.5, exponent + _EXACT_BITS)

    def round(self, values: Tensor) -> Tensor:
        """The nearest multiples, float64: adding and taking away 1.5 · 2⁵² steps leaves whole steps."""
        return values.double().add_(self._magic).sub_(self._magic)


def hash_ids(ids_I: Tensor, key: int) -> Tensor:
    """Pseudo-random int64 in [0, 2⁶²) of each id under `key` (SplitMix64's output function)."""
    x_I = ids_I * _signed(0x9E3779B97F4A7C15) + _signed(mixed(key))
    x_I = (x_I ^ _shifted(x_I, 30)) * _signed(0xBF58476D1CE4E5B9)
    x_I = (x_I ^ _shifted(x_I, 27)) * _signed(0x94D049BB133111EB)
    return (x_I ^ _shifted(x_I, 31)) & (2**_HASH_BITS - 1)


def hash_edge(share: float) -> int:
    """The bound below which `share` of all hashes lie."""
    return int(min(share, 1.0) * 2**_HASH_BITS)


def _shifted(x_I: Tensor, bits: int) -> Tensor:
    return (x_I >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def mixed(key: int) -> int:
    """A 64-bit seed in which every bit of `key` counts."""
    x = (key * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    return x ^ (x >> 31)
