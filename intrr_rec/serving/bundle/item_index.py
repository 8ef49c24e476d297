"""Texts as flat arrays, and the bisection that finds own ids among them: nothing is built, so opening costs nothing.

Texts lie end to end as UTF-8, with the offset of each (Arrow's large strings, which read them where they lie). Ids are compared
byte by byte, as Python compares strings; ids that are whole numbers, by their number. Ids that are not in order are looked at
through a permutation that puts them in order.

Shape suffixes: I items, N ids looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from torch import Tensor

OFFSETS, BYTES = "offsets", "bytes"
NUMBER, LARGEST = r"^(0|-?[1-9][0-9]{0,18})$", (1 << 63) - 1


def texts(tensors: Mapping[str, Tensor], name: str) -> pa.LargeStringArray:
    """The texts `name` of a file of flat arrays, where they lie.

    Raises:
        ValueError: the offsets do not fit the bytes.
    """
    offsets, data = tensors[f"{name}.{OFFSETS}"].numpy(), tensors[f"{name}.{BYTES}"].numpy()
    if (
        offsets.dtype != np.int64
        or data.dtype != np.uint8
        or not len(offsets)
        or offsets[-1] != len(data)
        or offsets[0]
    ):
        raise ValueError(f"the offsets of {name} do not fit its bytes")
    return pa.LargeStringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))


@dataclass(frozen=True)
class ItemIndex:
    """Own ids of items, to be found.

    Attributes:
        ids: at the position of the dense ids.
        order_I: dense ids in the order of the own ids; None where that is the order of dense ids.
        number_I: the ids as numbers, rising; None where they are no numbers, or not in that order.
    """

    ids: pa.LargeStringArray
    order_I: NDArray[np.int64] | None
    number_I: NDArray[np.int64] | None = None

    def places(self, wanted: pa.Array) -> NDArray[np.int64]:
        """The dense id of each own id (string), `[N]`; -1 for an item that is not there."""
        if len(wanted) > 1 << 12:  # of many, most are asked for again and again
            encoded = wanted.dictionary_encode()
            return self._places(encoded.dictionary)[encoded.indices.to_numpy()]
        return self._places(wanted)

    def _places(self, wanted: pa.Array) -> NDArray[np.int64]:
        if self.number_I is not None:
            number_N, is_number_N = _numbers(wanted)
            order_N = np.argsort(number_N)  # neighbours look at the same pages
            found_N = np.empty(len(number_N), np.int64)
            found_N[order_N] = np.searchsorted(self.number_I, number_N[order_N])
            found_N = np.minimum(found_N, len(self.number_I) - 1)
            return np.where(is_number_N & (self.number_I[found_N] == number_N), found_N, -1)
        wanted = wanted.cast(pa.large_string())
        low_N, high_N = np.zeros(len(wanted), np.int64), np.full(len(wanted), len(self.ids))
        for _ in range(len(self.ids).bit_length()):
            middle_N = np.minimum((low_N + high_N) >> 1, len(self.ids) - 1)
            is_less_N = pc.less(self._at(middle_N), wanted).to_numpy(zero_copy_only=False) & (low_N < high_N)
            low_N = np.where(is_less_N, middle_N + 1, low_N)
            high_N = np.where(is_less_N, high_N, np.minimum(middle_N, high_N))
        found_N = np.minimum(low_N, len(self.ids) - 1)
        is_there_N = pc.equal(self._at(found_N), wanted).to_numpy(zero_copy_only=False)
        dense_N = found_N if self.order_I is None else self.order_I[found_N].astype(np.int64)
        return np.where(is_there_N, dense_N, -1)

    def _at(self, place_N: NDArray[np.int64]) -> pa.Array:
        return self.ids.take(pa.array(place_N if self.order_I is None else self.order_I[place_N]))


def _numbers(wanted: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Texts as numbers, and which of them are what a number is written as."""
    is_number = pc.match_substring_regex(wanted, NUMBER)
    try:
        number_N = pc.if_else(is_number, wanted, "0").cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid:  # one that is beyond 64 bits
        found = [
            int(text) if fits else LARGEST + 1
            for text, fits in zip(wanted.to_pylist(), is_number.to_pylist(), strict=True)
        ]
        is_number = pa.array([-LARGEST - 1 <= number <= LARGEST for number in found])
        number_N = np.array([number if -LARGEST - 1 <= number <= LARGEST else 0 for number in found], np.int64)
    return number_N, is_number.to_numpy(zero_copy_only=False)
