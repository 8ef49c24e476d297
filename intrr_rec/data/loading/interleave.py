"""Sequences merged so that all are used up evenly, without ever writing the merged order down.

Element k of a sequence of n lies at place (k + shift) / n of the interval from 0 to 1, and the order is that of the places.
The shifts of the sequences differ, so that sequences of one length take turns.

Shape suffixes: G sequences, K elements near a place.
"""

from __future__ import annotations

import numpy as np

from intrr_rec.data.loading.windows import IntArray


class Interleaving:
    """The merged order of sequences.

    Args:
        length_G: elements of each.
    """

    def __init__(self, length_G: IntArray) -> None:
        self.length_G = length_G
        self.shift_G = (np.arange(len(length_G)) + 0.5) / len(length_G)
        self.total = int(length_G.sum())

    def first(self, count: int) -> IntArray:
        """How many elements of each sequence are among the first `count` of the merged order, `[G]`."""
        margin = len(self.length_G) + 2  # up to a place, no sequence is more than one element from its even share
        low_G, high_G = self._before(count - margin), self._before(count + margin)
        near_G = high_G - low_G
        sequence_K = np.repeat(np.arange(len(near_G)), near_G)
        element_K = np.arange(len(sequence_K)) - np.repeat(np.cumsum(near_G) - near_G - low_G, near_G)
        place_K = (element_K + self.shift_G[sequence_K]) / self.length_G[sequence_K]
        taken_K = np.lexsort((sequence_K, place_K))[: count - int(low_G.sum())]
        return low_G + np.bincount(sequence_K[taken_K], minlength=len(low_G))

    def _before(self, count: int) -> IntArray:
        """Elements of each sequence that lie before the place where about `count` elements do."""
        before_G = np.ceil(self.length_G * (count / max(1, self.total)) - self.shift_G)
        return before_G.clip(0, self.length_G).astype(np.int64)
