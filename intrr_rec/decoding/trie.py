"""The prefix trie of Semantic IDs as flat arrays: what may follow a prefix, found by two gathers.

Nodes at depth l are the distinct length-l prefixes in lexicographic order, so the children of one node lie side by side
at depth l+1 and a pair of offsets names them all (compressed sparse rows). A decode step therefore costs the same
whatever the size of the catalogue.

Shape legend: I items, L levels, B users, W beams, C most children of any node at a depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from intrr_rec.errors import DataError

_INTEGERS = (torch.uint8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class PrefixTrie:
    """A static trie over unique code paths of equal length L.

    Attributes:
        child_offsets: L tensors; `child_offsets[l]` has `nodes(l) + 1` entries, and the children of node n at depth l are
            the nodes `child_offsets[l][n] … child_offsets[l][n + 1] - 1` at depth l+1.
        child_codes: L tensors; `child_codes[l]` has `nodes(l + 1)` entries: the last code of each prefix of length l+1.
        leaf_items: dense item id of each node at depth L.
        max_children: for each depth l < L, the most children a node has.

    Integers are stored as narrow as they fit (at most 16 bytes an item at four levels of 256 codes or fewer); what
    `children` returns is int64.
    """

    child_offsets: tuple[Tensor, ...]
    child_codes: tuple[Tensor, ...]
    leaf_items: Tensor
    max_children: tuple[int, ...]

    @classmethod
    def build(cls, codes_IL: Tensor, codes_per_level: Sequence[int]) -> PrefixTrie:
        """Build the trie of items 0 … I-1 from their paths, on the device of `codes_IL`.

        Raises:
            DataError: no items, a code outside `[0, codes_per_level[l])`, or two items sharing a path.
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
                f"items {first} and {second} share the path {tuple(sorted_IL[row].tolist())}; "
                "a trie needs unique paths, so add a de-duplication level"
            )
        return cls(tuple(offsets), tuple(codes), order_I.to(_narrowest(n_items)), tuple(max_children))

    @property
    def levels(self) -> int:
        """L, the length of every path."""
        return len(self.child_codes)

    @property
    def memory_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def nodes(self, depth: int) -> int:
        """Number of distinct prefixes of length `depth`, 0 … L; `nodes(0)` is 1, `nodes(L)` is I."""
        return len(self.child_codes[depth - 1]) if depth else 1

    def children(self, depth: int, node_BW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What may follow each prefix. Any leading shape will do in place of `[B, W]`.

        Args:
            depth: depth of the given nodes, 0 … L-1; the root is node 0 at depth 0.
            node_BW: int64 nodes.

        Returns:
            `codes_BWC` and `child_node_BWC` (int64) and `valid_BWC` (bool), with C = `max_children[depth]`. Valid
            children come first, in rising code; where invalid, code and node are some existing ones, safe to gather with.
        """
        offset_N, code_N = self.child_offsets[depth], self.child_codes[depth]
        step_C = torch.arange(self.max_children[depth], device=node_BW.device)
        child_node_BWC = offset_N[node_BW].long().unsqueeze(-1) + step_C
        valid_BWC = child_node_BWC < offset_N[node_BW + 1].unsqueeze(-1)
        child_node_BWC = child_node_BWC.clamp_(max=len(code_N) - 1)
        return code_N[child_node_BWC].long(), child_node_BWC, valid_BWC

    def forks(self, depth: int, node_BW: Tensor) -> Tensor:
        """Whether more than one code may follow each prefix, a node at this depth."""
        offset_N = self.child_offsets[depth]
        return offset_N[node_BW + 1] - offset_N[node_BW] > 1

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

    def path_of(self, leaf: int) -> tuple[int, ...]:
        """The L codes that lead to a leaf."""
        path: list[int] = []
        node = leaf
        for offset_N, code_N in zip(reversed(self.child_offsets), reversed(self.child_codes), strict=True):
            path.append(int(code_N[node]))
            node = int(torch.searchsorted(offset_N.long(), node, right=True)) - 1
        return tuple(reversed(path))

    def to(self, device: torch.device | str) -> PrefixTrie:
        """The same trie with its arrays on `device`."""
        return PrefixTrie(
            tuple(tensor.to(device) for tensor in self.child_offsets),
            tuple(tensor.to(device) for tensor in self.child_codes),
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
        """The inverse of `tensors`."""
        levels = sum(name.startswith("child_codes.") for name in tensors)
        offsets = tuple(tensors[f"child_offsets.{level}"] for level in range(levels))
        codes = tuple(tensors[f"child_codes.{level}"] for level in range(levels))
        max_children = tuple(int(offset_N.long().diff().max()) for offset_N in offsets)
        return cls(offsets, codes, tensors["leaf_items"], max_children)


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
