"""Training in one process: it learns, stops, resumes to the same figures, and leaves results that agree with each other."""

import itertools
import json
import math
import shutil
from collections import Counter

import pytest
import torch

from intrr_rec.config import recipe as recipe_module
from intrr_rec.data.dataset import Dataset
from intrr_rec.decoding.decode import decode
from intrr_rec.distributed.world import join_world
from intrr_rec.errors import ArtefactError, ConfigError, DataError, TrainingError
from intrr_rec.evaluation.metrics import as_means, metrics_by_user
from intrr_rec.evaluation.results import evaluate_run
from intrr_rec.evaluation.target_ranks import read_ranks
from intrr_rec.runs.inputs import open_inputs
from intrr_rec.runs.run_record import read_run_record
from intrr_rec.semantic_ids.build import build_semantic_ids
from intrr_rec.training.finite import FiniteGuard
from intrr_rec.training.trainer import Trainer, train
from tests import tiny
from tests.tiny import INDEX, Line, make_line, recipe
from tests.training.figures import lines, recommendations, results

LEARNS = ("train.learning_rate=0.01", "train.epochs=3")
DROPOUT = ("model.hstu.dropout=0.2", "model.input_dropout=0.2", "model.ran.dropout=0.2")


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    return tiny.make_line(tmp_path_factory.mktemp("line"))


