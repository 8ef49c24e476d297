"""Finding own ids by bisection equals a dictionary, for texts in order, texts in any order and numbers."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from intrr_rec.serving.bundle.item_index import ItemIndex

LARGEST = (1 << 63) - 1


@pytest.mark.parametrize("ids", [["b"], ["", "a", "a\0", "aa", "b", "é", "日本", "😀"], [str(n) for n in range(3000)]])
@pytest.mark.parametrize("shuffled", [False, True])
def test_texts(ids, shuffled):
    ids = sorted(ids)
    if shuffled:
        ids = [ids[place] for place in np.random.default_rng(0).permutation(len(ids))]
    own = pa.array(ids, pa.large_string())
    order_I = pc.sort_indices(own).to_numpy().astype(np.int64) if shuffled else None
    wanted = [*ids, "", "zz", "a", "A", "0x", "2999", "3000"]
    known = {own: place for place, own in enumerate(ids)}
    expected = [known.get(own, -1) for own in wanted]
    index = ItemIndex(own, order_I)
    assert index.places(pa.array(wanted)).tolist() == expected
    assert index.places(pa.array(wanted * 1000)).tolist() == expected * 1000


def test_numbers():
    numbers = [-(1 << 63), -7, 0, 3, 12, 10**17, LARGEST]
    ids = pa.array(map(str, numbers), pa.large_string())
    index = ItemIndex(ids, None, np.array(numbers))
    absent = ["", "1", "03", "+3", "-0", "3.0", " 3", "x", str(LARGEST + 1), str(-LARGEST - 2), "9" * 19, "9" * 30]
    assert index.places(pa.array([*map(str, numbers), *absent])).tolist() == [*range(len(numbers)), *[-1] * len(absent)]
    assert index.places(pa.array(["3", "5"])).tolist() == [3, -1]
