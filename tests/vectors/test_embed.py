"""Texts → vectors: order, fall-back, artefact, every complaint, and a job killed at any point."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ArtefactError, DataError
from intrr_rec.vectors.embed import EmbedSettings, embed_dataset
from intrr_rec.vectors.table import read_vectors, vectors_hash
from tests.distributed.launch import ROOT
from tests.vectors.encoders import SETTINGS, HashEncoder, embedded, files

N = 43
TEXTS = [f"item {i} " + "word " * (i * 7 % 11) for i in range(N)]


def build(folder: Path, columns: dict[str, Any], as_id: Any = lambda i: f"sku-{i:03d}") -> Path:
    """A dataset whose item `as_id(i)` has row i of `columns`; the item table lists them backwards."""
    folder.mkdir(exist_ok=True)
    ids = [as_id(i) for i in range(N)]
    logs = {"user_id": [0] * N, "item_id": ids, "timestamp": list(range(N))}
    pq.write_table(pa.table(logs), folder / "logs.parquet")
    pq.write_table(pa.table({"item_id": ids, **columns}).take(list(range(N))[::-1]), folder / "items.parquet")
    prepare_dataset([folder / "logs.parquet"], folder / "items.parquet", folder / "dataset", PrepareConfig(k_core=1))
    return folder / "dataset"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("embed"), {"text": TEXTS, "title": ["t"] * N})


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("storage", ["float16", "float32"])
@pytest.mark.parametrize("as_id", [lambda i: 1000 - i, lambda i: f"sku-{i:03d}"], ids=["integer", "string"])
def test_every_item_has_the_vector_of_its_own_text(tmp_path: Path, as_id: Any, storage: Any) -> None:
    dataset = build(tmp_path, {"text": TEXTS}, as_id)
    encoder = HashEncoder()
    manifest = embed_dataset(dataset, tmp_path / "out", encoder, EmbedSettings(batch=4, shard_rows=8, storage=storage))
    table = pa.concat_tables(pq.read_table(shard) for shard in sorted((tmp_path / "out").glob("part-*.parquet")))
    assert table.schema.field("embedding").type == pa.list_(pa.type_for_alias(storage), 6)
    found = dict(zip(table["item_id"].to_pylist(), table["embedding"].to_pylist(), strict=True))
    expected = HashEncoder().encode(TEXTS).astype(storage)
    assert set(found) == {as_id(i) for i in range(N)}
    for i in range(N):
        np.testing.assert_array_equal(np.array(found[as_id(i)], storage), expected[i])
    assert manifest.kind == "vectors"
    assert manifest.counts == {"items": N, "dimension": 6}
    assert manifest.parents == {"dataset": Dataset.open(dataset).manifest.content_hash}
    assert manifest.config["encoder"] == "hash-a" and manifest.config["template"] == ["text"]
    assert hidden(tmp_path) == []


def test_the_index_reads_the_artefact(dataset: Path, tmp_path: Path) -> None:
    embed_dataset(dataset, tmp_path / "out", HashEncoder(), SETTINGS)
    vectors_ID = read_vectors(tmp_path / "out", Dataset.open(dataset))
    np.testing.assert_array_equal(vectors_ID, HashEncoder().encode(TEXTS).astype(np.float16))


def test_texts_of_similar_length_share_a_batch(dataset: Path, tmp_path: Path) -> None:
    encoder = HashEncoder()
    embed_dataset(dataset, tmp_path / "out", encoder, EmbedSettings(batch=4, shard_rows=N))
    lengths = [len(text) for batch in encoder.batches for text in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert [len(batch) for batch in encoder.batches] == [4] * (N // 4) + [N % 4]


@pytest.mark.parametrize("nothing", [None, "", " \t\n"])
def test_an_item_without_text_is_embedded_by_its_title(tmp_path: Path, nothing: str | None) -> None:
    texts: list[str | None] = [*TEXTS]
    texts[5] = nothing
    dataset = build(tmp_path, {"text": pa.array(texts, pa.string()), "title": [f"title {i}" for i in range(N)]})
    encoder = HashEncoder()
    manifest = embed_dataset(dataset, tmp_path / "out", encoder, SETTINGS)
    asked = {text for batch in encoder.batches for text in batch}
    assert asked == {*TEXTS[:5], *TEXTS[6:], "title 5"}
    assert manifest.config["template"] == ["text", "title"]


@pytest.mark.parametrize(
    ("columns", "column", "says"),
    [
        ({"text": [*TEXTS[:7], None, *TEXTS[8:]]}, "text", ["'sku-007'", "'text'", "has no text (1 such items)"]),
        (
            {"text": [None, *TEXTS[1:]], "title": ["", *TEXTS[1:]]},
            "text",
            ["'sku-000'", "has no text and no title", "fill it in"],
        ),
        ({"description": TEXTS}, "text", ["no column 'text'", "it has description", "--text-column description"]),
        ({"title": TEXTS, "body": TEXTS}, "titel", ["did you mean --text-column title?"]),
        ({"text": list(range(N))}, "text", ["type int64", "must be strings"]),
        ({}, "text", ["holds no item texts", "--items"]),
    ],
)
def test_texts_that_cannot_be_embedded_are_refused_before_work_begins(
    tmp_path: Path, columns: dict[str, Any], column: str, says: list[str]
) -> None:
    dataset = build(tmp_path, columns)
    encoder = HashEncoder()
    with pytest.raises(DataError) as caught:
        embed_dataset(dataset, tmp_path / "out", encoder, EmbedSettings(text_column=column))
    assert all(words in str(caught.value) for words in says), caught.value
    assert encoder.batches == [] and not (tmp_path / "out").exists() and hidden(tmp_path) == []


def test_titles_are_embedded_where_the_table_has_no_column_text(tmp_path: Path) -> None:
    encoder = HashEncoder()
    manifest = embed_dataset(build(tmp_path, {"title": TEXTS, "genre": TEXTS}), tmp_path / "out", encoder, SETTINGS)
    assert manifest.config["template"] == ["title"]
    assert {text for batch in encoder.batches for text in batch} == {*TEXTS}


def test_a_vector_too_large_for_float16_names_the_item(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"item 'sku-\d+' does not fit float16.*--storage float32"):
        embed_dataset(dataset, tmp_path / "out", HashEncoder(scale=1e6), SETTINGS)
    manifest = embed_dataset(
        dataset, tmp_path / "out", HashEncoder(scale=1e6), EmbedSettings(batch=4, shard_rows=8, storage="float32")
    )
    assert manifest.counts["items"] == N


def test_what_is_no_dataset_is_refused(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtefactError, match=r"not a finished dataset"):
        embed_dataset(tmp_path / "folder", tmp_path / "out", HashEncoder())
    embed_dataset(dataset, tmp_path / "out", HashEncoder(), SETTINGS)
    with pytest.raises(ArtefactError, match="is a 'vectors' artefact, but a 'dataset'"):
        embed_dataset(tmp_path / "out", tmp_path / "again", HashEncoder())


def test_a_folder_of_something_else_is_not_overwritten(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    encoder = HashEncoder()
    with pytest.raises(ArtefactError, match="not a 'vectors' artefact"):
        embed_dataset(dataset, tmp_path / "out", encoder, SETTINGS)
    assert files(tmp_path / "out") == {"thesis.txt": b"mine"} and encoder.batches == []


class Interrupted(HashEncoder):
    """Fails after `batches_left` batches."""

    def __init__(self, batches_left: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.batches_left = batches_left

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        if not self.batches_left:
            raise KeyboardInterrupt
        self.batches_left -= 1
        return super().encode(texts)


def interrupt(dataset: Path, out: Path, batches: int, **kwargs: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        embed_dataset(dataset, out, Interrupted(batches, **kwargs), SETTINGS)


def test_an_interrupted_job_goes_on_after_its_last_finished_shard(dataset: Path, tmp_path: Path) -> None:
    whole = embedded(dataset, tmp_path / "whole", HashEncoder())
    out = tmp_path / "out"
    interrupt(dataset, out, batches=5)  # two shards of two batches, and half of the third
    assert not out.exists()
    encoder = HashEncoder()
    assert embedded(dataset, out, encoder) == whole
    assert sum(map(len, encoder.batches)) == N - 16
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("change", ["encoder", "settings", "dataset"])
def test_another_job_reuses_nothing(dataset: Path, tmp_path: Path, change: str) -> None:
    out = tmp_path / "out"
    interrupt(dataset, out, batches=5)
    encoder = HashEncoder(seed="b" if change == "encoder" else "a")
    settings = EmbedSettings(batch=2, shard_rows=8) if change == "settings" else SETTINGS
    other = build(tmp_path / "new", {"text": [f"new {i}" for i in range(N)]}) if change == "dataset" else dataset
    expected = embedded(other, tmp_path / "whole", encoder, settings)
    encoder.batches.clear()
    assert embedded(other, out, encoder, settings) == expected
    assert sum(map(len, encoder.batches)) == N
    assert len(hidden(tmp_path)) == 1  # the first job's shards wait for its return


def test_a_damaged_shard_is_made_again(dataset: Path, tmp_path: Path) -> None:
    whole = embedded(dataset, tmp_path / "whole", HashEncoder())
    interrupt(dataset, tmp_path / "out", batches=5)
    shard = next(tmp_path.glob(".out.embed-*/part-00001.parquet"))
    shard.write_bytes(shard.read_bytes()[:100])
    assert embedded(dataset, tmp_path / "out", HashEncoder()) == whole


def test_two_processes_do_not_work_at_one_job(dataset: Path, tmp_path: Path) -> None:
    class Meddling(HashEncoder):
        def encode(self, texts: Sequence[str]) -> np.ndarray:
            with pytest.raises(ArtefactError, match="another process is at the same job"):
                embed_dataset(dataset, tmp_path / "out", HashEncoder(), SETTINGS)
            return super().encode(texts)

    embed_dataset(dataset, tmp_path / "out", Meddling(), SETTINGS)
    assert hidden(tmp_path) == []


@pytest.mark.parametrize("when", ["at_random_points", "before_any_step_on_disk"])
def test_a_killed_job_ends_in_the_same_bytes(dataset: Path, tmp_path: Path, when: str) -> None:
    """In a process of its own, for it forks: a fork of one that has trained may hang on the locks of its process groups."""
    words = [sys.executable, "-m", "tests.vectors.kills", when, str(dataset), str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("rows", [8, 64], ids=["many shards", "one shard"])
def test_a_day_more_of_items_costs_the_newcomers_alone(tmp_path: Path, rows: int) -> None:
    """An appended dataset: items keep their numbers; one text has changed, two items are new."""
    keep, settings = PrepareConfig(k_core=1, keep_rows=True), EmbedSettings(batch=4, shard_rows=rows)

    def logs(name: str, items: list[str]) -> Path:
        table = {"user_id": [0] * len(items), "item_id": items, "timestamp": list(range(len(items)))}
        pq.write_table(pa.table(table), tmp_path / name)
        return tmp_path / name

    def texts(name: str, of: dict[str, str]) -> Path:
        pq.write_table(pa.table({"item_id": list(of), "text": list(of.values())}), tmp_path / name)
        return tmp_path / name

    old = {f"i{n:02d}": f"text {n}" for n in range(N)}
    prepare_dataset([logs("1.parquet", list(old))], texts("t1.parquet", old), tmp_path / "ds", keep)
    out, encoder = tmp_path / "vectors", HashEncoder()
    embed_dataset(tmp_path / "ds", out, encoder, settings)
    first = vectors_hash(out)
    encoder.batches.clear()
    new = {"a0": "newcomer", "a1": "another", "i03": "changed"}
    prepare_dataset(
        [logs("2.parquet", list(new))], texts("t2.parquet", new), tmp_path / "ds", PrepareConfig(), append=True
    )
    embed_dataset(tmp_path / "ds", out, encoder, settings)
    assert sorted(text for batch in encoder.batches for text in batch) == sorted(new.values())
    whole = tmp_path / "whole"
    embed_dataset(tmp_path / "ds", whole, HashEncoder(), settings)
    assert files(out).keys() == files(whole).keys()
    for name, content in files(out).items():
        assert content == files(whole)[name]
    assert vectors_hash(tmp_path / "vectors@1") == first
    encoder.batches.clear()
    embed_dataset(tmp_path / "ds", out, HashEncoder(seed="b"), settings)  # another encoder: nothing of the old one
    assert vectors_hash(out) != vectors_hash(whole)
