"""The indexing benchmark in miniature: its figures are all there and hang together."""

import importlib.util
import json

import pytest

from benchmarks.speed import indexing, machine
from benchmarks.speed.indexing import bench_indexing


@pytest.fixture(autouse=True)
def miniature(monkeypatch):
    for name, value in {
        "ITERATIONS": 3,
        "BATCH_PER_CODE": 40,
        "IN_MEMORY": 700,
        "ROW_GROUP": 300,
        "SHARD": 800,
    }.items():
        monkeypatch.setattr(indexing, name, value)
    monkeypatch.setattr(machine, "SIZE", 64)


def test_writes_times_errors_memory_and_share_of_peak(tmp_path):
    bench_indexing(rows=1_000, dimension=16, levels=2, codes=8, seed=0, out=tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["streamed"]["rows"] == 1_000 and figures["same_vectors"]["rows"] == 700
    assert 0 < figures["streamed"]["peak_memory_gb"] < 16
    assert all(share > 0 for share in figures["assign_share_of_gemm_peak"].values())
    engines = figures["same_vectors"]["engines"]
    assert len(engines) == (6 if importlib.util.find_spec("faiss") else 2)
    for row in engines.values():
        assert 0 < row["relative_error"] < 0.9
        assert row["fit"]["wall"] > 0


def test_without_faiss_says_how_to_get_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    figures = bench_indexing(rows=1_000, dimension=8, levels=1, codes=8, seed=0, out=tmp_path / "figures.json")
    assert len(figures["same_vectors"]["engines"]) == 2
    assert "pip install faiss-cpu" in caplog.text
