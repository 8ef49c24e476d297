"""Growth: whatever comes and goes, no published id moves, no Semantic ID is given twice."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intrr_rec.config import DriftConfig, GateConfig, IndexConfig
from intrr_rec.errors import ArtefactError, ConfigError, DataError
from intrr_rec.semantic_ids.artefact import Published, SemanticIds
from intrr_rec.semantic_ids.build import build_semantic_ids
from intrr_rec.semantic_ids.collisions import dedup_digits
from intrr_rec.semantic_ids.extend import extend_semantic_ids, extend_sids, newcomer_sids
from intrr_rec.semantic_ids.trie import PrefixTrie
from tests.semantic_ids.catalogue import make_catalogue

WIDTH = 6
CONFIG = IndexConfig(levels=2, codes=8, dedup_codes=16, drift=DriftConfig(min_items=5))


def empty(*lengths):
    return Published(
        pa.array([], pa.int64()), torch.empty(0, *lengths, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
    )


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sets(st.integers(0, 25), min_size=1), min_size=1, max_size=6), st.integers(0, 2**31))
def test_published_ids_never_move_and_paths_are_never_reused(catalogues, seed):
    """Any sequence of catalogues; an item's residual code may differ each time, as re-made vectors would make it."""
    rng = np.random.default_rng(seed)
    published, given_out, first_seen = empty(3), {}, {}
    for version, catalogue in enumerate(catalogues, start=1):
        items = sorted(catalogue)
        residual_IL = torch.from_numpy(rng.integers(0, 2, (len(items), 2)))
        live, retired = extend_sids(published, pa.array(items), residual_IL, dedup_codes=200, version=version)
        assert live.item_ids.to_pylist() == items
        paths = [tuple(path) for path in torch.cat([live.codes_IL, retired.codes_IL]).tolist()]
        owners = live.item_ids.to_pylist() + retired.item_ids.to_pylist()
        assert len(set(paths)) == len(paths) == len(set(owners))
        now = dict(zip(owners, paths, strict=True))
        assert now.keys() == given_out.keys() | catalogue
        assert all(now[item] == path for item, path in given_out.items())
        given_out = now
        for item in items:
            first_seen.setdefault(item, version)
        since = dict(zip(owners, torch.cat([live.since_I, retired.since_I]).tolist(), strict=True))
        assert since == first_seen
        PrefixTrie.build(live.codes_IL, (2, 2, 200))
        published = Published(
            pa.concat_arrays([live.item_ids, retired.item_ids]),
            torch.cat([live.codes_IL, retired.codes_IL]),
            torch.cat([live.since_I, retired.since_I]),
        )


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_a_first_version_follows_the_order_rule(paths):
    residual_NL = torch.tensor(paths)
    full = newcomer_sids(torch.empty(0, 3, dtype=torch.int64), residual_NL, 100)
    assert torch.equal(full, torch.cat([residual_NL, dedup_digits(residual_NL, 100).unsqueeze(1)], 1))


def test_digits_continue_after_live_and_retired_ones():
    published = Published(
        pa.array([10, 20, 30]), torch.tensor([[1, 1, 0], [2, 2, 1], [2, 2, 2]]), torch.ones(3, dtype=torch.int64)
    )
    residual_IL = torch.tensor([[1, 1], [0, 0], [0, 0], [2, 2], [2, 2], [3, 3], [4, 4], [4, 4]])
    live, retired = extend_sids(
        published, pa.array([5, 10, 20, 40, 45, 50, 60, 70]), residual_IL, dedup_codes=8, version=2
    )
    assert live.codes_IL.tolist() == [
        [1, 1, 1],  # beside item 10, which was alone and keeps digit 0
        [1, 1, 0],
        [2, 2, 1],
        [2, 2, 3],  # after item 30's, though that one is retired
        [2, 2, 4],
        [3, 3, 0],
        [4, 4, 1],
        [4, 4, 2],
    ]
    assert live.since_I.tolist() == [2, 1, 1, 2, 2, 2, 2, 2]
    assert retired.item_ids.to_pylist() == [30] and retired.codes_IL.tolist() == [[2, 2, 2]]


def test_spent_digits_are_one_line():
    taken_TL = torch.tensor([[2, 2, 1], [2, 2, 2]])
    with pytest.raises(ConfigError, match=r"codes \(2, 2\) need digit 4, but digits end at 3 .*without --extend"):
        newcomer_sids(taken_TL, torch.tensor([[2, 2], [2, 2]]), 4)
    assert newcomer_sids(taken_TL, torch.tensor([[2, 2]]), 4).tolist() == [[2, 2, 3]]


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """Version 1 of items 0 … 99, version 2 of 20 … 139, version 3 of the first catalogue again."""
    folder = tmp_path_factory.mktemp("grown")
    vectors = np.random.default_rng(0).normal(size=(140, WIDTH)).astype(np.float32)
    first = make_catalogue(folder / "first", range(100), vectors[:100])
    second = make_catalogue(folder / "second", range(20, 140), vectors[20:])
    build_semantic_ids(*first, folder / "v1", CONFIG)
    extend_semantic_ids(folder / "v1", *second, folder / "v2", IndexConfig(drift=CONFIG.drift))
    extend_semantic_ids(folder / "v2", *first, folder / "v3", IndexConfig())
    return folder, vectors


def by_item(ids):
    return dict(zip(ids.item_ids.to_pylist(), map(tuple, ids.codes_IL.tolist()), strict=True))


