"""Search among titles in the order of their popularity: it ends when enough are found, and passes over blocks that cannot hold any.

`search.safetensors` holds `grams`: items in the order of popularity make blocks, and of each block a bit for every run of two, three or
five bytes says whether one of its titles, in lower case, has the run. Runs share bits with others, so a set bit may lie; a bit that
is not set does not. A search reads one bit per block for each run of its words, then the titles of the blocks that are left.

Shape suffixes: I items, G groups of 8 blocks, H bits of a block, N bytes of titles, R items of a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from intrr_rec.io.formats.mapped import roomy
from intrr_rec.serving.bundle.tensor_file import TensorFile

SEARCH, NAME = "search.safetensors", "grams"
BLOCK = 1024  # items
BITS = 1 << 17
LENGTHS = (2, 3, 5)  # bytes of a run; five, since there are few runs of three digits
AT_ONCE = 1 << 12  # bits that are written together
GROUP = 8 * BLOCK  # items whose blocks share a row of bytes


@dataclass(frozen=True)
class TitleSearch:
    """What a search looks through.

    Attributes:
        titles: at the position of the dense ids.
        by_popularity_I: dense ids, the most popular first.
        grams_HG: uint8, bit b of byte `[h, g]` is that of block 8 g + b; None looks at every block.
    """

    titles: pa.LargeStringArray
    by_popularity_I: NDArray[np.int64]
    grams_HG: NDArray[np.uint8] | None

    def find(self, words: Sequence[str], limit: int) -> list[int]:
        """Dense ids of items with every word (in lower case) in their title, the most popular first, at most `limit`."""
        found: list[int] = []
        for block in self._blocks(words):
            item_R = self.by_popularity_I[block * BLOCK : (block + 1) * BLOCK]
            lower = pc.utf8_lower(self.titles.take(pa.array(item_R)))
            is_found_R = np.ones(len(item_R), np.bool_)
            for word in words:
                is_found_R &= pc.match_substring(lower, word).to_numpy(zero_copy_only=False)
            found += item_R[is_found_R].tolist()
            if len(found) >= limit:
                break
        return found[:limit]

    def _blocks(self, words: Sequence[str]) -> Iterator[int]:
        """Blocks that may hold a title with every word, in order."""
        if self.grams_HG is None:
            yield from range(-(-len(self.by_popularity_I) // BLOCK))
            return
        may_hold_G = np.full(self.grams_HG.shape[1], 0xFF, np.uint8)
        for word in words:
            data_N = np.frombuffer(word.encode(), np.uint8)
            for length in LENGTHS:
                for bit in np.unique(_bits(data_N, length)).tolist():
                    may_hold_G &= self.grams_HG[bit]
        yield from np.flatnonzero(np.unpackbits(may_hold_G, bitorder="little")).tolist()


def _bits(data_N: NDArray[np.uint8], length: int) -> NDArray[np.int64]:
    """The bit of each run of so many bytes."""
    runs = max(0, len(data_N) - length + 1)
    bit_N = np.full(runs, length, np.int64)
    for place in range(length):
        bit_N = bit_N * 257 + data_N[place : place + runs]
    return (bit_N * 0x9E3779B1 >> 12) % BITS


def write_search(titles: pa.LargeStringArray, by_popularity_I: NDArray[np.int64], path: Path) -> None:
    """Write `search.safetensors` of titles that are mapped, a group of blocks at a time."""
    n_items = len(titles)
    groups = -(-n_items // GROUP)
    grams_GH = roomy(np.uint8, (groups, BITS))
    for group in range(groups):
        for block in range(8):
            first = group * GROUP + block * BLOCK
            item_R = by_popularity_I[first : min(first + BLOCK, n_items)]
            if len(item_R):
                grams_GH[group, _runs(pc.utf8_lower(titles.take(pa.array(item_R))))] |= np.uint8(1 << block)
    with TensorFile(path, {NAME: (torch.uint8, (BITS, groups))}) as file:
        for first in range(0, BITS, AT_ONCE):
            file.write(NAME, first, torch.from_numpy(np.ascontiguousarray(grams_GH[:, first : first + AT_ONCE].T)))


def _runs(titles: pa.LargeStringArray) -> NDArray[np.int64]:
    """The bits of all runs within some titles, none twice."""
    _, offsets, data = titles.buffers()
    end_R = np.frombuffer(offsets, np.int64)[titles.offset : titles.offset + len(titles) + 1]
    data_N = np.frombuffer(data or b"", np.uint8)[end_R[0] : end_R[-1]]
    title_N = np.repeat(np.arange(len(titles)), np.diff(end_R))
    found = []
    for length in LENGTHS:  # a run that goes on into the next title is none
        bit_N = _bits(data_N, length)
        found.append(bit_N[title_N[: len(bit_N)] == title_N[len(title_N) - len(bit_N) :]])
    return np.unique(np.concatenate(found))
