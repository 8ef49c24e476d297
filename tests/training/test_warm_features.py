"""A run started from another one's, over a dataset whose features have more values than before: each value keeps its row."""

import shutil

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import IndexConfig
from intrr_rec.data.features.columns import FIRST, UNKNOWN, Column
from intrr_rec.data.features.space import Space
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.distributed.world import join_world
from intrr_rec.errors import ArtefactError, DataError
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.semantic_ids.extend import extend_semantic_ids
from intrr_rec.training.trainer import Trainer, train
from intrr_rec.training.warm_start import Start
from tests import tiny
from tests.data.features import rich
from tests.distributed.launch import train_all
from tests.training.figures import results
from tests.training.test_warm_start import tensors

WORDS = ("train.epochs=2", "train.ema_decay=0.5", "train.learning_rate=0.02", "model.uid_std=0.2")
SHARDINGS = ("data_parallel", "row_wise")


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """A line whose logs know two of three actions, and the same one with all, made from all logs anew."""
    small, grown = (tmp_path_factory.mktemp(name) for name in ("small", "grown"))
    new = rich.make_line(grown)
    for name in ("items.parquet", "users.csv"):
        shutil.copy(grown / name, small / name)
    logs = pq.read_table(grown / "logs.parquet")
    logs = logs.filter(pc.not_equal(logs["action"], "buy"))
    pq.write_table(logs, small / "logs.parquet")
    old = tiny.Line(small / "dataset", small / "semantic_ids", new.vectors)
    prepare_dataset(
        [small / "logs.parquet"], small / "items.parquet", old.dataset, rich.config(), users=small / "users.csv"
    )
    tiny.build_semantic_ids(old.dataset, old.vectors, old.semantic_ids, tiny.INDEX)
    extend_semantic_ids(old.semantic_ids, new.dataset, new.vectors, grown / "extended", IndexConfig())
    return old, tiny.Line(new.dataset, grown / "extended", new.vectors)


@pytest.fixture(scope="module")
def runs(lines, tmp_path_factory):
    """Trained on the smaller one, by sharding."""
    root = tmp_path_factory.mktemp("runs")
    for sharding in SHARDINGS:
        train(tiny.recipe(*WORDS, f"train.sharding.uid={sharding}"), **lines[0].inputs(), out=root / sharding)
    return root


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_values_keep_their_rows_and_a_new_one_begins_as_an_unknown_one(lines, runs, tmp_path, sharding):
    recipe = tiny.recipe(*WORDS, f"train.sharding.uid={sharding}")
    with join_world() as world:
        before = Trainer(open_inputs(recipe, **lines[0].inputs()), runs / sharding, world)
        run = Trainer(open_inputs(recipe, **lines[1].inputs()), tmp_path / "run", world)
        Start.open(runs / sharding, run.inputs).load(run.inputs, run.parallel, world)
        theirs, ours = tensors(before), tensors(run)
        for each in (before, run):
            each.figures.close()
    here, there = run.inputs.space, before.inputs.space
    assert here.rows == there.rows + 2  # an action, in its two blocks
    rows = [name for name in ours if "embeddings.features.weight" in name and ours[name].dim()]
    assert len(rows) >= 3
    for column in here.columns:
        (known,) = (each for each in there.columns if each.name == column.name)
        if known.edges != column.edges:
            continue  # of other quantiles
        for firsts in [(here.first, there.first), (here.first_asked, there.first_asked)][: 1 + column.asked]:
            for number in range(column.rows):
                value = column.word(number)
                at = number if value is None or column.values is None else known.number(value)
                for name in rows:
                    got, expected = ours[name][firsts[0](column) + number], theirs[name][firsts[1](known) + at]
                    assert np.array_equal(got.numpy(), expected.numpy()), (name, column.name, value)


@pytest.mark.slow
def test_two_ranks_start_as_one(lines, runs, tmp_path):
    words = (*WORDS, "train.sharding.uid=row_wise")
    train(tiny.recipe(*words), **lines[1].inputs(), out=tmp_path / "one", init_from=runs / "row_wise")
    train_all(tmp_path, lines[1], {tmp_path / "two": words}, 2, {tmp_path / "two": runs / "row_wise"})
    assert results(tmp_path / "two")["test"] == pytest.approx(results(tmp_path / "one")["test"], rel=1e-4)


def test_columns_that_come_go_or_are_declared_otherwise():
    def column(name: str, **more: object) -> Column:
        return Column.model_validate({"name": name, "side": "item", "kind": "categorical"} | more)

    old = Space((column("brand", values=["a", "b"]), column("gone", values=["x"])))
    new = Space((column("brand", values=["b", "c", "a"]), column("fresh", values=["y"])))
    assert new.places_in(old).tolist() == [0, 1, FIRST + 1, UNKNOWN, FIRST, -1, -1, -1]
    low, high = (Space((column("price", kind="numeric", edges=edges),)) for edges in ([2.0], [1.0, 3.0]))
    assert high.places_in(low).tolist() == [0, 1, FIRST, FIRST, FIRST + 1]  # a bucket goes where its lower end lies
    with pytest.raises(DataError, match="declared otherwise there"):
        Space((column("brand", hash_buckets=7),)).places_in(old)


def test_without_the_dataset_of_the_run_it_is_one_line(lines, runs, tmp_path):
    recipe = tiny.recipe(*WORDS, "train.sharding.uid=row_wise")
    kept = lines[0].dataset.rename(tmp_path / "elsewhere")
    try:
        with pytest.raises(ArtefactError, match="no such dataset artefact"):
            train(recipe, **lines[1].inputs(), out=tmp_path / "run", init_from=runs / "row_wise")
        shutil.copytree(lines[1].dataset, lines[0].dataset)
        with pytest.raises(ArtefactError, match=r"is no longer the dataset that .* was trained on"):
            train(recipe, **lines[1].inputs(), out=tmp_path / "run", init_from=runs / "row_wise")
    finally:
        shutil.rmtree(lines[0].dataset, ignore_errors=True)
        kept.rename(lines[0].dataset)
    assert not (tmp_path / "run").exists()
