"""The benchmark of one rank's host work: every rank's share of a step counted once, beside one rank alone."""

import json
from pathlib import Path

import pytest

from benchmarks.speed.host_work import PARTS, SECTION, bench_host_work, measure, write_histories


def test_figures_beside_one_rank_and_the_page(tmp_path: Path) -> None:
    out, page = tmp_path / "ranks.json", tmp_path / "page.md"
    page.write_text(f"<!-- {SECTION} -->\n<!-- end of {SECTION} -->\n")
    found = bench_host_work(ranks=4, rank=3, windows=[8, 16], users=[16, 8], groups=2, steps=2, out=out, page=page)
    assert json.loads(out.read_text())["found"] == found
    assert [(each["window"], each["ranks"]) for each in found] == [(8, 1), (8, 4), (16, 1), (16, 4)]
    for each in found:
        assert set(each["ms"]) == set(PARTS) and each["total_ms"] == sum(each["ms"].values()) > 0
        assert min(each["slowest_to_mean"].values()) >= 1
        assert (each["exchanged_bytes"] > 0) == (each["ranks"] > 1)
    assert "| read of the dataset, × 1/R | 1.00 |" in page.read_text()


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_reads_its_part_of_the_dataset(tmp_path: Path, rank: int) -> None:
    store = write_histories(tmp_path, 2_000, 10, groups=12)
    found = measure(store, 10, rank, 3, users=50, steps=2)
    assert found["read_bytes"] * 3 == pytest.approx(found["dataset_bytes"], rel=0.1)


@pytest.mark.parametrize("window", [30, 1_024])
def test_ranks_have_equal_tokens_of_each_step(tmp_path: Path, window: int) -> None:
    """Dealt at random, the fullest of eight has 1.08 of the mean at N = 30 and 1.1 at N = 1,024."""
    found = measure(write_histories(tmp_path, 8 * 64 * 4, window, groups=16), window, 0, 8, users=64, steps=4)
    assert found["slowest_to_mean"]["tokens"] < 1.05 and found["slowest_to_mean"]["pairs"] < 1.07
    assert found["read_bytes"] * 8 == pytest.approx(found["dataset_bytes"], rel=0.1)
