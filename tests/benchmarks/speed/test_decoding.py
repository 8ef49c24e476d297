"""The decode benchmark reads full histories and reports every beam width; memory marks are this process's own."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.speed.decoding import bench_decoding, full_batch, parse_beams
from benchmarks.speed.machine import memory_gb, peak_memory_gb
from intrr_rec.errors import ConfigError, DataError
from intrr_rec.runs.inputs import open_inputs
from tests import tiny


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"))


@pytest.mark.parametrize("kind", ["intrr", "flattened", "sasrec"])
def test_every_kind_of_model_is_timed(line, tmp_path, kind):
    recipe = tiny.recipe(f"model.kind={kind}", "evaluate.batch_users=7")
    out = tmp_path / "decoding.json"
    figures = bench_decoding(recipe, **line.inputs(), beams=(2, 5), repeats=2, out=out)
    assert json.loads(out.read_text()) == figures
    assert set(figures["milliseconds"]) == {"2", "5"} and min(figures["milliseconds"].values()) > 0
    assert (figures["users"], figures["history"]) == (7, 8)


def test_two_recipes_are_timed_in_turns(line, tmp_path):
    words = (
        "evaluate.batch_users=7",
        "model.dense.weight=1",
        "model.dense.negatives=8",
        "evaluate.pool=beam_and_dense",
    )
    best = tiny.recipe(*words, "evaluate.rank_by=sid_dense_and_neighbours", "evaluate.exclude_seen=true")
    dense = tiny.recipe(*words, "evaluate.rank_by=sid_and_dense")
    out = tmp_path / "decoding.json"
    figures = bench_decoding(best, **line.inputs(), beams=(5,), repeats=3, out=out, against=dense)
    assert json.loads(out.read_text()) == figures
    assert figures["against"]["evaluate"]["rank_by"] == "sid_and_dense"
    assert min(figures["against_milliseconds"]["5"], figures["ratio"]["5"]) > 0


def test_every_history_is_full(line):
    batch = full_batch(open_inputs(tiny.recipe("evaluate.batch_users=7"), **line.inputs()))
    assert len(batch.scored_S) == 7
    assert np.bincount(batch.layout.owner_CN.numpy().ravel()).tolist() == [8] * 7


def test_a_batch_larger_than_the_log_is_refused(line):
    with pytest.raises(DataError, match="fewer than 500 × 8 events"):
        full_batch(open_inputs(tiny.recipe("evaluate.batch_users=500"), **line.inputs()))


def test_beams_are_parsed():
    assert parse_beams("10, 5,10") == (10, 5)
    for wrong in ("", "0", "ten", "1,,2", "-3"):
        with pytest.raises(ConfigError, match="--beams"):
            parse_beams(wrong)


def test_a_child_does_not_count_what_its_parent_held():
    held = torch.ones(2**26)  # 0.25 GB
    cpu = torch.device("cpu")
    assert memory_gb(cpu) > 0.25 and peak_memory_gb(cpu) >= memory_gb(cpu) - 0.01
    program = (
        "import sys; sys.modules['torch'] = type(sys)('torch'); sys.modules['torch'].device = object; "
        "sys.modules['torch'].float32 = None\n"
        "from types import SimpleNamespace\nfrom benchmarks.speed.machine import peak_memory_gb\n"
        "print(peak_memory_gb(SimpleNamespace(type='cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.2 and held[0] == 1
