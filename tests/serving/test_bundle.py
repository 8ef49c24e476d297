"""A bundle recommends what evaluation recommends, without what training needs."""

import dataclasses
import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from intrr_rec.cli.serving import recommend
from intrr_rec.data.dataset import Dataset
from intrr_rec.distributed.world import join_world
from intrr_rec.errors import ArtefactError, ConfigError, DataError
from intrr_rec.evaluation.evaluator import Evaluator
from intrr_rec.evaluation.results import evaluate_run
from intrr_rec.io import artefact
from intrr_rec.io.disk.atomic import write_json
from intrr_rec.models.embeddings.item_embeddings import Rows
from intrr_rec.runs.open_run import open_run
from intrr_rec.serving.batch.filter_options import read_filters
from intrr_rec.serving.bundle.bundle import KIND, SETTINGS, Bundle
from intrr_rec.serving.bundle.export import write_bundle
from intrr_rec.serving.bundle.report import report_bundle
from intrr_rec.serving.bundle.tensor_file import TensorFile
from intrr_rec.serving.filters import Filters
from intrr_rec.serving.http.backend import Backend
from intrr_rec.serving.http.schemas import Filters as Asked
from intrr_rec.serving.http.schemas import RecommendRequest
from intrr_rec.serving.recommender import Recommender
from intrr_rec.training.trainer import train
from tests.serving.conftest import KINDS
from tests.tiny import N_ITEMS, recipe


def test_histories(dataset: Dataset):
    """What evaluation reads of each test user: all events but the last, and all times."""
    ends = zip(dataset.offsets, dataset.offsets[1:], strict=False)
    spans = [(int(first), int(end)) for first, end in ends]
    times = [dataset.timestamps_E[first:end].tolist() for first, end in spans]
    return [dataset.items_E[first : end - 1].tolist() for first, end in spans], times


test_histories.__test__ = False


@pytest.mark.parametrize("kind", KINDS)
def test_a_bundle_gives_the_lists_of_evaluate(kind, runs, bundles, line):
    histories, times = test_histories(Dataset.open(line.dataset))
    beam = bundles[kind].settings.evaluate.beam
    found = Recommender(bundles[kind]).recommend(histories, beam, times=times)
    with join_world() as world:
        run = open_run(runs[kind], world)
        evaluator = Evaluator(run.model, run.inputs, world)
        if run.inputs.recipe.fits_ranking:
            evaluator.use(run.state["ranking"])
        ranked = list(evaluator.rank_users("test"))
    codes_IL = run.inputs.semantic_ids.codes_IL
    assert sum(len(part.users) for part in ranked) == len(histories)
    for part in ranked:
        for user, items, scores in zip(part.users, part.items_BW.tolist(), part.scores_BW, strict=True):
            items = [item for item in items if item >= 0]  # where fewer are allowed than the beam is wide
            assert found[user].items == items
            torch.testing.assert_close(torch.tensor(found[user].scores), scores[: len(items)], rtol=1e-5, atol=1e-5)
            assert found[user].sids == [tuple(codes_IL[item].tolist()) for item in items]


