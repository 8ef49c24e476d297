"""Stage 1 end to end on a small catalogue, from a prepared dataset to the artefact."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from intrr_rec.config import IndexConfig, PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ConfigError
from intrr_rec.io import artefact
from intrr_rec.semantic_ids import build as build_module
from intrr_rec.semantic_ids.artefact import SemanticIds
from intrr_rec.semantic_ids.build import build_semantic_ids
from intrr_rec.semantic_ids.quantizers.kmeans import assign
from intrr_rec.semantic_ids.quantizers.quantizer import TensorSource
from intrr_rec.semantic_ids.source import draw_samples
from intrr_rec.vectors.table import vectors_hash

N_ITEMS = 120
CONFIG = IndexConfig(levels=2, codes=8, dedup_codes=16, normalize=False)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """A dataset of 120 items, whose vectors lie in the file in another order; items 1000 and 1001 share a vector."""
    folder = tmp_path_factory.mktemp("catalogue")
    user, step = np.divmod(np.arange(60 * 10), 10)
    events = {"user_id": user, "item_id": 1000 + (user * 10 + step) % N_ITEMS, "timestamp": step}
    pq.write_table(pa.table(events), folder / "logs.parquet")
    prepare_dataset([folder / "logs.parquet"], None, folder / "dataset", PrepareConfig(k_core=1))
    vectors = np.random.default_rng(0).normal(size=(N_ITEMS, 6)).astype(np.float32)
    vectors[1] = vectors[0]
    order = np.random.default_rng(1).permutation(N_ITEMS)
    pq.write_table(pa.table({"item_id": 1000 + order, "embedding": list(vectors[order])}), folder / "vectors.parquet")
    return folder, torch.from_numpy(vectors)


def build(folder, out, config=CONFIG):
    return build_semantic_ids(folder / "dataset", folder / "vectors.parquet", out, config)


def test_paths_are_the_nearest_centroids_of_each_items_own_vector(catalogue, tmp_path):
    folder, residual_ID = catalogue
    build(folder, tmp_path / "ids")
    ids = SemanticIds.open(tmp_path / "ids")
    assert ids.item_ids.to_pylist() == list(range(1000, 1000 + N_ITEMS))
    assert ids.codes_per_level == (8, 8, 16)
    for level, codebook_KD in enumerate(ids.codebooks):
        codes_I, _ = assign(residual_ID, codebook_KD)
        assert torch.equal(ids.codes_IL[:, level], codes_I)
        residual_ID = residual_ID - codebook_KD[codes_I]
    assert ids.codes_IL[0, :2].tolist() == ids.codes_IL[1, :2].tolist()
    assert ids.codes_IL[1, 2] == ids.codes_IL[0, 2] + 1 >= 2
    assert len(ids.codes_IL.unique(dim=0)) == N_ITEMS


def test_codebooks_of_a_sample_give_every_item_its_codes(catalogue, tmp_path, monkeypatch):
    folder, residual_ID = catalogue
    build(folder, tmp_path / "whole")
    monkeypatch.setattr(build_module, "MEASURED_ITEMS", 60)
    build(folder, tmp_path / "ids", CONFIG.model_copy(update={"sample_per_code": 8}))
    whole, ids = SemanticIds.open(tmp_path / "whole"), SemanticIds.open(tmp_path / "ids")
    assert not torch.equal(ids.codebooks[0], whole.codebooks[0])
    for level, codebook_KD in enumerate(ids.codebooks):
        codes_I, _ = assign(residual_ID, codebook_KD)
        assert torch.equal(ids.codes_IL[:, level], codes_I)
        residual_ID = residual_ID - codebook_KD[codes_I]
    assert ids.quality["items"] == sum(ids.quality["levels"][0]["counts"]) == N_ITEMS
    assert 40 < ids.quality["distances"]["items"] < 80
    fitted, measured = draw_samples(TensorSource(catalogue[1]), [64, 60], CONFIG.seed)
    error_of = [residual_ID[s.ids_R].square().sum() / s.x_RD.square().sum() for s in (fitted, measured)]
    assert ids.quality["relative_error"] == pytest.approx(float(error_of[1])) and error_of[0] < error_of[1]


def test_manifest_names_what_it_was_built_from(catalogue, tmp_path):
    folder, _ = catalogue
    manifest = build(folder, tmp_path / "ids")
    dataset = Dataset.open(folder / "dataset")
    artefact.require_parent(tmp_path / "ids", manifest, "dataset", dataset.path, dataset.manifest)
    assert manifest.parents["vectors"] == vectors_hash(folder / "vectors.parquet")
    assert manifest.config["codes"] == 8
    assert "dense item order" in manifest.config["order_rule"]


def test_same_seed_same_bytes_other_seed_other_codes(catalogue, tmp_path):
    folder, _ = catalogue
    first, second = build(folder, tmp_path / "a"), build(folder, tmp_path / "b")
    other = build(folder, tmp_path / "c", CONFIG.model_copy(update={"seed": 1}))
    assert first.files == second.files
    assert first.files["sids.parquet"] != other.files["sids.parquet"]


@pytest.mark.parametrize("change", [{"collisions": "sinkhorn"}, {"dedup_codes": 17}])
def test_settings_count_for_the_content_hash(catalogue, tmp_path, change):
    folder, _ = catalogue
    first = build(folder, tmp_path / "a")
    second = build(folder, tmp_path / "b", CONFIG.model_copy(update=change))
    assert first.files["settings.json"] != second.files["settings.json"]
    assert first.content_hash != second.content_hash
    rule = json.loads((tmp_path / "b" / "settings.json").read_text())["order_rule"]
    assert ("Sinkhorn" in rule) == ("collisions" in change)


@pytest.mark.parametrize("collisions", ["next_nearest", "sinkhorn"])
def test_moved_items_have_paths_of_their_own_within_the_prefix_they_had(catalogue, tmp_path, collisions):
    folder, _ = catalogue
    config = CONFIG.model_copy(update={"codes": (4, 40)})
    build(folder, tmp_path / "digit", config)
    build(folder, tmp_path / "moved", config.model_copy(update={"collisions": collisions}))
    digit, moved = SemanticIds.open(tmp_path / "digit"), SemanticIds.open(tmp_path / "moved")
    assert torch.equal(digit.codes_IL[:, 0], moved.codes_IL[:, 0])
    crowded = torch.bincount(digit.codes_IL[:, 0])[digit.codes_IL[:, 0].long()] > 40
    assert digit.codes_IL[:, 2].any() and not moved.codes_IL[~crowded, 2].any()
    assert digit.quality["collisions"]["rate"] > moved.quality["collisions"]["rate"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dedup_codes": 2}, "at most 64 items apart, but there are 120; set index.codes=32"),
        ({"dedup_codes": 3}, "raise index.dedup_codes"),
        ({"codes": 120}, "lower index.codes"),
    ],
)
def test_settings_that_cannot_work_leave_nothing_on_disk(catalogue, tmp_path, change, message):
    folder, _ = catalogue
    with pytest.raises(ConfigError, match=message):
        build(folder, tmp_path / "ids", CONFIG.model_copy(update=change))
    assert list(tmp_path.iterdir()) == []


def test_shows_a_bar_on_a_terminal_and_the_quality_table(catalogue, tmp_path, monkeypatch, capsys):
    folder, _ = catalogue
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    build(folder, tmp_path / "ids")
    shown = capsys.readouterr().err
    assert "RK-Means level 2/2" in shown and "100%" in shown
    assert "perplexity" in shown and "distinct Semantic IDs" in shown


def test_logs_each_level_where_there_is_no_terminal(catalogue, tmp_path, caplog):
    folder, _ = catalogue
    with caplog.at_level("INFO"):
        build(folder, tmp_path / "ids")
    assert [f"level {level}/2" in caplog.text for level in (1, 2, 3)] == [True, True, False]
