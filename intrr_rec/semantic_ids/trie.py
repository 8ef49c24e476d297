"""The prefix trie of Semantic IDs as flat arrays: what may follow a prefix, found by two gathers.

Nodes at depth l are the distinct length-l prefixes in lexicographic order, so the children of one node lie side by side
at depth l+1 and a pair of offsets names them all (compressed sparse rows). A decode step therefore costs the same
whatever the size of the catalogue.

Shape legend: I items, L levels, N nodes of a depth, R nodes looked up, C most children of any node at a depth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.errors import DataError

_INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)
CHUNK = 1 << 16  # leaves that are looked at together where all are
KEY_BITS = 62  # of a Semantic ID sorted as one number


@dataclass(frozen=True)
class PrefixTrie:
    """A static trie over unique Semantic IDs of equal length L.

    Attributes:
        child_offsets: L tensors; `child_offsets[l]` has `nodes(l) + 1` entries, and the children of node n at depth l are
            the nodes `child_offsets[l][n] … child_offsets[l][n + 1] - 1` at depth l+1.
        child_codes: L tensors; `child_codes[l]` has `nodes(l + 1)` entries: the last code of each prefix of length l+1.
        leaf_items: dense item id of each node at depth L.
        max_children: for each depth l < L, the most children a node has.
        runs: L views of `child_codes`, `[nodes(l + 1), C]`: row n has the codes of the C nodes from n on. What may follow a
            node is thus copied as one piece, several times as fast as C look-ups.
        leaf_of_item: the leaf of each item, for filters. It stays on the host that the trie came from.
        first_leaves: for each depth l < L - 1, the first leaf below each node, `nodes(l) + 1` entries: the last one is I. At depth
            L - 1 that is `child_offsets[L - 1]`. It stays on the host as well.

    Integers are stored as narrow as they fit (at most 16 bytes an item at four levels of 256 codes or fewer, and 4 more for
    filters).
    """

    child_offsets: tuple[Tensor, ...]
    child_codes: tuple[Tensor, ...]
    leaf_items: Tensor
    max_children: tuple[int, ...]
    runs: tuple[Tensor, ...]
    leaf_of_item: Tensor
    first_leaves: tuple[Tensor, ...]

    @classmethod
    def build(cls, codes_IL: Tensor, codes_per_level: Sequence[int]) -> PrefixTrie:
        """Build the trie of items 0 … I-1 from their codes, on the device of `codes_IL`.

        Raises:
            DataError: no items, a code outside `[0, codes_per_level[l])`, or two items sharing a Semantic ID.
        """
        n_items, n_levels = codes_IL.shape
        if n_levels != len(codes_per_level) or not n_levels:
            raise DataError(f"semantic ids have {n_levels} levels, but {len(codes_per_level)} level sizes were given")
        if not n_items:
            raise DataError("semantic ids hold no items, so there is no trie to build; index a catalogue with items")
        _require_in_range(codes_IL, codes_per_level)
        order_I = sorted_order(codes_IL, codes_per_level)
        device = codes_IL.device
        offsets, codes, max_children = [], [], []
        starts_N = torch.zeros(
            1, dtype=torch.int64, device=device
        )  # sorted row at which each node of this depth begins
        is_new_I = torch.zeros(n_items, dtype=torch.bool, device=device)
        is_new_I[0] = True
        for level, n_codes in enumerate(codes_per_level):
            column_I = codes_IL[:, level][order_I]
            is_new_I[1:] |= column_I[1:] != column_I[:-1]
            child_starts_N = is_new_I.nonzero().squeeze(1)
            # A node's rows begin where its first child's do.
            end = torch.tensor([len(child_starts_N)], device=device)
            offset_N = torch.cat([torch.searchsorted(child_starts_N, starts_N), end])
            max_children.append(int(offset_N.diff().max()))
            offsets.append(offset_N.to(narrowest(len(child_starts_N))))
            codes.append(F.pad(column_I[child_starts_N].to(narrowest(n_codes - 1)), (0, max_children[-1] - 1)))
            starts_N = child_starts_N
        if len(starts_N) != n_items:
            row = int((~is_new_I).nonzero()[0, 0])
            first, second = sorted(order_I[row - 1 : row + 1].tolist())
            raise DataError(
                f"items {first} and {second} share the Semantic ID {tuple(codes_IL[first].tolist())}; "
                "a trie needs unique Semantic IDs, so add a de-duplication level"
            )
        leaf_items = order_I.to(narrowest(n_items))
        leaf_of_item = torch.empty_like(leaf_items)
        leaf_of_item[order_I] = torch.arange(n_items, dtype=leaf_items.dtype, device=device)
        first = [offsets[-1]]
        for offset_N in reversed(offsets[:-1]):
            first.append(first[-1][offset_N.long()])
        return cls._of(offsets, codes, leaf_items, max_children, leaf_of_item, first[:0:-1])

    @classmethod
    def _of(
        cls,
        offsets: Sequence[Tensor],
        padded: Sequence[Tensor],
        leaf_items: Tensor,
        max_children: Sequence[int],
        leaf_of_item: Tensor,
        first_leaves: Sequence[Tensor],
    ) -> PrefixTrie:
        # A last run ends where another begins, or in padding.
        runs = [code_N.unfold(0, most, 1) for code_N, most in zip(padded, max_children, strict=True)]
        own = [code_N[: len(run_NC)] for code_N, run_NC in zip(padded, runs, strict=True)]
        return cls(
            tuple(offsets), tuple(own), leaf_items, tuple(max_children), tuple(runs), leaf_of_item, tuple(first_leaves)
        )

    @property
    def levels(self) -> int:
        """L, the length of every Semantic ID."""
        return len(self.child_codes)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the arrays that decoding reads, those for filters left out."""
        return sum(tensor.nbytes for tensor in (*self.child_offsets, *self.child_codes, self.leaf_items))

    def nodes(self, depth: int) -> int:
        """Number of distinct prefixes of length `depth`, 0 … L; `nodes(0)` is 1, `nodes(L)` is I."""
        return len(self.child_codes[depth - 1]) if depth else 1

    def children(self, depth: int, node_R: Tensor) -> tuple[Tensor, Tensor]:
        """The first child of each node, and how many it has, both int64; they lie side by side.

        Args:
            depth: depth of the given nodes, 0 … L-1; the root is node 0 at depth 0.
            node_R: int64 nodes.
        """
        offset_R2 = self.child_offsets[depth].unfold(0, 2, 1).index_select(0, node_R).long()
        return offset_R2[:, 0], offset_R2[:, 1] - offset_R2[:, 0]

    def codes(self, depth: int, first_R: Tensor, count_R: Tensor) -> tuple[Tensor, Tensor]:
        """The codes of the children that `children` tells of.

        Returns:
            `code_RC`, int64, in rising order, with C = `max_children[depth]`; and `closed_RC`, 0 where a node has such a
            child and -inf beyond its last, where the code is any one.
        """
        most = self.max_children[depth]
        code_RC = self.runs[depth].index_select(0, first_R).long()
        open_then_closed = torch.zeros(2 * most, device=first_R.device)
        open_then_closed[most:] = -torch.inf
        return code_RC, open_then_closed.unfold(0, most, 1).index_select(0, most - count_R)

    def node_of_prefix(self, codes: Sequence[int]) -> int | None:
        """The node of a prefix of length 0 … L at that depth, or None where no item begins so."""
        node = 0
        for depth, code in enumerate(codes):
            first, end = self.child_offsets[depth][node : node + 2].tolist()
            matches = (self.child_codes[depth][first:end] == code).nonzero()
            if not len(matches):
                return None
            node = first + int(matches[0, 0])
        return node

    def codes_of(self, leaf: int) -> tuple[int, ...]:
        """The L codes that lead to a leaf."""
        path: list[int] = []
        node = leaf
        for offset_N, code_N in zip(reversed(self.child_offsets), reversed(self.child_codes), strict=True):
            path.append(int(code_N[node]))
            node = int(torch.searchsorted(offset_N.long(), node, right=True)) - 1
        return tuple(reversed(path))

    def leaf_codes(self) -> Iterator[tuple[int, Tensor]]:
        """The first leaf, and the codes that lead to each, int64 `[R, L]`, of some leaves at a time, in order."""
        n_items = len(self.leaf_items)
        for first in range(0, n_items, CHUNK):
            end = min(first + CHUNK, n_items)
            low, high, place_R = first, end, torch.arange(end - first)
            levels = []
            for offset_N, code_N in zip(reversed(self.child_offsets), reversed(self.child_codes), strict=True):
                levels.append(code_N[low:high].long().cpu()[place_R])
                offsets = offset_N.cpu().numpy()
                low_and_last = np.array([low, high - 1], offsets.dtype)  # of another type, the array would be copied
                above, end_above = np.searchsorted(offsets, low_and_last, side="right").tolist()
                above -= 1
                edges = np.clip(offsets[above : end_above + 1].astype(np.int64), low, high)
                place_R = torch.from_numpy(np.repeat(np.arange(end_above - above), np.diff(edges)))[place_R]
                low, high = above, end_above
            yield first, torch.stack(levels[::-1], dim=1)

    def codes_of_items(self) -> Tensor:
        """The codes of every item, `[I, L]`, int64, by dense id."""
        codes_IL = torch.empty(len(self.leaf_items), self.levels, dtype=torch.int64)
        for first, code_RL in self.leaf_codes():
            codes_IL[self.leaf_items[first : first + len(code_RL)].long().cpu()] = code_RL
        return codes_IL

    def to(self, device: torch.device | str) -> PrefixTrie:
        """The same trie with the arrays that decoding reads on `device`."""
        return PrefixTrie._of(
            [tensor.to(device) for tensor in self.child_offsets],
            [tensor.to(device) for tensor in self._padded()],
            self.leaf_items.to(device),
            self.max_children,
            self.leaf_of_item,
            self.first_leaves,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The arrays by name, for safetensors, as they are mapped later: codes with the padding that the last run needs."""
        named = {f"child_offsets.{level}": tensor for level, tensor in enumerate(self.child_offsets)}
        named |= {f"child_codes.{level}": tensor for level, tensor in enumerate(self._padded())}
        named |= {f"first_leaves.{level}": tensor for level, tensor in enumerate(self.first_leaves)}
        return named | {
            "leaf_items": self.leaf_items,
            "leaf_of_item": self.leaf_of_item,
            "max_children": torch.tensor(self.max_children),
        }

    def _padded(self) -> list[Tensor]:
        """`child_codes` with their padding, no copy of them."""
        return [
            code_N.as_strided((len(code_N) + most - 1,), (1,))
            for code_N, most in zip(self.child_codes, self.max_children, strict=True)
        ]

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], codes_IL: Tensor) -> PrefixTrie:
        """The inverse of `tensors`, which may be mapped: they are looked through a chunk at a time, and not copied.

        Args:
            tensors: of a file.
            codes_IL: the Semantic IDs that it must hold.

        Raises:
            ValueError: they are no trie, or that of other Semantic IDs.
        """
        levels = sum(name.startswith("child_codes.") for name in tensors)
        if levels != codes_IL.shape[1]:
            raise ValueError(f"the trie has {levels} levels, the Semantic IDs {codes_IL.shape[1]}")
        trie = cls._of(
            [tensors[f"child_offsets.{level}"] for level in range(levels)],
            [tensors[f"child_codes.{level}"] for level in range(levels)],
            tensors["leaf_items"],
            tensors["max_children"].tolist(),
            tensors["leaf_of_item"],
            [tensors[f"first_leaves.{level}"] for level in range(levels - 1)],
        )
        _require_trie(trie)
        _require_items(trie, codes_IL)
        return trie


def _require_trie(trie: PrefixTrie) -> None:
    """Every node of a depth has children, which lie side by side, and every leaf is one item."""
    arrays = (*trie.child_offsets, *trie.child_codes, trie.leaf_items, trie.leaf_of_item, *trie.first_leaves)
    if not trie.child_codes or any(t.ndim != 1 or t.dtype not in _INTEGERS or not len(t) for t in arrays):
        raise ValueError("the arrays of the trie are no lists of integers")
    nodes = 1
    for depth, (offset_N, code_N) in enumerate(zip(trie.child_offsets, trie.child_codes, strict=True)):
        fits = len(offset_N) == nodes + 1 and int(offset_N[0]) == 0 and int(offset_N[-1]) == len(code_N)
        most = 0
        for first, end in pairwise([*range(0, nodes, CHUNK), nodes] if fits else []):
            count_N = offset_N[first : end + 1].diff()
            fits = fits and int(count_N.min()) >= 1 and int(code_N[first:end].min()) >= 0
            most = max(most, int(count_N.max()))
        if not fits or most != trie.max_children[depth]:
            raise ValueError(f"the trie does not hang together at depth {depth}")
        nodes = len(code_N)
    if not len(trie.leaf_items) == len(trie.leaf_of_item) == nodes:
        raise ValueError("the leaves of the trie are not one for each item")
    first = trie.child_offsets[-1]
    for offset_N, first_N in zip(reversed(trie.child_offsets[:-1]), reversed(trie.first_leaves), strict=True):
        if len(first_N) != len(offset_N) or not _same(first_N, first, offset_N):
            raise ValueError("the first leaves of the trie's nodes are others")
        first = first_N


def _same(found_N: Tensor, of_N: Tensor, place_N: Tensor) -> bool:
    """Whether `found_N` is `of_N[place_N]`."""
    return all(
        torch.equal(found_N[first : first + CHUNK], of_N[place_N[first : first + CHUNK].long()])
        for first in range(0, len(found_N), CHUNK)
    )


def _require_items(trie: PrefixTrie, codes_IL: Tensor) -> None:
    """The leaves are the items of these codes: each leaf's item has the codes that lead to it, and that leaf."""
    n_items = len(trie.leaf_items)
    fits = len(codes_IL) == n_items
    # Look-ups at random: `index_select` and `embedding` take a quarter of what indexing by a tensor takes.
    for first, code_RL in trie.leaf_codes() if fits else ():
        item_R = trie.leaf_items[first : first + len(code_RL)].long()
        fits = int(item_R.min()) >= 0 and int(item_R.max()) < n_items
        # No two leaves have an item in common where each is the leaf of its own.
        leaf_R = torch.arange(first, first + len(code_RL))
        if not fits or not torch.equal(trie.leaf_of_item.index_select(0, item_R).long(), leaf_R):
            raise ValueError("the leaves of the trie are not one for each item")
        fits = torch.equal(F.embedding(item_R, codes_IL).long(), code_RL)
        if not fits:
            break
    if not fits:
        raise ValueError("the trie does not hold the Semantic IDs beside it")


def sorted_order(codes_IL: Tensor, codes_per_level: Sequence[int]) -> Tensor:
    """The order that sorts Semantic IDs lexicographically, int64 `[I]`; equal ones keep their order.

    Where they fit, the codes are sorted as one number, which takes one pass and 24 bytes an item.
    """
    bits = [int(codes - 1).bit_length() for codes in codes_per_level]
    if sum(bits) > KEY_BITS:
        return lexsort_rows(codes_IL)
    key_I = torch.zeros(len(codes_IL), dtype=torch.int64, device=codes_IL.device)
    for column_I, width in zip(codes_IL.unbind(1), bits, strict=True):
        key_I.bitwise_left_shift_(width).bitwise_or_(column_I)
    return key_I.argsort(stable=True)


def lexsort_rows(codes_IL: Tensor) -> Tensor:
    """The order that sorts rows lexicographically; equal rows keep their order."""
    order_I = torch.arange(len(codes_IL), device=codes_IL.device)
    for column_I in codes_IL.flip(1).unbind(1):
        order_I = order_I[torch.argsort(column_I[order_I], stable=True)]
    return order_I


def narrowest(largest: int) -> torch.dtype:
    """The smallest type that holds 0 … `largest`."""
    return next(dtype for dtype in _INTEGERS if largest <= torch.iinfo(dtype).max)


def _require_in_range(codes_IL: Tensor, codes_per_level: Sequence[int]) -> None:
    size_L = torch.tensor(codes_per_level, device=codes_IL.device)
    wrong_IL = (codes_IL < 0) | (codes_IL >= size_L)
    if wrong_IL.any():
        item, level = wrong_IL.nonzero()[0].tolist()
        raise DataError(
            f"item {item}: code {int(codes_IL[item, level])} at level {level} is outside "
            f"0 … {codes_per_level[level] - 1}; build the semantic ids again"
        )
