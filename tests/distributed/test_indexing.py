"""Two and four processes index as one does, to the last byte, whoever holds which vectors."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.prepare.prepare import prepare_dataset
from tests.distributed.launch import ROOT, environment, free_port

N_ITEMS, WIDTH = 1500, 24
SETTINGS = ["index.levels=3", "index.codes=[32, 16, 16]", "index.iterations=12"]


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """A dataset, and its items' vectors in no order, in three shards of uneven row groups, with many copies of one vector."""
    folder = tmp_path_factory.mktemp("catalogue")
    rng = np.random.default_rng(0)
    events = {"user_id": np.arange(N_ITEMS) // 10, "item_id": rng.permutation(N_ITEMS)}
    pq.write_table(pa.table(events | {"timestamp": np.arange(N_ITEMS)}), folder / "logs.parquet")
    prepare_dataset([folder / "logs.parquet"], None, folder / "dataset", PrepareConfig(k_core=1))
    vectors = rng.normal(size=(N_ITEMS, WIDTH)).astype(np.float16)
    vectors[100:180] = vectors[0]
    order = rng.permutation(N_ITEMS)
    table = pa.table({"item_id": order, "embedding": pa.array(list(vectors[order]), pa.list_(pa.float16(), WIDTH))})
    (folder / "vectors").mkdir()
    for part, (start, end, group) in enumerate([(0, 700, 150), (700, 701, 1), (701, N_ITEMS, 333)]):
        pq.write_table(table.slice(start, end - start), folder / f"vectors/{part}.parquet", row_group_size=group)
    return folder


def index(folder, out, world_size, *settings):
    """The artefact's files, by name, from `intrr index` on that many processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(world_size), "--master-port", str(free_port())]
    verb = ["-m", "intrr_rec", "index", "--dataset", str(folder / "dataset"), "--vectors", str(folder / "vectors")]
    subprocess.run(
        [sys.executable, *(launcher if world_size > 1 else []), *verb, "--out", str(out), *SETTINGS, *settings],
        cwd=ROOT,
        env=environment(OMP_NUM_THREADS="2" if world_size == 1 else "1"),
        check=True,
        timeout=150,
    )
    return {path.name: path.read_bytes() for path in out.iterdir()}


def differing(ours, others):
    assert {"sids.parquet", "codebooks.safetensors", "manifest.json"} <= set(ours)
    return [name for name in sorted(set(ours) | set(others)) if ours.get(name) != others.get(name)]


@pytest.mark.slow
def test_two_ranks_write_the_bytes_of_one(catalogue, tmp_path):
    assert differing(index(catalogue, tmp_path / "one", 1), index(catalogue, tmp_path / "two", 2)) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [(), ("index.batch=400",), ("index.normalize=false",), ("index.codes=16", "index.sample_per_code=64")]
)
def test_four_ranks_write_the_bytes_of_one(catalogue, tmp_path, settings):
    one, four = (index(catalogue, tmp_path / str(size), size, *settings) for size in (1, 4))
    assert differing(one, four) == []


@pytest.mark.slow
def test_what_ranks_cannot_fit_together_the_main_one_fits_alone(catalogue, tmp_path):
    settings = ("index.method=residual_vq", "index.training.epochs=2", "index.gate.min_usage=null")
    one, two = (index(catalogue, tmp_path / str(size), size, *settings) for size in (1, 2))
    assert differing(one, two) == []
