"""Items the run never saw: published by an extension of its Semantic IDs, recommended by their place in the trie."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from intrr_rec.config import IndexConfig, PrepareConfig
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.semantic_ids.artefact import SemanticIds
from intrr_rec.semantic_ids.extend import extend_semantic_ids
from intrr_rec.serving.bundle.bundle import Bundle
from intrr_rec.serving.bundle.export import Grown, write_bundle
from intrr_rec.serving.recommender import Recommender
from tests.tiny import N_ITEMS

NEW = 4


@pytest.fixture(scope="module")
def grown(line, tmp_path_factory):
    """The line with four items more, numbered below the others, so that every dense id moves."""
    folder = tmp_path_factory.mktemp("grown")
    logs = pq.read_table(line.vectors.parent / "logs.parquet")
    extra = {"user_id": [900] * 5, "item_id": [-4, -3, -2, -1, 3], "timestamp": list(range(5))}
    pq.write_table(pa.concat_tables([logs, pa.table(extra).cast(logs.schema)]), folder / "logs.parquet")
    prepare_dataset([folder / "logs.parquet"], None, folder / "dataset", PrepareConfig(k_core=1))
    vectors = pq.read_table(line.vectors)
    new = np.random.default_rng(5).normal(size=(NEW, 6)).astype(np.float32)
    table = pa.table({"item_id": np.arange(-NEW, 0), "embedding": list(new)}).cast(vectors.schema)
    pq.write_table(pa.concat_tables([vectors, table]), folder / "vectors.parquet")
    paths = (line.semantic_ids, folder / "dataset", folder / "vectors.parquet", folder / "semantic_ids")
    extend_semantic_ids(*paths, IndexConfig())
    return Grown(folder / "dataset", folder / "semantic_ids", folder / "vectors.parquet")


@pytest.mark.parametrize("kind", ["path", "content"])
def test_newcomers_are_recommended_by_their_semantic_id(kind, runs, bundles, grown, tmp_path):
    write_bundle(runs[kind], tmp_path / "bundle", grown=grown)
    opened, before = Bundle.load(tmp_path / "bundle"), bundles[kind]
    newcomers = opened.items.dense(["-4", "-3", "-2", "-1"])
    assert opened.manifest.counts["newcomers"] == NEW and opened.n_items == N_ITEMS + NEW
    assert np.flatnonzero(opened.items.newcomer_I).tolist() == sorted(newcomers)
    ids = SemanticIds.open(grown.semantic_ids)
    assert torch.equal(opened.codes_IL, ids.codes_IL)
    everyone = torch.arange(N_ITEMS)
    place = torch.tensor(opened.items.dense(before.items.own(range(N_ITEMS))))
    torch.testing.assert_close(opened.model.ranker.rows.take(place), before.model.ranker.rows.take(everyone))
    recommender = Recommender(opened)
    whole = recommender.recommend([[int(place[3]), newcomers[0]]], N_ITEMS + NEW, N_ITEMS + NEW)[0]
    assert set(newcomers) < set(whole.items)
    if kind == "path":
        books, codes_NL = opened.model.codebooks, ids.codes_IL[newcomers].long()
        spelt = sum(book[codes_NL[:, level]] for level, book in enumerate(books))
        torch.testing.assert_close(opened.model.ranker.rows.take(torch.tensor(newcomers)), spelt)
        assert [row.index(1.0) for row in recommender.redistribution(newcomers[2])] == codes_NL[2].tolist()
    else:
        assert len(opened.model.ranker.rows.take(torch.tensor(newcomers)).unique(dim=0)) == NEW
        assert sum(recommender.redistribution(newcomers[2])[0]) == pytest.approx(1)


def test_user_mistakes(runs, line, grown, tmp_path):
    with pytest.raises(ConfigError, match="give --vectors"):
        write_bundle(runs["content"], tmp_path / "out", grown=Grown(grown.dataset, grown.semantic_ids))
    with pytest.raises(ArtefactError, match="was built from dataset"):
        write_bundle(runs["path"], tmp_path / "out", grown=Grown(line.dataset, grown.semantic_ids))
    assert not (tmp_path / "out").exists()
