"""The recall of a beam: one as wide as the catalogue finds all there is."""

import json

import pytest

from benchmarks.speed.recall import bench_recall
from intrr_rec.errors import ArtefactError
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.training.trainer import train
from tests.tiny import N_ITEMS, make_line, recipe


def test_a_beam_as_wide_as_the_catalogue_misses_nothing(tmp_path):
    (tmp_path / "other").mkdir()
    line, other = make_line(tmp_path), make_line(tmp_path / "other", seed=1)
    train(recipe("train.epochs=1"), out=tmp_path / "run", **line.inputs())
    write_bundle(tmp_path / "run", tmp_path / "bundle")
    out = tmp_path / "recall.json"
    figures = bench_recall(tmp_path / "bundle", line.dataset, beams=(10, N_ITEMS), users=9, seed=0, out=out)
    assert json.loads(out.read_text()) == figures
    assert figures["recall"]["10"][str(N_ITEMS)] == figures["recall"]["20"][str(N_ITEMS)] == 1
    assert 0 < figures["recall"]["10"]["10"] <= 1 and figures["recall"]["20"]["10"] is None
    with pytest.raises(ArtefactError, match="not the dataset"):
        bench_recall(tmp_path / "bundle", other.dataset, beams=(10,), users=2, seed=0, out=out)
