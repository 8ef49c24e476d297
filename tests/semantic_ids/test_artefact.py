"""The semantic ids artefact: round trip, equal bytes, and every way its files can disagree."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from intrr_rec.errors import ArtefactError, DataError
from intrr_rec.io import artefact
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.semantic_ids.artefact import CODEBOOKS, CODES, KIND, SIDS, TRIE, SemanticIds
from intrr_rec.semantic_ids.trie import PrefixTrie

CODES_IL = torch.tensor([[1, 3, 0], [0, 2, 1], [0, 2, 2], [1, 0, 0]])
PIECES = {
    "codes_IL": CODES_IL,
    "codes_per_level": (2, 4, 8),
    "codebooks": (torch.arange(6.0).reshape(2, 3), torch.ones(4, 3)),
    "quantizer": {"codebook.0": torch.arange(6.0).reshape(2, 3)},
    "item_ids": pa.chunked_array([["a", "b"], ["c", "d"]]),
    "quality": {"relative_error": 0.125},
    "config": {"seed": 7},
    "parents": {"dataset": "d" * 64, "vectors": "v" * 64},
}


def republish(path, change):
    """Alter the files and write a manifest that vouches for them: what a fault of ours would look like."""
    manifest = artefact.read(path, KIND)
    change(path)
    files = {name: artefact.file_hash(path / name) for name in manifest.files}
    write_json(path / artefact.MANIFEST, manifest.model_copy(update={"files": files}).document())


def test_round_trip(tmp_path):
    manifest = SemanticIds.write(tmp_path / "ids", **PIECES)
    opened = SemanticIds.open(tmp_path / "ids")
    assert torch.equal(opened.codes_IL, CODES_IL.byte()) and opened.codes_IL.dtype == torch.uint8
    assert opened.item_ids.to_pylist() == ["a", "b", "c", "d"]
    assert opened.codes_per_level == (2, 4, 8) and opened.levels == 3 and opened.n_items == 4
    assert all(torch.equal(a, b) for a, b in zip(opened.codebooks, PIECES["codebooks"], strict=True))
    assert [opened.trie.codes_of(leaf) for leaf in range(4)] == [(0, 2, 1), (0, 2, 2), (1, 0, 0), (1, 3, 0)]
    assert opened.trie.leaf_items.tolist() == [1, 2, 3, 0]
    assert opened.quality == PIECES["quality"]
    assert opened.manifest == manifest
    assert manifest.parents == PIECES["parents"]
    assert manifest.config["seed"] == 7 and manifest.counts == {"items": 4, "levels": 3}


def test_codes_file_is_plain_parquet(tmp_path):
    SemanticIds.write(tmp_path / "ids", **PIECES)
    table = pq.read_table(tmp_path / "ids" / SIDS)
    assert table.schema.field("item").type == pa.int64()
    assert table.schema.field("sid").type == pa.list_(pa.int32(), 3)
    assert table["sid"].to_pylist() == CODES_IL.tolist()


def test_equal_pieces_equal_bytes(tmp_path):
    first = SemanticIds.write(tmp_path / "a", **PIECES)
    second = SemanticIds.write(tmp_path / "b", **PIECES)
    assert first.files == second.files and first.content_hash == second.content_hash


def test_colliding_paths_are_refused_and_the_old_artefact_stays(tmp_path):
    before = SemanticIds.write(tmp_path / "ids", **PIECES)
    with pytest.raises(DataError, match="share the Semantic ID"):
        SemanticIds.write(tmp_path / "ids", **(PIECES | {"codes_IL": CODES_IL[[0, 1, 1, 3]]}))
    assert SemanticIds.open(tmp_path / "ids").manifest == before
    assert [path.name for path in tmp_path.iterdir()] == ["ids"]


def test_crash_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def crash(*_args, **_kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("intrr_rec.semantic_ids.artefact.save", crash)
    with pytest.raises(OSError, match="disk full"):
        SemanticIds.write(tmp_path / "ids", **PIECES)
    assert list(tmp_path.iterdir()) == []


def other_trie(path):
    trie = PrefixTrie.build(torch.tensor([[1, 3, 0], [0, 2, 2], [0, 2, 1], [1, 0, 1]]), (2, 4, 8))
    save_file(trie.tensors(), path / TRIE)


def other_codebooks(path):
    save_file({"level.0": torch.zeros(2, 3), "level.1": torch.zeros(5, 3)}, path / CODEBOOKS)


def fewer_items(path):
    save_file({"codes": CODES_IL[:3].byte()}, path / CODES)


def other_codes(path):
    save_file({"codes": CODES_IL.byte() + 1}, path / CODES)


def fewer_rows(path):
    pq.write_table(pq.read_table(path / SIDS).slice(0, 3), path / SIDS)


def swapped_items(path):
    pq.write_table(pq.read_table(path / SIDS).take([1, 0, 2, 3]), path / SIDS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_trie, "trie.safetensors: the trie does not hold the Semantic IDs"),
        (other_codebooks, "level sizes"),
        (fewer_items, "has shape"),
        (other_codes, "beyond its level"),
        (fewer_rows, "3 rows, the manifest says 4"),
        (swapped_items, "does not list items"),
    ],
)
def test_files_that_disagree_are_refused(tmp_path, change, message):
    SemanticIds.write(tmp_path / "ids", **PIECES)
    republish(tmp_path / "ids", change)
    with pytest.raises(ArtefactError, match=message):
        opened = SemanticIds.open(tmp_path / "ids")
        assert opened.trie and opened.item_ids  # looked through when they are asked for
