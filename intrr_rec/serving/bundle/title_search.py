"""Search among titles in the order of their popularity: it ends when enough are found, and passes over blocks that cannot hold any.

`search.safetensors` holds `grams`: items in the order of popularity make blocks, and of each block a bit for every run of two or
three bytes says whether one of its titles, in lower case, has the run. Runs of three share bits with others, so a set bit may lie;
a bit that is not set does not. A search therefore reads a few bytes a block, and the titles of the blocks that are left.

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

from intrr_rec.serving.bundle.tensor_file import TensorFile

SEARCH, NAME = "search.safetensors", "grams"
BLOCK = 1024  # items
BITS = 1 << 16
GROUP = 8 * BLOCK  # items whose blocks share a row of bytes


@dataclass(frozen=True)
class TitleSearch:
    """What a search looks through.

    Attributes:
        titles: at the position of the dense ids.
        by_popularity_I: dense ids, the most popular first.
        grams_GH: uint8, bit b of byte `[g, h]` is that of block 8 g + b; None looks at every block.
    """

    titles: pa.LargeStringArray
    by_popularity_I: NDArray[np.int64]
    grams_GH: NDArray[np.uint8] | None

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
        if self.grams_GH is None:
            yield from range(-(-len(self.by_popularity_I) // BLOCK))
            return
        may_hold_G = np.full(len(self.grams_GH), 0xFF, np.uint8)
        for word in words:
            for gram in np.unique(_grams(np.frombuffer(word.encode(), np.uint8))):
                may_hold_G &= self.grams_GH[:, gram]
        yield from np.flatnonzero(np.unpackbits(may_hold_G, bitorder="little")).tolist()


def _grams(data_N: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The bit of each run of three bytes, or of a word of two its one run; of a shorter one there is none."""
    byte_N = data_N.astype(np.int64)
    if len(byte_N) == 2:
        return byte_N[:1] << 8 | byte_N[1:]
    return ((byte_N[:-2] * 31 + byte_N[1:-1]) * 241 + byte_N[2:]) % BITS if len(byte_N) > 2 else byte_N[:0]


def write_search(titles: pa.LargeStringArray, by_popularity_I: NDArray[np.int64], path: Path) -> None:
    """Write `search.safetensors` of titles that are mapped, a group of blocks at a time."""
    n_items = len(titles)
    groups = -(-n_items // GROUP)
    with TensorFile(path, {NAME: (torch.uint8, (groups, BITS))}) as file:
        for group in range(groups):
            bits_H = np.zeros(BITS, np.uint8)
            for block in range(8):
                first = group * GROUP + block * BLOCK
                item_R = by_popularity_I[first : min(first + BLOCK, n_items)]
                if len(item_R):
                    bits_H[_runs(pc.utf8_lower(titles.take(pa.array(item_R))))] |= np.uint8(1 << block)
            file.write(NAME, group, torch.from_numpy(bits_H[None]))


def _runs(titles: pa.LargeStringArray) -> NDArray[np.int64]:
    """The bits of all runs of two and three bytes within some titles, none twice."""
    _, offsets, data = titles.buffers()
    end_R = np.frombuffer(offsets, np.int64)[titles.offset : titles.offset + len(titles) + 1]
    data_N = np.frombuffer(data or b"", np.uint8)[end_R[0] : end_R[-1]]
    if len(data_N) < 2:
        return np.empty(0, np.int64)
    # A run that goes on into the next title is none.
    title_N = np.repeat(np.arange(len(titles)), np.diff(end_R))
    byte_N = data_N.astype(np.int64)
    pairs = (byte_N[:-1] << 8 | byte_N[1:])[title_N[:-1] == title_N[1:]]
    return np.unique(np.concatenate([pairs, _grams(data_N)[title_N[:-2] == title_N[2:]] if len(data_N) > 2 else pairs]))
