"""No verb holds a copy of what an item has, beside its sharded table: measured from 5·10⁵ to 2·10⁶ items.

Below some 10⁶ items the buffers of DuckDB and of the allocator still grow, so peaks vary by some 7 bytes an item from run to run; at most 4.2
were seen. A copy of the content takes 64 bytes an item here, a dictionary of ids more than 100.
"""

import pytest

from benchmarks.speed.bytes_per_item import VERBS, measure

MOST = 24.0  # bytes per item and rank


@pytest.mark.slow
def test_private_memory_does_not_grow_with_the_catalogue(tmp_path):
    found = measure(500_000, 2_000_000, tmp_path)
    assert set(found["verbs"]) == set(VERBS)
    for verb, each in found["verbs"].items():
        assert each["beyond"] <= MOST, (
            f"{verb} holds {each['bytes_an_item']:.1f} bytes an item, {each['table']} of its table"
        )