@pytest.fixture(scope="module")
def finished(line, tmp_path_factory):
    """A run of three epochs with dropout, never interrupted."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(tiny.recipe(*LEARNS, *DROPOUT), **line.inputs(), out=out)
    return out


T5 = "model.t5={layers: 2, width: 32, heads: 2, head_width: 16, feed_forward: 64, dropout: 0}"
TIGER = "model.tiger={layers: 1, width: 32, heads: 2, head_width: 16, feed_forward: 64, dropout: 0}"
BY_HEART = {
    "hstu": ("train.learning_rate=0.01",),
    "t5": ("train.learning_rate=0.003", "model.backbone=t5", T5),
    "hstu_released": ("train.learning_rate=0.01", *tiny.FOREIGN_WORDS),
    "dense": (
        "train.learning_rate=0.01",
        "model.dense={weight: 1, negatives: 16}",
        "model.content=true",
        "model.uid_residual=true",
        "evaluate.rank_by=sid_and_dense",
        "evaluate.pool=beam_and_dense",
    ),
    "sasrec": ("train.learning_rate=0.003", "model.kind=sasrec", "model.sasrec.dropout=0", "model.sasrec.width=32"),
    "flattened_hstu": ("train.learning_rate=0.01", "model.kind=flattened"),
    "flattened_t5": ("train.learning_rate=0.003", "model.kind=flattened", "model.backbone=t5", T5),
    "tiger": ("train.learning_rate=0.003", "model.kind=tiger", TIGER),
}
LONGEST = 400  # epochs


@pytest.mark.learns
@pytest.mark.parametrize("words", BY_HEART.values(), ids=BY_HEART)
def test_learns_fifty_users_by_heart(words, tmp_path, learned):
    """The decode comes to put the target first at nearly all training positions: loss, gradients and decode belong together."""
    line = tiny.make_line(tmp_path, noise=0.0)
    words = (*words, "train.weight_decay=0", "train.batch_users=100", f"train.seed={learned.seed}")
    inputs = open_inputs(tiny.recipe(*words), **line.inputs())
    with join_world() as world:
        run = Trainer(inputs, tmp_path / "run", world)
        for epoch in range(1, LONGEST + 1):
            run.parallel.module.train()
            for (batch,) in run.loader.epoch(epoch):
                run.step(batch)
            if epoch % 10 == 0 and _share_first(run) > 0.95:
                break
        else:
            epoch = 2 * LONGEST
        run.figures.close()
    learned.below("epochs until 95 % come first", epoch, LONGEST)


def _share_first(run):
    model, first = run.parallel.model.eval(), []
    with torch.no_grad():
        for (batch,) in run.loader.epoch():
            catalogue = run.evaluator.catalogue()
            items_SW, _ = decode(model, batch, catalogue, run.evaluator.trie, run.inputs.recipe.evaluate)
            first.append(items_SW[:, 0] == batch.target_S)
    return torch.cat(first).double().mean()


def test_results_agree_with_the_figures_on_the_way(finished):
    valid = lines(finished, "valid")
    best = max(valid, key=lambda record: record["recall@10"])
    found = results(finished)
    assert found["best_epoch"] == best["epoch"] and found["epochs"] == 3
    assert found["valid"] == {name: best[name] for name in found["valid"]}
    train_lines = lines(finished, "train")
    assert [(r["epoch"], r["step"]) for r in train_lines] == [(1, 4), (2, 8), (3, 12)]
    for record in train_lines:
        assert record["loss"] == pytest.approx(record["rec_nll"] + 0.1 * record["align_nll"], rel=1e-5)


@pytest.mark.learns
def test_the_loss_falls(line, tmp_path, learned):
    train(tiny.recipe(*LEARNS, *DROPOUT, f"train.seed={learned.seed}"), **line.inputs(), out=tmp_path / "run")
    losses = [record["loss"] for record in lines(tmp_path / "run", "train")]
    learned.below("last loss by the first", losses[-1] / losses[0], 1)


def test_validations_may_keep_fewer_beams_than_the_results(line, finished, tmp_path):
    words = ("evaluate.validation_beam=10", "evaluate.normalize=global")
    train(tiny.recipe(*LEARNS, *DROPOUT, "evaluate.normalize=global"), **line.inputs(), out=tmp_path / "wide")
    train(tiny.recipe(*LEARNS, *DROPOUT, *words), **line.inputs(), out=tmp_path / "narrow")
    wide, narrow = lines(tmp_path / "wide", "valid"), lines(tmp_path / "narrow", "valid")
    assert all(n["recall@20"] == n["recall@10"] <= w["recall@20"] for n, w in zip(narrow, wide, strict=True))
    assert any(n["recall@20"] < w["recall@20"] for n, w in zip(narrow, wide, strict=True))
    assert results(tmp_path / "narrow")["valid"]["recall@20"] > narrow[-1]["recall@20"]


def test_a_sample_of_users_is_drawn_by_its_seed_and_measured_alone(finished, tmp_path):
    ranks = {}
    for name, words in {
        "all": [],
        "more": ["evaluate.users=30"],
        "few": ["evaluate.users=12"],
        "other": ["evaluate.users=12", "evaluate.users_seed=1"],
    }.items():
        shutil.copytree(finished, tmp_path / name)
        found = evaluate_run(tmp_path / name, words)
        users, rank_B = read_ranks(tmp_path / name, "test")
        ranks[name] = dict(zip(users.to_pylist(), rank_B.tolist(), strict=True))
        assert found["test"] == pytest.approx(as_means(metrics_by_user(torch.from_numpy(rank_B)).sum(0), len(users)))
        assert read_ranks(tmp_path / name, "valid")[0].equals(users)
        low, high = found["intervals"]["test"]["recall@10"]
        assert low <= found["test"]["recall@10"] <= high and low < high
    assert [len(found) for found in ranks.values()] == [50, 30, 12, 12]
    assert ranks["few"].items() <= ranks["more"].items() <= ranks["all"].items()
    assert ranks["other"].keys() != ranks["few"].keys()


def test_recommendations_are_one_row_a_user_and_their_hit_rate_is_the_recall(line, finished):
    dataset = Dataset.open(line.dataset)
    rows = recommendations(finished)
    assert [row["user_id"] for row in rows] == dataset.user_ids().to_pylist()
    targets = dataset.item_ids().take(dataset.items_E[dataset.targets("test")[1]]).to_pylist()
    hits = [target in row["item_ids"] for row, target in zip(rows, targets, strict=True)]
    assert sum(hits) / len(hits) == results(finished)["test"]["recall@20"] > 0
    first = [target == row["item_ids"][0] for row, target in zip(rows, targets, strict=True)]
    assert sum(first) / len(first) == results(finished)["test"]["recall@1"]
    for row in rows:
        assert len(set(row["item_ids"])) == len(row["item_ids"]) == len(row["scores"]) == 20
        assert row["scores"] == sorted(row["scores"], reverse=True) and row["scores"][0] <= 0


@pytest.mark.parametrize("split", ["valid", "test"])
def test_ranks_are_one_a_user_and_give_the_metrics_back(line, finished, split):
    dataset = Dataset.open(line.dataset)
    users, rank_B = read_ranks(finished, split)
    assert users.to_pylist() == sorted(dataset.user_ids().to_pylist())
    means = as_means(metrics_by_user(torch.from_numpy(rank_B)).sum(0), len(users))
    assert means == pytest.approx(results(finished)[split], rel=1e-12)
    if split == "test":
        targets = dataset.item_ids().take(dataset.items_E[dataset.targets("test")[1]]).to_pylist()
        for row, target, rank in zip(recommendations(finished), targets, rank_B.tolist(), strict=True):
            assert (
                row["item_ids"].index(target) + 1 == rank if target in row["item_ids"] else rank in (0, *range(21, 31))
            )


def test_slices_and_figures_beyond_accuracy_agree_with_the_lists(line, finished):
    """Popularity and history counted by hand from each user's events."""
    dataset = Dataset.open(line.dataset)
    events = [dataset.items_E[start:end] for start, end in itertools.pairwise(dataset.offsets)]
    seen = Counter(item for own in events for item in own[:-2].tolist())
    value = {"popularity": [seen[own[-1]] for own in events], "history": [len(own) - 1 for own in events]}
    found = json.loads((finished / "results.json").read_text())
    _, rank_B = read_ranks(finished, "test")
    for kind, records in found["slices"].items():
        assert sum(record["share"] for record in records) == pytest.approx(1)
        for record in records:
            highest = record["to"] or max(value[kind]) * (record["to"] is None)
            ranks = [r for v, r in zip(value[kind], rank_B, strict=True) if record["from"] <= v <= highest]
            assert record["users"] == len(ranks)
            if ranks:
                assert record["metrics"]["recall@5"] == pytest.approx(sum(1 <= r <= 5 for r in ranks) / len(ranks))
    assert len([record for records in found["slices"].values() for record in records if record["users"]]) > 4
    shown = {item for row in recommendations(finished) for item in row["item_ids"][:10]}
    assert found["beyond_accuracy"]["coverage@10"] == pytest.approx(len(shown) / dataset.n_items)


