"""No verb holds more than two bytes an item of its own, beside its sharded table: measured from 10⁵ to 10⁶ items."""

import pytest

from benchmarks.speed.bytes_per_item import VERBS, measure

MOST = 2.0  # bytes an item and rank


@pytest.mark.slow
def test_private_memory_does_not_grow_with_the_catalogue(tmp_path):
    found = measure(100_000, 1_000_000, tmp_path)
    assert set(found["verbs"]) == set(VERBS)
    for verb, each in found["verbs"].items():
        assert each["beyond"] <= MOST, (
            f"{verb} holds {each['bytes_an_item']:.1f} bytes an item, {each['table']} of its table"
        )