def test_versions_keep_ids_and_name_their_parents(grown):
    folder, _ = grown
    one, two, three = (SemanticIds.open(folder / name) for name in ("v1", "v2", "v3"))
    assert [ids.version for ids in (one, two, three)] == [1, 2, 3]
    assert "semantic ids" not in one.manifest.parents
    assert two.manifest.parents["semantic ids"] == one.manifest.content_hash
    assert three.manifest.parents["semantic ids"] == two.manifest.content_hash
    assert one.drift is None and len(one.retired) == 0
    assert two.retired.item_ids.to_pylist() == list(range(20)) and two.manifest.counts["retired"] == 20
    assert sorted(three.retired.item_ids.to_pylist()) == list(range(100, 140))
    assert two.since_I.tolist() == [1] * 80 + [2] * 40
    assert three.since_I.tolist() == [1] * 100
    assert all(by_item(two)[item] == path for item, path in by_item(one).items() if item >= 20)
    assert by_item(three) == by_item(one), "items that come back are who they were"
    assert dict(zip(three.retired.item_ids.to_pylist(), three.retired.since_I.tolist(), strict=True)) == dict.fromkeys(
        range(100, 140), 2
    )
    assert two.trie.nodes(two.levels) == two.n_items == 120
    for name in ("codebooks.safetensors", "quantizer.safetensors"):
        assert one.manifest.files[name] == two.manifest.files[name]


def test_nothing_new_gives_equal_codes_and_no_drift(grown, tmp_path):
    folder, _ = grown
    before = SemanticIds.open(folder / "v1")
    extend_semantic_ids(
        folder / "v1", folder / "first/dataset", folder / "first/vectors.parquet", tmp_path / "same", CONFIG
    )
    after = SemanticIds.open(tmp_path / "same")
    assert torch.equal(before.codes_IL, after.codes_IL) and len(after.retired) == 0
    assert after.quality == before.quality
    assert after.drift["groups"]["newcomers"] is None and not after.drift["due"]
    assert after.drift["groups"]["fitted"]["error_ratio"] == pytest.approx(1)


def test_out_may_be_the_version_extended(grown, tmp_path):
    folder, _ = grown
    first = build_semantic_ids(folder / "first/dataset", folder / "first/vectors.parquet", tmp_path / "ids", CONFIG)
    extend_semantic_ids(
        tmp_path / "ids", folder / "second/dataset", folder / "second/vectors.parquet", tmp_path / "ids", CONFIG
    )
    assert SemanticIds.open(tmp_path / "ids").manifest.files == SemanticIds.open(folder / "v2").manifest.files
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids", "ids@1"]  # the version before stays
    assert SemanticIds.open(tmp_path / "ids@1").manifest.content_hash == first.content_hash


@pytest.mark.learns
def test_foreign_items_make_a_reindex_due(grown, tmp_path, capsys, learned):
    """Vectors of another space: thirty newcomers, far from every item of the fit."""
    _, vectors = grown
    rng = np.random.default_rng(5)
    spread = np.concatenate([vectors[:100] + 2.0 * np.eye(WIDTH, dtype=np.float32)[0], rng.normal(size=(30, WIDTH))])
    spread[100:, 0] -= 6
    near = make_catalogue(tmp_path / "near", range(100), spread[:100])
    far = make_catalogue(tmp_path / "far", range(130), spread.astype(np.float32))
    build_semantic_ids(*near, tmp_path / "v1", CONFIG.model_copy(update={"dedup_codes": 64, "seed": learned.seed}))
    extend_semantic_ids(tmp_path / "v1", *far, tmp_path / "v2", IndexConfig(drift=CONFIG.drift))
    drift = SemanticIds.open(tmp_path / "v2").drift
    added = drift["groups"]["added"]
    assert drift["due"] and added["items"] == 30
    learned.below("error of the fitted by that of the newcomers", 1 / added["error_ratio"], 1 / 1.25)
    learned.above("beyond", added["beyond"], 0.05)
    said = capsys.readouterr().err
    assert "re-index due (error_ratio" in said and "index.drift.max_beyond 0.05" in said
    lax = DriftConfig(max_error_ratio=None, max_beyond=None, min_items=5)
    extend_semantic_ids(tmp_path / "v1", *far, tmp_path / "lax", IndexConfig(drift=lax))
    assert not SemanticIds.open(tmp_path / "lax").drift["due"]
    extend_semantic_ids(tmp_path / "v1", *far, tmp_path / "few", IndexConfig(drift=DriftConfig(min_items=31)))
    few = SemanticIds.open(tmp_path / "few").drift
    assert not few["due"] and "not judged" in few["verdict"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (IndexConfig(codes=9), "index.codes: 9 was asked for, but .* was built with 8"),
        (IndexConfig(seed=1), "index.seed"),
        (IndexConfig(gate=GateConfig(min_distinct_rate=1.0)), "min_distinct_rate"),
        (IndexConfig(category_column="colour"), "no column 'colour'"),
    ],
)
def test_settings_an_extension_cannot_have(grown, tmp_path, config, message):
    folder, _ = grown
    with pytest.raises(ConfigError, match=message):
        extend_semantic_ids(
            folder / "v1", folder / "second/dataset", folder / "second/vectors.parquet", tmp_path / "ids", config
        )
    assert list(tmp_path.iterdir()) == []


def test_inputs_an_extension_cannot_have(grown, tmp_path):
    folder, vectors = grown
    wide = np.concatenate([vectors, vectors], 1)
    dataset, wider = make_catalogue(tmp_path / "wide", range(100), wide[:100])
    with pytest.raises(ArtefactError, match=r"12 dimensions, those of .* had 6"):
        extend_semantic_ids(folder / "v1", dataset, wider, tmp_path / "ids", CONFIG)
    with pytest.raises(DataError, match="have no vector"):
        extend_semantic_ids(
            folder / "v1", folder / "second/dataset", folder / "first/vectors.parquet", tmp_path / "ids", CONFIG
        )
    assert not (tmp_path / "ids").exists()