def test_evaluate_reproduces_the_results_to_the_last_digit(finished):
    before, rows = results(finished), recommendations(finished)
    (finished / "results.json").unlink()
    evaluate_run(finished, [])
    assert results(finished) == before
    assert recommendations(finished) == rows


@pytest.mark.parametrize(
    ("override", "says"),
    [("train.seed=1", "only evaluate"), ("model.window=9", "only evaluate"), ("evaluate.beams=3", "evaluate.beam'")],
)
def test_evaluate_refuses_what_would_be_another_model(finished, override, says):
    before = (finished / "results.json").read_bytes()
    with pytest.raises(ConfigError, match=says):
        evaluate_run(finished, [override])
    assert (finished / "results.json").read_bytes() == before


def test_a_bias_by_time_needs_timestamps(line, tmp_path):
    asked = tiny.recipe("model.hstu.time_bias=true", "train.epochs=1")
    train(asked, **line.inputs(), out=tmp_path / "timed")
    assert results(tmp_path / "timed")["epochs"] == 1
    timeless = tiny.make_line(tmp_path, times=False)
    with pytest.raises(
        ConfigError, match=r"time_bias is on, but .*dataset has no timestamps: turn it off, or"
    ) as caught:
        train(asked, **timeless.inputs(), out=tmp_path / "run")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
    for words in (["model.hstu.time_bias=false"], ["model.hstu.time_bias=true", "model.kind=sasrec"]):
        assert open_inputs(tiny.recipe(*words), **timeless.inputs()).collator(training=True).times_E is None


