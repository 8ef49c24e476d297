"""Parts of a vector: normalisation and weights against arithmetic, every source, every complaint."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intrr_rec.config import PrepareConfig
from intrr_rec.data.dataset import Dataset
from intrr_rec.data.prepare.prepare import prepare_dataset
from intrr_rec.errors import ArtefactError, ConfigError, DataError
from intrr_rec.vectors import concat
from intrr_rec.vectors.concat import Part, concat_vectors, parse_parts
from intrr_rec.vectors.embed import embed_dataset
from intrr_rec.vectors.table import read_vectors
from tests.vectors.encoders import SETTINGS, HashEncoder

N = 21
RNG = np.random.default_rng(0)
TEXT = RNG.normal(size=(N, 4)).astype(np.float32)
IMAGE = 50 * RNG.normal(size=(N, 3)).astype(np.float32)
SHUFFLED = np.random.default_rng(1).permutation(N)


def build(folder: Path, as_id: Callable[[int], int | str]) -> Path:
    folder.mkdir(exist_ok=True)
    ids = [as_id(i) for i in range(N)]
    pq.write_table(pa.table({"user_id": [0] * N, "item_id": ids, "timestamp": list(range(N))}), folder / "logs.parquet")
    pq.write_table(pa.table({"item_id": ids, "text": [f"text {i}" for i in range(N)]}), folder / "items.parquet")
    prepare_dataset([folder / "logs.parquet"], folder / "items.parquet", folder / "dataset", PrepareConfig(k_core=1))
    return folder / "dataset"


def number(i: int) -> int:
    return 100 + i


def name(i: int) -> str:
    return f"sku-{i:02d}"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("concat"), number)


def parquet(path: Path, as_id: Callable[[int], int | str] = number, **columns: np.ndarray) -> Path:
    """Rows in a shuffled order."""
    ids = [as_id(int(i)) for i in SHUFFLED]
    pq.write_table(pa.table({"item_id": ids, **{k: list(x[SHUFFLED]) for k, x in columns.items()}}), path)
    return path


def npy(path: Path, array: Any) -> Path:
    np.save(path, array)
    return path


def unit(x_ID: np.ndarray) -> np.ndarray:
    return x_ID / np.linalg.norm(x_ID, axis=1, keepdims=True)


def result(dataset: Path, out: Path, *parts: Part) -> np.ndarray:
    concat_vectors(dataset, out, parts, "float32")
    return read_vectors(out, Dataset.open(dataset))


def test_parts_are_normalised_then_weighed(dataset: Path, tmp_path: Path) -> None:
    text, image = parquet(tmp_path / "t.parquet", embedding=TEXT), npy(tmp_path / "i.npy", IMAGE)
    found = result(dataset, tmp_path / "out", Part("text", text), Part("image", image, weight=0.5))
    expected = np.concatenate([unit(TEXT), 0.5 * unit(IMAGE)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_weight_counts_by_its_square_in_distances(dataset: Path, tmp_path: Path) -> None:
    text, image = npy(tmp_path / "t.npy", TEXT), npy(tmp_path / "i.npy", IMAGE)
    x = result(dataset, tmp_path / "out", Part("text", text), Part("image", image, weight=0.5))
    for a, b in ((0, 1), (3, 17)):
        cosines = [float((unit(part)[a] * unit(part)[b]).sum()) for part in (TEXT, IMAGE)]
        expected = 2 * (1 - cosines[0]) + 0.25 * 2 * (1 - cosines[1])
        assert math.isclose(float(((x[a] - x[b]) ** 2).sum()), expected, rel_tol=1e-5)


def test_two_columns_of_one_file(dataset: Path, tmp_path: Path) -> None:
    file = parquet(tmp_path / "both.parquet", text=TEXT, image=IMAGE)
    parts = parse_parts([f"t={file}:text", f"i={file}:image"], ["i=2"])
    expected = np.concatenate([unit(TEXT), 2 * unit(IMAGE)], axis=1)
    np.testing.assert_allclose(result(dataset, tmp_path / "out", *parts), expected, rtol=1e-6)


@pytest.mark.parametrize("as_id", [number, name])
def test_rows_of_an_npy_follow_its_ids(tmp_path: Path, as_id: Callable[[int], int | str]) -> None:
    dataset = build(tmp_path / "d", as_id)
    rows = np.concatenate([SHUFFLED, [0]])  # the last one belongs to an item that the dataset lacks
    path = npy(tmp_path / "x.npy", IMAGE[rows].astype(np.float64))
    np.save(tmp_path / "x.ids.npy", np.array([*(as_id(int(i)) for i in SHUFFLED), as_id(99)]))
    np.testing.assert_allclose(result(dataset, tmp_path / "out", Part("image", path)), unit(IMAGE), rtol=1e-6)


def test_an_embedded_artefact_is_a_part(dataset: Path, tmp_path: Path) -> None:
    embed_dataset(dataset, tmp_path / "text", HashEncoder(), SETTINGS)
    found = result(dataset, tmp_path / "out", Part("text", tmp_path / "text"))
    np.testing.assert_allclose(found, unit(read_vectors(tmp_path / "text", Dataset.open(dataset))), rtol=1e-6)


def test_shards_are_joined_seamlessly(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        Part("text", parquet(tmp_path / "t.parquet", embedding=TEXT)),
        Part("image", npy(tmp_path / "i.npy", IMAGE)),
    ]
    whole = result(dataset, tmp_path / "whole", *parts)
    monkeypatch.setattr(concat, "SHARD_ROWS", 4)
    np.testing.assert_array_equal(result(dataset, tmp_path / "shards", *parts), whole)
    assert len(list((tmp_path / "shards").glob("*.parquet"))) == math.ceil(N / 4)


def test_the_manifest_names_parts_weights_and_parents(dataset: Path, tmp_path: Path) -> None:
    text, image = parquet(tmp_path / "t.parquet", embedding=TEXT), npy(tmp_path / "i.npy", IMAGE)
    manifest = concat_vectors(dataset, tmp_path / "out", [Part("text", text), Part("image", image, weight=0.5)])
    assert manifest.kind == "vectors" and manifest.counts == {"items": N, "dimension": 7}
    assert set(manifest.parents) == {"dataset", "vectors/text", "vectors/image"}
    assert [(p["name"], p["weight"], p["dimension"]) for p in manifest.config["parts"]] == [
        ("text", 1, 4),
        ("image", 0.5, 3),
    ]
    assert pq.read_schema(tmp_path / "out" / "part-00000.parquet").field("embedding").type == pa.list_(pa.float16(), 7)
    assert not list(tmp_path.rglob(".*"))


def test_zeros_in_one_part_leave_the_item_to_the_others(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image = IMAGE.copy()
    image[4] = 0
    parts = [Part("text", npy(tmp_path / "t.npy", TEXT)), Part("image", npy(tmp_path / "i.npy", image))]
    found = result(dataset, tmp_path / "out", *parts)
    assert not found[4, 4:].any() and np.isclose(np.linalg.norm(found[4]), 1)
    assert "part 'image': 1 items have a vector of zeros" in caplog.text
    with pytest.raises(DataError, match=r"item 104: its vector is zero in every part \(image\)"):
        concat_vectors(dataset, tmp_path / "out", parts[1:])


def broken(array: np.ndarray, row: int, value: float) -> np.ndarray:
    array = array.copy()
    array[row, 1] = value
    return array


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p: npy(p / "x.npy", IMAGE[:-1]), ["has 20 rows, but the dataset has 21 items", "x.ids.npy"]),
        (lambda p: npy(p / "x.npy", IMAGE[0]), ["shape (3,)", "2-D array of floats"]),
        (lambda p: npy(p / "x.npy", IMAGE.astype(int)), ["int64", "2-D array of floats"]),
        (lambda p: npy(p / "x.npy", broken(IMAGE, 3, np.nan)), ["item 103", "not finite"]),
        (lambda p: npy(p / "x.npy", np.array([{}], object)), ["cannot be read as .npy"]),
        (lambda p: p / "nowhere.npy", ["cannot be read as .npy"]),
        (lambda p: p / "nowhere", ["no such file or folder"]),
        (lambda p: parquet(p / "x.parquet", vector=IMAGE), ["no column 'embedding'", "vector"]),
        (lambda p: parquet(p / "x.parquet", embedding=broken(IMAGE, 3, np.inf)), ["item 103", "inf"]),
        (lambda p: parquet(p / "x.parquet", name, embedding=IMAGE), ["item ids are integers"]),
    ],
)
def test_a_part_that_cannot_be_used_is_named(
    dataset: Path, tmp_path: Path, write: Callable[[Path], Path], says: list[str]
) -> None:
    good = Part("text", npy(tmp_path / "t.npy", TEXT))
    with pytest.raises(DataError) as caught:
        concat_vectors(dataset, tmp_path / "out", [good, Part("image", write(tmp_path))])
    assert str(caught.value).startswith("part 'image': ")
    assert all(words in str(caught.value) for words in says), caught.value
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([*range(100, 120), 100], "item 100 stands there twice"),
        ([*range(100, 120), 999], "1 of the dataset's 21 items are missing, the first is item 120"),
        ([*range(100, 120)], "needed are 21 ids"),
        ([str(i) for i in range(100, 121)], "integers as in the dataset"),
    ],
)
def test_ids_that_do_not_fit_are_refused(dataset: Path, tmp_path: Path, ids: list[Any], says: str) -> None:
    np.save(tmp_path / "x.ids.npy", np.array(ids))
    with pytest.raises(DataError, match=says):
        concat_vectors(dataset, tmp_path / "out", [Part("image", npy(tmp_path / "x.npy", IMAGE))])


def test_a_folder_of_something_else_is_not_overwritten(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="not a 'vectors' artefact"):
        concat_vectors(dataset, tmp_path / "out", [Part("image", npy(tmp_path / "x.npy", IMAGE))])


def test_words_become_parts(tmp_path: Path) -> None:
    odd = tmp_path / "a:b"
    odd.mkdir()
    parts = parse_parts(["text=work/v", "image=f.parquet:img", f"odd={odd}"], ["image=0.5"])
    assert parts == [
        Part("text", Path("work/v")),
        Part("image", Path("f.parquet"), "img", 0.5),
        Part("odd", odd),
    ]


@pytest.mark.parametrize(
    ("words", "weights", "says"),
    [
        (["work/v"], [], "write NAME=PATH"),
        (["text="], [], "write NAME=PATH"),
        (["a/b=c"], [], "write NAME=PATH"),
        (["a=x", "a=y"], [], "a part 'a' already"),
        (["text=x"], ["txt=1"], "no part 'txt', the parts are text; write for instance --weight text=0.5"),
        (["text=x"], ["text=0"], "not a positive number"),
        (["text=x"], ["text=inf"], "not a positive number"),
        (["text=x"], ["text"], "not a positive number"),
        (["text=nosuch://b/v.parquet:column"], [], "nosuch://b/v.parquet: no file system"),
    ],
)
def test_words_that_are_no_parts_are_refused(words: list[str], weights: list[str], says: str) -> None:
    with pytest.raises((DataError, ConfigError), match=says):
        parse_parts(words, weights)