def test_opening_and_recommending_needs_neither_torchrec_nor_training(bundles):
    code = (
        "import sys, torch\n"
        "from intrr_rec.serving.bundle.bundle import Bundle\n"
        "from intrr_rec.serving.recommender import Recommender\n"
        f"print(len(Recommender(Bundle.load({str(bundles['dense'].path)!r})).recommend([[1, 2]], 5)[0].items))\n"
        "assert not torch.distributed.is_initialized()\n"
        "heavy = ('torchrec', 'intrr_rec.training', 'intrr_rec.distributed', 'intrr_rec.semantic_ids.build', 'fbgemm_gpu')\n"
        "print([name for name in sys.modules if name.startswith(heavy)])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["5", "[]"]


def test_own_ids_and_titles(bundles, line):
    items, dataset = bundles["path"].items, Dataset.open(line.dataset)
    own = [str(value) for value in dataset.item_ids().to_pylist()]
    assert items.own(range(N_ITEMS)) == own
    assert items.dense([*own, "nothing", ""]) == [*range(N_ITEMS), None, None]
    assert items.titles([3, 1]) == dataset.titles([3, 1])
    assert items.popularity_I.tolist() == dataset.popularity().tolist()


def test_a_bundle_of_neighbours_is_served_like_any_other(runs, bundles, tmp_path):
    backend = Backend.load(bundles["item_knn"].path, torch.device("cpu"))
    seen, unheard_of = backend.recommend(
        [RecommendRequest(history=["1", "2"], k=5, trace=True), RecommendRequest(history=["nothing"], k=5)]
    )
    assert (seen.source, unheard_of.source) == ("model", "popularity") and seen.beam == []
    assert len(seen.items) == 5 and not {"1", "2"} & {item.item for item in seen.items}
    detail = backend.item("3")
    assert detail is not None and detail.redistribution is None and detail.neighbours[0].similarity > 0
    assert "3" not in {each.item for each in detail.neighbours}
    with pytest.raises(ConfigError, match="item_knn, which is not trained"):
        Recommender(bundles["item_knn"]).states([[1]])
    figures = report_bundle(runs["item_knn"], bundles["item_knn"].path, tmp_path / "report.json")
    assert figures["bundle"] == pytest.approx(figures["model"])


def test_an_empty_history_gets_the_most_popular(bundles):
    recommender, popularity_I = Recommender(bundles["path"]), bundles["path"].items.popularity_I
    order = np.argsort(-popularity_I, kind="stable").tolist()
    plain, filtered, other = recommender.recommend(
        [[], [], [1, 2]], 5, filters=[Filters(), Filters(deny=order[:2], allow=order[:4]), Filters()]
    )
    assert plain.items == order[:5] and filtered.items == order[2:4] and len(other.items) == 5
    np.testing.assert_allclose(
        np.exp(plain.scores), (popularity_I[order[:5]] + 1) / (popularity_I + 1).sum(), rtol=1e-5
    )


def test_a_long_list_of_denied_items_is_as_good_as_a_short_one(bundles, monkeypatch):
    recommender, deny = Recommender(bundles["path"]), Filters(deny=[1, 5, 9, 12, 20])
    short = recommender.recommend([[1, 2], [3]], 10, filters=deny)
    monkeypatch.setattr("intrr_rec.serving.filters.FEW_DENIED", 2)
    assert recommender.recommend([[1, 2], [3]], 10, filters=deny) == short
    assert not set(deny.deny) & {item for found in short for item in found.items}


@pytest.mark.parametrize("kind", ["path", "dense", "widened"])
def test_filters_of_each_user(kind, bundles):
    """At a beam as wide as the catalogue, filtering is leaving items out of the list."""
    recommender = Recommender(bundles[kind])
    histories = [[1, 2, 3], [4], [5, 6, 5], [7, 8]]
    seen, few = Filters(exclude_seen=True), Filters(allow=[3, 4, 9, 20], deny=[9])
    first = int(pq.read_table(bundles[kind].path / "items.parquet")["first_seen"].to_numpy().max())
    fresh = Filters(newer_than=first)
    found = recommender.recommend(histories, N_ITEMS, N_ITEMS, [seen, few, seen, fresh])
    whole = recommender.recommend(histories, N_ITEMS, N_ITEMS)
    newest = set(np.flatnonzero(recommender.bundle.items.newer(first)))
    assert newest and len(newest) < N_ITEMS
    may = [
        lambda item: item not in {1, 2, 3},
        lambda item: item in {3, 4, 20},
        lambda item: item not in {5, 6},
        lambda item: item in newest,
    ]
    for got, plain, fits in zip(found, whole, may, strict=True):
        assert got.items == [item for item in plain.items if fits(item)]


@pytest.mark.parametrize("kind", ["path", "dense", "widened", "item_knn"])
def test_items_that_are_withdrawn_are_as_denied_to_all(kind, bundles):
    bundle, gone = bundles[kind], [4, 9, 20]
    histories = [[1, 2, 3], [4], [], [7, 8]]
    each = [Filters(exclude_seen=True), Filters(allow=[3, 4, 9, 21]), Filters(), Filters(newer_than=0)]
    denied = [dataclasses.replace(chosen, deny=gone) for chosen in each]
    expected = Recommender(bundle).recommend(histories, 10, filters=denied)
    assert Recommender(bundle, gone).recommend(histories, 10, filters=each) == expected
    assert not set(gone) & {item for found in expected for item in found.items}


def test_category_masks(bundles, tmp_path):
    table = pq.read_table(bundles["path"].path / "items.parquet")
    kinds = [["even", "small"] if item % 2 == 0 else None for item in range(len(table))]
    pq.write_table(
        table.append_column("kind", [kinds]).append_column("parity", [[str(i % 2) for i in range(len(table))]]),
        tmp_path / "items.parquet",
    )
    from intrr_rec.serving.bundle.items import ItemTable

    items = ItemTable(
        tmp_path / "items.parquet",
        pq.ParquetFile(tmp_path / "items.parquet"),
        load_file(bundles["path"].path / "items.safetensors"),
    )
    assert items.columns == ["kind", "parity"]
    assert items.having("parity", ["1"]).tolist() == [item % 2 == 1 for item in range(len(table))]
    assert items.having("kind", ["even", "small"]).tolist() == [item % 2 == 0 for item in range(len(table))]
    with pytest.raises(ConfigError, match="no item has kind=x"):
        items.having("kind", ["even", "x"])
    with pytest.raises(ConfigError, match="no column 'color'"):
        items.having("color", ["red"])


def test_a_trace_and_a_redistribution(runs, bundles):
    for kind in ("path", "content", "t5"):
        recommender = Recommender(bundles[kind])
        levels = recommender.trace([1, 2, 3], beam=4)
        best = recommender.recommend([[1, 2, 3]], 4, beam=4)[0]
        assert [prefix.codes for prefix in levels[-1]] == best.sids
        with join_world() as world:
            run = open_run(runs[kind], world)
            inputs, model = run.inputs, run.model
            content_UV = None if inputs.content_IV is None else torch.from_numpy(inputs.content_IV[[7]])
            log_p = model.items(torch.tensor([7]), content_UV, model.codebooks()).log_p
        for found, expected in zip(recommender.redistribution(7), log_p, strict=True):
            torch.testing.assert_close(torch.tensor(found), expected[0].exp().detach())


@pytest.mark.parametrize(
    ("rows", "bytes_a_value", "worst"), [("float32", 4, 0), ("bfloat16", 2, 1 / 256), ("int8", 1, 1 / 250)]
)
def test_narrow_rows(rows, bytes_a_value, worst, runs, bundles, tmp_path):
    write_bundle(runs["dense"], tmp_path / "bundle", rows)
    narrow = Bundle.load(tmp_path / "bundle")
    wide_ID = bundles["dense"].model.ranker.rows.values_ID
    everything = torch.arange(N_ITEMS)
    assert narrow.model.ranker.rows.values_ID.element_size() == bytes_a_value
    error_ID = (narrow.model.ranker.rows.take(everything) - wide_ID).abs()
    assert (error_ID <= worst * wide_ID.abs().amax(1, keepdim=True)).all()
    torch.testing.assert_close(
        torch.cat(list(narrow.model.ranker.rows.chunks())), narrow.model.ranker.rows.take(everything)
    )
    assert len(Recommender(narrow).recommend([[1, 2]], 5)[0].items) == 5
    assert len(Recommender(narrow).redistribution(3)) == 3


def test_a_row_of_zeros_survives_int8():
    rows = Rows.narrow(torch.zeros(2, 4), "int8")
    assert torch.equal(rows.take(torch.tensor([0, 1])), torch.zeros(2, 4))


def test_a_tensor_file_reads_back(tmp_path):
    whole = {"t": torch.arange(7).to(torch.uint8), "a": torch.randn(7, 3), "b": torch.randn(7)}
    whole |= {"c": torch.randn(7, 1).bfloat16(), "n": torch.arange(7)}
    with TensorFile(tmp_path / "x", {name: (each.dtype, each.shape) for name, each in whole.items()}) as file:
        for first in (4, 0):
            for name, each in whole.items():
                file.write(name, first, each[first : first + 4])
    read = load_file(tmp_path / "x")
    assert all(torch.equal(read[name], each) for name, each in whole.items())
    data = (tmp_path / "x").read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    entries = json.loads(data[8:begin])
    for name, each in whole.items():  # NumPy would copy an array that lies elsewhere at every look-up
        assert (begin + entries[name]["data_offsets"][0]) % each.element_size() == 0


def test_user_mistakes(runs, bundles, line, tmp_path):
    recommender = Recommender(bundles["path"])
    with pytest.raises(ConfigError, match="k 21"):
        recommender.recommend([[1]], 21)
    with pytest.raises(DataError, match="user 1: item 30 is outside"):
        recommender.recommend([[1], [30]], 5)
    with pytest.raises(ConfigError, match="reads times"):
        Recommender(bundles["time"]).recommend([[1]], 5)
    with pytest.raises(DataError, match="user 0: 1 times for 1 events"):
        Recommender(bundles["time"]).recommend([[1]], 5, times=[[0]])
    with pytest.raises(ArtefactError, match="not a run folder"):
        write_bundle(tmp_path, tmp_path / "out")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    with pytest.raises(ArtefactError, match="not a 'bundle' artefact"):
        write_bundle(runs["path"], tmp_path / "taken")
    train(recipe("model.kind=sasrec", "train.epochs=1"), out=tmp_path / "sasrec", **line.inputs())
    with pytest.raises(ConfigError, match=r"model\.kind sasrec has no bundle"):
        write_bundle(tmp_path / "sasrec", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_altered_bundle_is_refused(bundles, tmp_path):
    copy = Path(shutil.copytree(bundles["path"].path, tmp_path / "copy"))
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    with pytest.raises(ArtefactError, match=r"model\.safetensors was altered"):
        Bundle.load(copy)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"bundle_schema": 1}, "is a bundle of schema 1, this version reads 7; export it again"),
        ({"bundle_schema": None}, "is a bundle of schema None"),
        ({"rows": "int4"}, "settings.json: 'rows': .*; export it again"),
        ({"model": {"window": 8, "depth": 3}}, r"settings.json: 'model.depth': .*; export it again"),
    ],
)
def test_a_bundle_of_another_version_is_refused_in_one_line(change, says, bundles, tmp_path):
    old = bundles["path"].path
    with artefact.writing(tmp_path / "old", KIND, {}) as draft:
        shutil.copytree(old, draft.path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
        settings = json.loads((old / SETTINGS).read_text()) | change
        write_json(draft.path / SETTINGS, settings)
        draft.counts |= artefact.read(old, KIND).counts
    with pytest.raises(ArtefactError, match=says) as refusal:
        Bundle.load(tmp_path / "old")
    assert "\n" not in str(refusal.value)


def test_the_report_of_a_bundle_is_that_of_evaluate(runs, tmp_path):
    write_bundle(runs["path"], tmp_path / "bundle", "int8")
    figures = report_bundle(runs["path"], tmp_path / "bundle", tmp_path / "report.json")
    assert figures["model"] == evaluate_run(runs["path"], ())["test"]
    write_bundle(runs["path"], tmp_path / "bundle")
    again = report_bundle(runs["path"], tmp_path / "bundle", tmp_path / "report.json")
    assert again["bundle"] == pytest.approx(again["model"])
    assert json.loads((tmp_path / "report.json").read_text()) == {"run": "path", "rows": "float32", **again}


@pytest.mark.parametrize("kind", ["path", "best_with_times"])
def test_the_example_of_the_page_runs(bundles, kind):
    page = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text()
    [example] = re.findall(r"```python\n(.*?)```", page, re.S)
    example = example.replace("work/bundle", str(bundles[kind].path)).replace("B001", "1").replace("B002", "2")
    names: dict[str, Any] = {}
    exec(example, names)
    assert len(names["best"].items) == 10 and not {"1", "2"} & set(names["bundle"].items.own(names["best"].items))


def test_what_the_history_holds_is_left_out_by_one_default_everywhere():
    default = inspect.signature(read_filters).parameters["exclude_seen"].default
    assert Asked().exclude_seen is Filters().exclude_seen is default is None
    assert inspect.signature(recommend).parameters["exclude_seen"].default is None


@pytest.mark.parametrize(("kind", "excluded"), [("neighbours", True), ("path", False)])
def test_where_nothing_is_said_the_history_is_left_out_as_the_bundle_was_evaluated(bundles, kind, excluded):
    recommender, history = Recommender(bundles[kind]), [4, 5, 6]
    lists = {
        said: recommender.recommend([history], 10, filters=Filters(exclude_seen=said))[0].items
        for said in (None, True, False)
    }
    assert lists[None] == lists[excluded] and not set(lists[True]) & set(history)
