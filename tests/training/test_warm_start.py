"""A run started from another one's, over a catalogue that has grown in between: nothing known is lost, what is new is placed."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from intrr_rec.config import IndexConfig, PrepareConfig
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.distributed.world import join_world
from intrr_rec.errors import ArtefactError, ConfigError
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.runs.run_record import read_run_record
from intrr_rec.semantic_ids.artefact import SemanticIds
from intrr_rec.semantic_ids.extend import extend_semantic_ids
from intrr_rec.training import warm_start as growth
from intrr_rec.training.trainer import Trainer, train
from intrr_rec.training.warm_start import Start
from tests import tiny
from tests.distributed.launch import train_all
from tests.sealing import reseal
from tests.training.figures import lines, results, story

NEW = (0, 4, 5, 17, 29)  # at both ends and in between
SHARDINGS = ("data_parallel", "row_wise", "column_wise")
WORDS = (
    "train.learning_rate=0.02",
    "train.epochs=4",
    "train.ema_decay=0.5",
    "model.uid_std=0.2",
    "model.codebook_std=0.2",
)


def words(sharding):
    return (*WORDS, f"train.sharding.uid={sharding}")


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("grown"))


@pytest.fixture(scope="module")
def small(grown, tmp_path_factory):
    """The same line before the new items came, with Semantic IDs of its own."""
    folder = tmp_path_factory.mktemp("small")
    logs = pq.read_table(grown.vectors.parent / "logs.parquet")
    is_new = pc.is_in(logs["item_id"], value_set=pa.array(NEW))
    pq.write_table(logs.filter(pc.invert(is_new)), folder / "logs.parquet")
    line = tiny.Line(folder / "dataset", folder / "semantic_ids", grown.vectors)
    prepare_dataset([folder / "logs.parquet"], None, line.dataset, PrepareConfig(k_core=1))
    tiny.build_semantic_ids(line.dataset, line.vectors, line.semantic_ids, tiny.INDEX)
    return line


@pytest.fixture(scope="module")
def line(grown, small, tmp_path_factory):
    """The grown line, with the Semantic IDs of the small one extended."""
    ids = tmp_path_factory.mktemp("extended") / "semantic_ids"
    extend_semantic_ids(small.semantic_ids, grown.dataset, grown.vectors, ids, IndexConfig())
    return tiny.Line(grown.dataset, ids, grown.vectors)


@pytest.fixture(scope="module")
def old(small, tmp_path_factory):
    """Trained runs of the small line, by sharding."""
    root = tmp_path_factory.mktemp("old")
    for sharding in SHARDINGS:
        train(tiny.recipe(*words(sharding)), **small.inputs(), out=root / sharding)
    return root


def local(value):
    return value.local_shards()[0].tensor if hasattr(value, "local_shards") else value


def tensors(run):
    flat = {f"model.{name}": value for name, value in run.parallel.module.state_dict().items()}
    flat |= {f"average.{name}": value for name, value in run.parallel.average.tensors.items()}
    for parameter, state in run.parallel.optimizer.state_dict()["state"].items():
        flat |= {f"optimizer.{parameter}.{name}": value for name, value in state.items()}
    return {name: local(value).detach().clone() for name, value in flat.items()}


@pytest.mark.parametrize("sharding", SHARDINGS)
def test_known_items_keep_all_and_new_ones_spell_their_paths(small, line, old, tmp_path, sharding):
    with join_world() as world:
        recipe = tiny.recipe(*words(sharding))
        before = Trainer(open_inputs(recipe, **small.inputs()), old / sharding, world)
        run = Trainer(open_inputs(recipe, **line.inputs()), tmp_path / "run", world)
        figures = Start.open(old / sharding, run.inputs).load(run.inputs, run.parallel, world)
        theirs, ours = tensors(before), tensors(run)
        for each in (before, run):
            each.figures.close()
    items = np.arange(tiny.N_ITEMS)
    known = np.setdiff1d(items, NEW)
    assert theirs.keys() == ours.keys()
    by_item = [name for name in ours if "embeddings.uid.weight" in name and ours[name].dim()]
    assert len(by_item) >= 3 and len({len(ours[name]) for name in by_item}) == 1
    for name, value in ours.items():
        if name not in by_item:
            assert torch.equal(value, theirs[name]), name
            continue
        assert torch.equal(value[known], theirs[name]), name
        assert value[list(NEW)].any() == (not name.startswith("optimizer")), name
    table, average = (next(ours[n] for n in by_item if n.startswith(kind)) for kind in ("model", "average"))
    assert torch.equal(table[list(NEW)], average[list(NEW)])
    assert figures["known"] == len(known) and figures["new"] == len(NEW)
    assert figures["drawn"] < figures["fitted"] == 1.0 >= figures["neighbours"]


def test_neighbours_are_those_of_the_longest_prefix(small, line, old, tmp_path):
    """Rows of means, by a reference that knows neither groups nor shards."""
    with join_world() as world:
        run = Trainer(open_inputs(tiny.recipe(*words("data_parallel")), **line.inputs()), tmp_path / "run", world)
        found = {}
        original = growth._neighbours

        def spy(table, codes_IL, new_N, drawn_ND):
            found["rows"], found["drawn"] = original(table, codes_IL, new_N, drawn_ND), drawn_ND
            found["table"] = table.shards[0][0].clone()
            return found["rows"]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(growth, "_neighbours", spy)
            Start.open(old / "data_parallel", run.inputs).load(run.inputs, run.parallel, world)
        run.figures.close()
    codes = SemanticIds.open(line.semantic_ids).codes_IL
    known = [item for item in range(tiny.N_ITEMS) if item not in NEW]
    for place, item in enumerate(NEW):
        for depth in (2, 1, 0):
            kin = [other for other in known if codes[other, :depth].tolist() == codes[item, :depth].tolist()]
            if kin or not depth:
                break
        expected = found["table"][kin].mean(0) if depth else found["drawn"][place]
        torch.testing.assert_close(found["rows"][place], expected)


def test_it_learns_on_and_resumes_to_the_same_digit(line, old, tmp_path, monkeypatch):
    recipe, start = tiny.recipe(*words("row_wise")), old / "row_wise"
    train(recipe, **line.inputs(), out=tmp_path / "whole", init_from=start)
    original, calls = Trainer.step, []

    def cut(self, *parts):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return original(self, *parts)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "step", cut)
        train(recipe, **line.inputs(), out=tmp_path / "run", init_from=start)
    train(recipe, **line.inputs(), out=tmp_path / "run", init_from=start)
    assert story(tmp_path / "run") == story(tmp_path / "whole")


@pytest.mark.learns
def test_a_warm_start_spares_the_first_losses(small, line, tmp_path, learned):
    recipe = tiny.recipe(*words("data_parallel"), f"train.seed={learned.seed}")
    train(recipe, **small.inputs(), out=tmp_path / "old")
    train(recipe, **line.inputs(), out=tmp_path / "new", init_from=tmp_path / "old")
    cold, warm = (lines(tmp_path / name, "train")[0]["loss"] for name in ("old", "new"))
    learned.below("first loss by that of the run it starts from", warm / cold, 1)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_ranks_start_and_learn_as_one(line, old, tmp_path):
    runs = {tmp_path / f"two-{sharding}": words(sharding) for sharding in SHARDINGS}
    train_all(tmp_path, line, runs, 2, {run: old / words[-1].split("=")[1] for run, words in runs.items()})
    for sharding in SHARDINGS:
        one = tmp_path / f"one-{sharding}"
        train(tiny.recipe(*words(sharding)), **line.inputs(), out=one, init_from=old / sharding)
        ours, theirs = results(tmp_path / f"two-{sharding}")["test"], results(one)["test"]
        assert ours == pytest.approx(theirs, rel=1e-4)
        for a, b in zip(lines(tmp_path / f"two-{sharding}", "train"), lines(one, "train"), strict=True):
            assert a.pop("split") == b.pop("split") and a == pytest.approx(b, rel=1e-4)


def test_what_cannot_be_gone_on_with_is_one_line(grown, line, small, old, tmp_path):
    start = old / "data_parallel"

    def begin(line, *overrides, start=start, out="run"):
        train(tiny.recipe(*words("data_parallel"), *overrides), **line.inputs(), out=tmp_path / out, init_from=start)

    with pytest.raises(ArtefactError, match=r"does not extend .*--extend"):
        begin(grown)
    with pytest.raises(ConfigError, match=r"model\.kind: .* has intrr"):
        begin(line, "model.kind=sasrec")
    with pytest.raises(ArtefactError, match="does not fit this model"):
        begin(line, "model.hstu.layers=3", out="deeper")
    with pytest.raises(ArtefactError, match="is not a run folder"):
        begin(line, start=tmp_path / "nowhere")
    gone = tmp_path / "gone"
    shutil.copytree(start, gone)
    paths = read_run_record(gone).paths.model_dump() | {"semantic_ids": str(line.semantic_ids)}
    reseal(gone / "run.json", paths=paths, relative_paths={})
    with pytest.raises(ArtefactError, match=r"was rebuilt after .* was trained on it"):
        begin(line, start=gone)
    assert not (tmp_path / "run").exists()
