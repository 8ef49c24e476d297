"""Windows dealt so that ranks get equal tokens, and nearly equal attention pairs, whatever the lengths.

A rank that holds all windows of a step in memory deals them by length (`deal`). A rank that holds some row groups alone cannot: there
the order of each row group makes every run of its windows alike in lengths (`even_order`).

Shape suffixes: M windows, V numbers below a power of two.
"""

from __future__ import annotations

import numpy as np

from intrr_rec.data.loading.windows import IntArray

BLOCKS = 256  # of windows of like length, each shuffled


def deal(length_M: IntArray, takers: int) -> IntArray:
    """Which of so many takers each window goes to, `[M]`: the longest first, in turns that go to and fro.

    The numbers of windows of two takers differ by one at most, their tokens by less than twice the longest window.
    """
    taker_M = np.zeros(len(length_M), np.int64)
    if takers > 1:
        turn_M = np.arange(len(length_M)) % (2 * takers)
        taker_M[_longest_first(length_M)] = np.minimum(turn_M, 2 * takers - 1 - turn_M)
    return taker_M


def even_order(length_M: IntArray, rng: np.random.Generator) -> IntArray:
    """A random order of windows in which every run has long and short ones in their proportion, `[M]`.

    The windows are sorted by length, blocks of like lengths shuffled. Place t takes the window whose rank is that of the t-th number of
    a van der Corput sequence, with a random digital shift: of 2ᵏ places in a row from a multiple of 2ᵏ on, each 2ᵏ-th part of
    the ranks has one, but for rounding.
    """
    count = len(length_M)
    if not count:
        return np.empty(0, np.int64)
    drawn_M = rng.permutation(count)
    sorted_M = drawn_M[_longest_first(length_M[drawn_M])]
    block_M = np.arange(count) * min(BLOCKS, -(-count // 2)) // count
    sorted_M = sorted_M[np.argsort(block_M + rng.random(count))]
    place_V = np.zeros(1, np.int64)  # t by the number it has in the sequence: its binary digits in reverse
    while len(place_V) < count:
        place_V = np.concatenate([2 * place_V, 2 * place_V + 1])
    place_V = place_V[np.arange(len(place_V)) ^ rng.integers(len(place_V))]
    order_M = np.empty(count, np.int64)
    order_M[place_V[place_V < count]] = sorted_M
    return order_M


def _longest_first(length_M: IntArray) -> IntArray:
    """An order of falling length; equal ones keep theirs. NumPy sorts numbers of 16 bits by radix."""
    falling_M = int(length_M.max(initial=0)) - length_M
    return np.argsort(
        falling_M.astype(np.uint16) if len(length_M) and falling_M.max() < 1 << 16 else falling_M, kind="stable"
    )
