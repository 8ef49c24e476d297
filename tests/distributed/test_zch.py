"""Managed rows in training: the figures of one rank on any number, through saves and over a catalogue that grows."""

import shutil

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from intrr_rec.config import IndexConfig, PrepareConfig
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.distributed.world import join_world
from intrr_rec.errors import ArtefactError
from intrr_rec.models.embeddings.zch import ManagedRows
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.runs.metrics_file import metric_lines
from intrr_rec.semantic_ids.extend import extend_semantic_ids
from intrr_rec.training.trainer import Trainer, train
from tests import tiny
from tests.distributed.launch import train_all
from tests.distributed.test_resharding import differing, go_on, go_on_with
from tests.distributed.test_sharding import figures

INDEX = IndexConfig(levels=3, codes=8, dedup_codes=16, iterations=5)
WORDS = (
    "model.zch.rows=128",  # 124 to be owned, for 300 items
    "train.sharding.uid=row_wise",
    "train.sharding.topology.memory_gb=1",
    "train.batch_users=7",
    "train.validate_every=2",
    "model.uid_std=0.2",
    "model.codebook_std=0.2",
)
CASES = {
    "lru": ("model.zch.eviction=lru",),
    "lfu": ("model.zch.eviction=lfu", "model.zch.unseen_steps=3", "train.sharding.optimizer=adagrad"),
    "held": ("model.zch.unseen_steps=2", "train.gradient_clip=0.5"),
}
COUNTS = ("uid_rows_owned", "uid_rows_evicted", "uid_lookups_shared")


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"), users=60, items=300, index=INDEX)


def counts(run):
    return [
        [record[name] for name in COUNTS]
        for record in metric_lines(run / "metrics.jsonl")
        if record["split"] == "train"
    ]


@pytest.fixture(scope="module")
def reference(line, tmp_path_factory):
    root = tmp_path_factory.mktemp("one")
    for name, words in CASES.items():
        train(tiny.recipe(*WORDS, *words), **line.inputs(), out=root / name)
    return root


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.slow
def test_any_number_of_ranks_gives_the_figures_of_one(line, reference, tmp_path, world_size):
    runs = {tmp_path / name: (*WORDS, *words) for name, words in CASES.items()}
    train_all(tmp_path, line, runs, world_size)
    for run in runs:
        one = reference / run.name
        assert figures(run) == pytest.approx(figures(one), rel=1e-5), run.name
        assert counts(run) == counts(one)
        assert [owned for owned, _, _ in counts(run)] == [124, 124]
        assert counts(run)[1][1] > counts(run)[0][1] > 50  # evictions
    assert counts(reference / "lfu")[-1][2] > 0 == counts(reference / "lru")[-1][2]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_checkpoint_goes_on_with_another_number_of_ranks(line, tmp_path, size):
    one, several = tmp_path / "one", tmp_path / "several"
    _, saved, _ = go_on(line, WORDS, one, save=True)
    owners = next(value for name, value in saved.items() if name.endswith("uid._owner"))
    assert len(owners) == 128 and int((owners >= 0).sum()) > 50
    shutil.copytree(one, several)
    _, trained_by_one, losses = go_on(line, WORDS, one, save=False)
    loaded, trained, losses_of_several = go_on_with(size, line, WORDS, several)
    assert differing(loaded, saved) == []
    torch.testing.assert_close(losses_of_several, losses, rtol=1e-5, atol=0)
    for name, value in trained.items():
        torch.testing.assert_close(value, trained_by_one[name], rtol=1e-3, atol=1e-5, msg=name)
    assert any(name.endswith("uid._owner") for name in differing(trained, saved))


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad"])
def test_a_row_that_changes_hands_starts_at_zero_with_its_optimizer_state(line, tmp_path, optimizer):
    recipe = tiny.recipe(*WORDS, f"train.sharding.optimizer={optimizer}")
    with join_world() as world:
        run = Trainer(open_inputs(recipe, **line.inputs()), tmp_path / "run", world)
        model = run.parallel.model.train()
        weight, state = (
            next(value for name, value in tensors.items() if name.endswith("embeddings.uid.weight"))
            for tensors in (run.parallel.module.state_dict(), run.parallel.optimizer.state_dict()["state"])
        )
        (moment,) = (value for value in state.values() if hasattr(value, "local_shards"))
        parts = [value.local_shards()[0].tensor.detach().fill_(1.0) for value in (weight, moment)]
        with torch.no_grad():
            first = model.guidance(torch.arange(0, 100), None)
            rows = next(each for each in model.modules() if isinstance(each, ManagedRows))
            before = rows._owner.clone()
            second = model.guidance(torch.arange(100, 200), None)
        owned = (before >= 0) & (rows._owner >= 0)
        changed = owned & (before != rows._owner)
        assert int(changed.sum()) > 20 and int((owned & ~changed).sum()) > 20
        assert (first == first[0, 0]).all() and (second == 0).all(1).sum() == changed.sum()
        for value in parts:
            assert (value[changed] == 0).all() and (value[~changed] == 1).all()
        if run.figures:
            run.figures.close()


def test_a_grown_catalogue_needs_no_more_rows(line, tmp_path):
    small = tiny.Line(tmp_path / "dataset", tmp_path / "semantic_ids", line.vectors)
    logs = pq.read_table(line.vectors.parent / "logs.parquet")
    pq.write_table(logs.filter(pc.less(logs["item_id"], 250)), tmp_path / "logs.parquet")
    prepare_dataset([tmp_path / "logs.parquet"], None, small.dataset, PrepareConfig(k_core=1))
    tiny.build_semantic_ids(small.dataset, small.vectors, small.semantic_ids, INDEX)
    extend_semantic_ids(small.semantic_ids, line.dataset, line.vectors, tmp_path / "extended", INDEX)
    grown = tiny.Line(line.dataset, tmp_path / "extended", line.vectors)

    train(tiny.recipe(*WORDS, "train.epochs=6"), **small.inputs(), out=tmp_path / "old")
    train(tiny.recipe(*WORDS, "train.epochs=1"), **grown.inputs(), out=tmp_path / "new", init_from=tmp_path / "old")
    train(tiny.recipe(*WORDS, "train.epochs=1"), **grown.inputs(), out=tmp_path / "fresh")
    first, fresh = (figures(tmp_path / name)["1 rec_nll"] for name in ("new", "fresh"))
    assert first < fresh - 0.2
    assert counts(tmp_path / "new")[0][1] > counts(tmp_path / "old")[-1][1] > counts(tmp_path / "fresh")[-1][1] > 0
    with pytest.raises(ArtefactError, match="does not fit this model"):
        train(
            tiny.recipe(*WORDS, "model.zch.rows=160"),
            **grown.inputs(),
            out=tmp_path / "wider",
            init_from=tmp_path / "old",
        )
