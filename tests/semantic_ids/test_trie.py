"""PrefixTrie against sets of prefixes written out by hand and by brute force."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from intrr_rec.errors import DataError
from intrr_rec.semantic_ids.trie import PrefixTrie, lexsort_rows

PATHS = torch.tensor([[2, 0, 1], [0, 3, 0], [0, 1, 2], [2, 0, 0], [0, 3, 1]])
SIZES = (3, 4, 3)


def unique_paths():
    path = st.tuples(st.integers(0, 4), st.integers(0, 300), st.integers(0, 2))
    return st.lists(path, min_size=1, max_size=40, unique=True)


def test_arrays_of_a_small_trie_written_out_by_hand():
    trie = PrefixTrie.build(PATHS, SIZES)
    assert [tensor.tolist() for tensor in trie.child_codes] == [[0, 2], [1, 3, 0], [2, 0, 1, 0, 1]]
    assert [tensor.tolist() for tensor in trie.child_offsets] == [[0, 2], [0, 2, 3], [0, 1, 3, 5]]
    assert trie.leaf_items.tolist() == [2, 1, 4, 3, 0]
    assert trie.max_children == (2, 2, 2)
    assert [trie.nodes(depth) for depth in range(4)] == [1, 2, 3, 5]


def test_children_of_several_nodes():
    trie = PrefixTrie.build(PATHS, SIZES)
    first_R, count_R = trie.children(1, torch.tensor([0, 1, 1]))
    assert (first_R.tolist(), count_R.tolist()) == ([0, 2, 2], [2, 1, 1])
    code_RC, closed_RC = trie.codes(1, first_R, count_R)
    assert code_RC[0].tolist() == [1, 3] and code_RC[1:, 0].tolist() == [0, 0]
    assert closed_RC.tolist() == [[0, 0], [0, -torch.inf], [0, -torch.inf]]
    assert first_R.dtype == count_R.dtype == code_RC.dtype == torch.int64
    assert code_RC.max() < SIZES[1]


@settings(max_examples=60, deadline=None)
@given(unique_paths())
def test_walking_children_from_the_root_reaches_every_item_and_nothing_else(paths):
    codes_IL = torch.tensor(paths)
    trie = PrefixTrie.build(codes_IL, (5, 301, 3))
    reached = {}
    frontier = {(): 0}
    for depth in range(trie.levels):
        assert sorted(frontier) == sorted({path[:depth] for path in paths})
        assert trie.nodes(depth) == len(frontier)
        following = {}
        for prefix, node in frontier.items():
            first, count = trie.children(depth, torch.tensor([node]))
            codes, closed = trie.codes(depth, first, count)
            assert count >= 1 and codes.shape[1] == trie.max_children[depth]
            assert closed[0].tolist() == [0.0 if place < count else -torch.inf for place in range(codes.shape[1])]
            for place, code in enumerate(codes[0, :count].tolist()):
                following[(*prefix, code)] = int(first) + place
        frontier = following
    for path, leaf in frontier.items():
        reached[path] = int(trie.leaf_items[leaf])
        assert trie.codes_of(leaf) == path
        assert trie.node_of_prefix(path) == leaf
    assert reached == {tuple(path): item for item, path in enumerate(paths)}


@settings(max_examples=40, deadline=None)
@given(unique_paths())
def test_nodes_are_numbered_in_lexicographic_order(paths):
    trie = PrefixTrie.build(torch.tensor(paths), (5, 301, 3))
    for depth in range(trie.levels + 1):
        prefixes = sorted({path[:depth] for path in paths})
        assert [trie.node_of_prefix(prefix) for prefix in prefixes] == list(range(len(prefixes)))


def test_absent_prefix_has_no_node():
    trie = PrefixTrie.build(PATHS, SIZES)
    assert trie.node_of_prefix([1]) is None
    assert trie.node_of_prefix([0, 0]) is None
    assert trie.node_of_prefix([]) == 0


def test_survives_safetensors():
    trie = PrefixTrie.build(PATHS, SIZES)
    back = PrefixTrie.from_tensors(load(save(trie.tensors())), PATHS)
    assert back.max_children == trie.max_children
    assert back.tensors().keys() == trie.tensors().keys()
    for name, tensor in trie.tensors().items():
        assert torch.equal(back.tensors()[name], tensor) and back.tensors()[name].dtype == tensor.dtype


def test_shared_path_is_refused_and_both_items_named():
    with pytest.raises(DataError, match=r"items 1 and 3 share the Semantic ID \(0, 3\)"):
        PrefixTrie.build(torch.tensor([[1, 0], [0, 3], [0, 2], [0, 3]]), (2, 4))


@pytest.mark.parametrize("code", [-1, 4])
def test_code_out_of_range_is_refused(code):
    with pytest.raises(DataError, match=rf"item 1: code {code} at level 1 is outside 0 … 3"):
        PrefixTrie.build(torch.tensor([[1, 0], [0, code]]), (2, 4))


def test_no_items_is_refused():
    with pytest.raises(DataError, match="no items"):
        PrefixTrie.build(torch.zeros(0, 2, dtype=torch.int64), (2, 4))


def test_memory_stays_below_16_bytes_an_item():
    generator = torch.Generator().manual_seed(0)
    codes_IL = torch.randint(256, (50_000, 4), generator=generator).unique(dim=0)
    trie = PrefixTrie.build(codes_IL, (256,) * 4)
    assert trie.memory_bytes <= 16 * len(codes_IL)
    assert sum(tensor.nbytes for tensor in trie.tensors().values()) <= 21 * len(codes_IL)


def test_lexsort_is_stable():
    assert lexsort_rows(torch.tensor([[1, 0], [0, 1], [1, 0], [0, 0], [0, 1]])).tolist() == [3, 1, 4, 0, 2]
