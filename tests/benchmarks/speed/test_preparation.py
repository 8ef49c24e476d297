"""The preparation bench measures what it says, and leaves nothing but its figures."""

from pathlib import Path

import pytest

from benchmarks.speed.preparation import bench_append, bench_preparation
from intrr_rec.errors import DataError


def test_an_engine_is_measured_and_the_scratch_removed(tmp_path: Path) -> None:
    scratch, out = tmp_path / "scratch", tmp_path / "figures.json"
    wanted = {"rows": 2_000, "engines": ["duckdb"], "master": "local[1]", "memory_gb": 1.0, "seed": 0}
    found = bench_preparation(**wanted, scratch=scratch, out=out)  # type: ignore[arg-type]
    assert 1_500 < found["dataset"]["interactions"] < 2_500
    assert found["engines"]["duckdb"]["seconds"] > 0 < found["engines"]["duckdb"]["peak_memory_gb"]
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    scratch.mkdir()
    with pytest.raises(DataError, match="is there already"):
        bench_preparation(**wanted, scratch=scratch, out=out)  # type: ignore[arg-type]
    assert scratch.is_dir()


def test_a_day_added_is_measured_against_the_rebuild(tmp_path: Path) -> None:
    found = bench_append(rows=2_000, days=3, seed=0, scratch=tmp_path / "scratch", out=tmp_path / "figures.json")
    assert all(seconds > 0.1 for name in ("append", "rebuild") for seconds in found[name])
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
