"""`intrr export` under the real launcher: the bundle of one process, from shards that are never gathered whole."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from intrr_rec.io import artefact
from intrr_rec.serving.bundle.bundle import KIND, Bundle
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.serving.bundle.trained import GUIDANCE, ITEM_EMBEDDINGS, VALUES
from intrr_rec.training.trainer import train
from tests import tiny
from tests.distributed.launch import ROOT, environment, free_port

ROWS = 1_000_000


def on_two_ranks(*words: str) -> None:
    """Start a module of Python's on two ranks."""
    launcher = ["-W", "ignore", "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    place = ["--master-port", str(free_port()), "-m"]
    subprocess.run([sys.executable, *launcher, *place, *words], cwd=ROOT, env=environment(), check=True, timeout=280)


@pytest.mark.slow
def test_two_ranks_export_the_bundle_of_one_process(tmp_path):
    line = tiny.make_line(tmp_path)
    recipe = tiny.recipe("train.sharding.uid=row_wise", "model.content=true", "train.epochs=1")
    train(recipe, **line.inputs(), out=tmp_path / "run")
    write_bundle(tmp_path / "run", tmp_path / "one")
    on_two_ranks("intrr_rec", "export", str(tmp_path / "run"), "--out", str(tmp_path / "two"))
    one, two = (artefact.read(tmp_path / name, KIND) for name in ("one", "two"))
    tables = {ITEM_EMBEDDINGS, GUIDANCE}
    assert {k: v for k, v in two.files.items() if k not in tables} == {
        k: v for k, v in one.files.items() if k not in tables
    }
    assert (two.counts, two.parents) == (one.counts, one.parents)
    for name in tables:
        ours, theirs = (load_file(tmp_path / which / name)[VALUES] for which in ("two", "one"))
        torch.testing.assert_close(ours, theirs)
    Bundle.load(tmp_path / "two")


@pytest.mark.slow
def test_a_sharded_table_is_loaded_and_written_without_a_second_copy(tmp_path):
    on_two_ranks("tests.distributed.export_worker", str(tmp_path), str(ROWS))
    for rank in range(2):
        memory = json.loads((tmp_path / f"memory-{rank}.json").read_text())
        print(memory)
        assert memory["shard"] >= 128e6
        assert memory["loading"] < memory["shard"] / 8
        assert memory["in all"] < 0.8 * memory["shard"]  # chunks of rows, and what the RAN makes of one
    values = load_file(tmp_path / ITEM_EMBEDDINGS)[VALUES]
    assert len(values) == ROWS and bool((values.abs().amax(1) > 0).all())
