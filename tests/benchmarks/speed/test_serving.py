"""The load a bench sends is what it says, and its figures are of a real server."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from benchmarks.speed import reload
from benchmarks.speed.serving import Load, bench_serving, parse_rates
from intrr_rec.errors import ConfigError
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.training.trainer import train
from tests.tiny import make_line, recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    train(recipe("train.epochs=1"), out=folder / "run", **make_line(folder).inputs())
    write_bundle(folder / "run", folder / "bundle")
    return folder / "bundle"


def test_every_request_is_sent_and_counted(bundle, tmp_path):
    out = tmp_path / "figures.json"
    load = Load(rates=(40, 2_000), seconds=1, k=5, beam=10, longest=6, seed=0)
    bench_serving(bundle, load, ("serve.max_queue=4", "serve.max_batch=2"), out)
    slow, fast = json.loads(out.read_text())["points"]
    for point, sent in ((slow, 40), (fast, 2_000)):
        assert (point["sent"], point["failed"]) == (sent, 0)
        assert point["answered"] + point["refused"] == sent
        assert 0 < point["p50"] <= point["p99"] <= point["max"]
        assert point["server_cpu_ms"] > 0
    assert fast["refused"] > 0 and fast["answered"] > 0


def test_reloads_are_counted_and_cost_no_request(bundle, monkeypatch, capsys):
    words = ["reload", "--bundle", str(bundle), "--pairs", "2", "--seconds", "2", "--every", "0.5", "--longest", "6"]
    monkeypatch.setattr(sys, "argv", words)
    reload.main()
    without, _, with_them, _, ratio = capsys.readouterr().out.splitlines()
    assert without.startswith("0 reloads: 200 requests, 0 failed")
    assert re.match(r"([5-9]|1\d) reloads: 200 requests, 0 failed", with_them), with_them
    assert float(ratio.rpartition(" ")[2]) > 0


def test_a_bench_is_bounded(bundle, tmp_path):
    with pytest.raises(ConfigError, match="more than"):
        bench_serving(bundle, Load((10_000,), 60, 5, 10, 6, 0), (), tmp_path / "figures.json")
    with pytest.raises(ConfigError, match="--rates"):
        parse_rates("10,fast")


def test_a_server_that_does_not_start_is_one_line(bundle, tmp_path):
    with pytest.raises(ConfigError, match="max_bath"):
        bench_serving(bundle, Load((5,), 1, 5, 10, 6, 0), ("serve.max_bath=2",), tmp_path / "figures.json")