def test_evaluate_needs_a_run_folder(tmp_path):
    with pytest.raises(ArtefactError, match="not a run folder"):
        evaluate_run(tmp_path, [])


def test_the_same_seed_gives_the_same_run(line, finished, tmp_path):
    train(tiny.recipe(*LEARNS, *DROPOUT), **line.inputs(), out=tmp_path / "again")
    assert lines(tmp_path / "again") == lines(finished)
    assert results(tmp_path / "again") == results(finished)


def test_an_extended_run_equals_the_uninterrupted_one(line, finished, tmp_path):
    for epochs in (1, 3):
        train(tiny.recipe(*LEARNS, *DROPOUT, f"train.epochs={epochs}"), **line.inputs(), out=tmp_path / "run")
    assert lines(tmp_path / "run") == lines(finished)
    assert results(tmp_path / "run") == results(finished)
    assert recommendations(tmp_path / "run") == recommendations(finished)


def test_a_folder_with_another_recipe_is_refused(line, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(ConfigError, match=r"another model\.align_weight"):
        train(tiny.recipe(*LEARNS, *DROPOUT, "model.align_weight=0.5"), **line.inputs(), out=finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_folder_of_something_else_is_refused(line, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ArtefactError, match="not a run folder"):
        train(tiny.recipe(), **line.inputs(), out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_stops_after_as_many_validations_without_gain_as_patience(line, tmp_path):
    words = ("train.learning_rate=1e-12", "train.weight_decay=0", "train.epochs=20", "train.patience=2")
    train(tiny.recipe(*words), **line.inputs(), out=tmp_path / "run")
    assert results(tmp_path / "run")["epochs"] == 3
    assert results(tmp_path / "run")["best_epoch"] == 1
    assert len(lines(tmp_path / "run", "valid")) == 3


def test_validates_when_asked_and_after_the_last_epoch(line, tmp_path):
    train(tiny.recipe("train.epochs=3", "train.validate_every=2"), **line.inputs(), out=tmp_path / "run")
    assert [record["epoch"] for record in lines(tmp_path / "run", "valid")] == [2, 3]


def test_runs_out_of_time_with_a_checkpoint_and_results(line, tmp_path):
    words = ("train.epochs=20", "train.validate_every=5", "train.max_minutes=1e-6")
    for _ in range(2):  # the same command again finds nothing to do
        train(tiny.recipe(*words), **line.inputs(), out=tmp_path / "run")
        assert results(tmp_path / "run")["epochs"] == 0 and results(tmp_path / "run")["best_epoch"] == 1
        assert [(each["epoch"], each["step"]) for each in lines(tmp_path / "run", "valid")] == [(1, 1)]


def test_out_of_time_within_an_epoch_it_goes_on_to_the_figures_of_one_that_had_time(line, tmp_path):
    words = ("train.epochs=2", "train.validate_every=2")
    train(tiny.recipe(*words, "train.max_minutes=1e-6"), **line.inputs(), out=tmp_path / "run")
    for name in ("run", "whole"):
        train(tiny.recipe(*words), **line.inputs(), out=tmp_path / name)
    assert lines(tmp_path / "run", "train") == lines(tmp_path / "whole", "train")
    assert lines(tmp_path / "run", "valid")[-1] == lines(tmp_path / "whole", "valid")[-1]


def test_semantic_ids_of_another_dataset_are_refused(line, tmp_path):
    other = tiny.make_line(tmp_path, seed=1)
    with pytest.raises(ArtefactError, match="was built from dataset"):
        train(tiny.recipe(), dataset=line.dataset, semantic_ids=other.semantic_ids, vectors=None, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_content_needs_the_vectors_the_ids_came_from(line, tmp_path):
    recipe = tiny.recipe("model.content=true")
    with pytest.raises(ConfigError, match="--vectors"):
        train(recipe, **{**line.inputs(), "vectors": None}, out=tmp_path / "run")
    other = tiny.make_line(tmp_path, seed=1)
    with pytest.raises(ArtefactError, match="not what"):
        train(recipe, **{**line.inputs(), "vectors": other.vectors}, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_user_long_enough_to_learn_from(tmp_path):
    line = tiny.make_line(tmp_path, longest=3)
    with pytest.raises(DataError, match="no user has the four events"):
        train(tiny.recipe(), **line.inputs(), out=tmp_path / "run")


def test_tokens_made_batch_by_batch_rank_as_those_of_the_whole_catalogue(tmp_path, monkeypatch):
    line = tiny.make_line(tmp_path)
    inputs = open_inputs(tiny.recipe(), **line.inputs())
    with join_world() as world:
        run = Trainer(inputs, tmp_path / "run", world)
        whole = list(run.evaluator.rank_users("test"))
        kept = run.inputs.recipe.keeps_catalogue
        assert kept(30) and kept(30, events=30) and not kept(30, events=29)
        monkeypatch.setattr(recipe_module, "FEW_ITEMS", 1)
        monkeypatch.setattr(run.evaluator, "catalogue", None)
        batchwise = list(run.evaluator.rank_users("test"))
        run.figures.close()
    for ours, others in zip(whole, batchwise, strict=True):
        torch.testing.assert_close(ours.scores_BW, others.scores_BW)
        assert (ours.items_BW == others.items_BW).float().mean() > 0.99


@pytest.mark.parametrize("other", ["dataset", "semantic_ids"])
def test_a_run_of_other_inputs_is_refused_before_a_byte_is_written(tmp_path, other):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = make_line(tmp_path / "one")
    two = (
        make_line(tmp_path / "two", seed=5) if other == "dataset" else Line(one.dataset, tmp_path / "ids", one.vectors)
    )
    if other == "semantic_ids":
        build_semantic_ids(one.dataset, one.vectors, two.semantic_ids, INDEX.model_copy(update={"seed": 9}))
    out = tmp_path / "run"
    train(recipe("train.epochs=1"), out=out, **one.inputs())
    before = {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    with pytest.raises(ArtefactError, match=f"holds a run on another {other.replace('_', '-')} .*choose another --out"):
        train(recipe("train.epochs=1"), out=out, **two.inputs())
    assert {path: path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()} == before
    command = read_run_record(out).command
    train(recipe("train.epochs=1"), out=out, **one.inputs())
    assert read_run_record(out).command == command, "a run that goes on keeps the command that began it"


def test_a_loss_that_is_no_number_stops_the_run_at_its_step(tmp_path):
    (tmp_path / "line").mkdir()
    line, out = make_line(tmp_path / "line"), tmp_path / "run"
    with pytest.raises(TrainingError, match=r"the loss of step [2-9] is not a finite number; .*learning_rate"):
        train(recipe("train.epochs=9", "train.learning_rate=1e30"), out=out, **line.inputs())
    assert not list((out / "checkpoints").glob("*")) and not (out / "results.json").exists()


def test_weights_that_are_no_numbers_are_never_kept_nor_loaded(tmp_path, monkeypatch):
    """A gradient may spoil the weights after the last finite loss."""
    (tmp_path / "line").mkdir()
    line, out = make_line(tmp_path / "line"), tmp_path / "run"
    train(recipe("train.epochs=1"), out=out, **line.inputs())
    step = Trainer.step

    def spoil(run, *parts):
        losses = step(run, *parts)
        with torch.no_grad():  # after the epoch's last step
            if run.state["epoch_step"] + 1 == run.loader.steps:
                next(iter(run.parallel.module.parameters())).fill_(math.nan)
        return losses

    monkeypatch.setattr(Trainer, "step", spoil)
    with pytest.raises(TrainingError, match="a weight is not a finite number"):
        train(recipe("train.epochs=1"), out=tmp_path / "spoilt", **line.inputs())
    assert not list((tmp_path / "spoilt" / "checkpoints").glob("*"))
    monkeypatch.setattr(FiniteGuard, "require_weights", lambda *_: None)
    with pytest.raises(ArtefactError, match="holds weights that are not finite"):
        train(recipe("train.epochs=1"), out=tmp_path / "kept", **line.inputs())
