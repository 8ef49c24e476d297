"""The prefix trie of Semantic IDs as flat arrays: what may follow a prefix, found by two gathers.

Nodes at depth l are the distinct length-l prefixes in lexicographic order, so the children of one node lie side by side
at depth l+1 and a pair of offsets names them all (compressed sparse rows). A decode step therefore costs the same
whatever the size of the catalogue.

Shape legend: I items, L levels, N nodes of a depth, R nodes looked up, C most children of any node at a depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from intrr_rec.errors import DataError

_INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)


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

    Integers are stored as narrow as they fit (at most 16 bytes an item at four levels of 256 codes or fewer).
    """

    child_offsets: tuple[Tensor, ...]
    child_codes: tuple[Tensor, ...]
    leaf_items: Tensor
    max_children: tuple[int, ...]
    runs: tuple[Tensor, ...]

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
        order_I = lexsort_rows(codes_IL)
        sorted_IL = codes_IL[order_I]
        device = codes_IL.device
        offsets, codes, max_children = [], [], []
        starts_N = torch.zeros(
            1, dtype=torch.int64, device=device
        )  # sorted row at which each node of this depth begins
        is_new_I = torch.zeros(n_items, dtype=torch.bool, device=device)
        is_new_I[0] = True
        for level, n_codes in enumerate(codes_per_level):
            column_I = sorted_IL[:, level]
            is_new_I[1:] |= column_I[1:] != column_I[:-1]
            child_of_row_I = is_new_I.cumsum(0) - 1
            child_starts_N = is_new_I.nonzero().squeeze(1)
            end = torch.tensor([len(child_starts_N)], device=device)
            offset_N = torch.cat([child_of_row_I[starts_N], end])
            max_children.append(int(offset_N.diff().max()))
            offsets.append(offset_N.to(_narrowest(len(child_starts_N))))
            codes.append(column_I[child_starts_N].to(_narrowest(n_codes - 1)))
            starts_N = child_starts_N
        if len(starts_N) != n_items:
            row = int((~is_new_I).nonzero()[0, 0])
            first, second = sorted(order_I[row - 1 : row + 1].tolist())
            raise DataError(
                f"items {first} and {second} share the Semantic ID {tuple(sorted_IL[row].tolist())}; "
                "a trie needs unique Semantic IDs, so add a de-duplication level"
            )
        return cls._of(offsets, codes, order_I.to(_narrowest(n_items)), max_children)

    @classmethod
    def _of(
        cls, offsets: Sequence[Tensor], codes: Sequence[Tensor], leaf_items: Tensor, max_children: Sequence[int]
    ) -> PrefixTrie:
        # A last run ends where another begins, or in padding.
        padded = [F.pad(code_N, (0, most - 1)) for code_N, most in zip(codes, max_children, strict=True)]
        runs = [code_N.unfold(0, most, 1) for code_N, most in zip(padded, max_children, strict=True)]
        own = [code_N[: len(run_NC)] for code_N, run_NC in zip(padded, runs, strict=True)]
        return cls(tuple(offsets), tuple(own), leaf_items, tuple(max_children), tuple(runs))

    @property
    def levels(self) -> int:
        """L, the length of every Semantic ID."""
        return len(self.child_codes)

    @property
    def memory_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

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

    def codes_of_items(self) -> Tensor:
        """The codes of every item, `[I, L]`, int64, by dense id."""
        node_I, levels = torch.arange(len(self.leaf_items), device=self.leaf_items.device), []
        for offset_N, code_N in zip(reversed(self.child_offsets), reversed(self.child_codes), strict=True):
            levels.append(code_N[node_I].long())
            node_I = torch.arange(len(offset_N) - 1, device=node_I.device).repeat_interleave(offset_N.long().diff())[
                node_I
            ]
        codes_IL = torch.stack(levels[::-1], dim=1)
        return codes_IL[self.leaf_items.long().argsort()]

    def to(self, device: torch.device | str) -> PrefixTrie:
        """The same trie with its arrays on `device`."""
        return PrefixTrie._of(
            [tensor.to(device) for tensor in self.child_offsets],
            [tensor.to(device) for tensor in self.child_codes],
            self.leaf_items.to(device),
            self.max_children,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The arrays by name, for safetensors."""
        named = {f"child_offsets.{level}": tensor for level, tensor in enumerate(self.child_offsets)}
        named |= {f"child_codes.{level}": tensor for level, tensor in enumerate(self.child_codes)}
        return named | {"leaf_items": self.leaf_items}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> PrefixTrie:
        """The inverse of `tensors`.

        Raises:
            ValueError: they are no trie.
        """
        levels = sum(name.startswith("child_codes.") for name in tensors)
        offsets = [tensors[f"child_offsets.{level}"] for level in range(levels)]
        codes = [tensors[f"child_codes.{level}"] for level in range(levels)]
        _require_trie(offsets, codes, tensors["leaf_items"])
        max_children = [int(offset_N.long().diff().max()) for offset_N in offsets]
        return cls._of(offsets, codes, tensors["leaf_items"], max_children)


def _require_trie(offsets: Sequence[Tensor], codes: Sequence[Tensor], leaf_items: Tensor) -> None:
    """Every node of a depth has children, which lie side by side, and every leaf is one item."""
    if not codes or any(t.ndim != 1 or t.dtype not in _INTEGERS or not len(t) for t in (*offsets, *codes, leaf_items)):
        raise ValueError("the arrays of the trie are no lists of integers")
    nodes = 1
    for depth, (offset_N, code_N) in enumerate(zip(offsets, codes, strict=True)):
        offset_N = offset_N.long()
        fits = len(offset_N) == nodes + 1 and offset_N[0] == 0 and offset_N[-1] == len(code_N)
        if not fits or bool((offset_N.diff() < 1).any()) or bool((code_N < 0).any()):
            raise ValueError(f"the trie does not hang together at depth {depth}")
        nodes = len(code_N)
    if len(leaf_items) != nodes or not torch.equal(
        leaf_items.long().sort().values, torch.arange(nodes, device=leaf_items.device)
    ):
        raise ValueError("the leaves of the trie are not one for each item")


def lexsort_rows(codes_IL: Tensor) -> Tensor:
    """The order that sorts rows lexicographically; equal rows keep their order."""
    order_I = torch.arange(len(codes_IL), device=codes_IL.device)
    for column_I in codes_IL.flip(1).unbind(1):
        order_I = order_I[torch.argsort(column_I[order_I], stable=True)]
    return order_I


def _narrowest(largest: int) -> torch.dtype:
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
