"""Datasets in an object store: an S3-compatible server on this machine, asked by Arrow as any other would be."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from intrr_rec.data.dataset import KIND, Dataset
from intrr_rec.data.loading.loader import Loader
from intrr_rec.data.loading.streaming import StreamedWindows
from intrr_rec.data.loading.windows import training_windows
from intrr_rec.errors import ArtefactError
from intrr_rec.io import artefact
from intrr_rec.io.stores.storage import Folder, location
from intrr_rec.runs.inputs import reopen_inputs
from intrr_rec.training.trainer import train
from tests.data.loading.regroup import regroup
from tests.data.loading.test_streaming import collator, same
from tests.tiny import Line, make_line, recipe

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    made = make_line(tmp_path_factory.mktemp("line"))
    regroup(made.dataset, made.dataset.parent / "many", users_a_group=5)
    return made


def upload(files: pafs.FileSystem, folder: Path, name: str) -> str:
    pafs.copy_files(
        str(folder), f"bucket/{name}", source_filesystem=pafs.LocalFileSystem(), destination_filesystem=files
    )
    return f"s3://bucket/{name}"


def test_a_dataset_there_is_the_one_here(bucket: pafs.FileSystem, line: Line) -> None:
    here = Dataset.open(line.dataset)
    there = Dataset.open(upload(bucket, line.dataset, "one"))
    assert there.manifest == here.manifest and there.has_times
    for name in ("items_E", "timestamps_E", "offsets"):
        assert (getattr(there, name) == getattr(here, name)).all()
    assert there.item_ids() == here.item_ids() and there.user_ids() == here.user_ids()
    assert there.titles([3, 1]) == here.titles([3, 1]) and there.item_columns == here.item_columns


def test_its_row_groups_are_streamed_as_from_disk(bucket: pafs.FileSystem, line: Line) -> None:
    def stream(dataset: Dataset) -> list:
        cut = partial(training_windows, window=6)
        source = StreamedWindows(dataset.events, dataset.held_out("train"), cut, 60, times=True, readers=3)
        return [batch for (batch,) in Loader(source, collator(dataset), 7, seed=0, rank=0, ranks=1, workers=2).epoch(1)]

    many = line.dataset.parent / "many"
    there, here = stream(Dataset.open(upload(bucket, many, "many"))), stream(Dataset.open(many))
    assert len(there) == len(here) and all(same(one, two) for one, two in zip(there, here, strict=True))


def test_what_is_missing_or_altered_there_is_refused(bucket: pafs.FileSystem, line: Line) -> None:
    url = upload(bucket, line.dataset, "broken")
    with pytest.raises(ArtefactError, match="s3://bucket/nowhere: no such dataset artefact"):
        Dataset.open("s3://bucket/nowhere")
    with bucket.open_output_stream("bucket/broken/users.parquet") as handle:
        handle.write(b"other")
    with pytest.raises(ArtefactError, match=r"users\.parquet was altered"):
        Dataset.open(url)
    bucket.delete_file("bucket/broken/manifest.json")
    with pytest.raises(ArtefactError, match=r"has no manifest\.json"):
        Dataset.open(url)


def test_urls_of_other_stores_go_through_fsspec(line: Line) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(f"{line.dataset}/", "/kept/", recursive=True)
    assert artefact.read("memory://kept", KIND) == artefact.read(line.dataset, KIND)
    assert len(Dataset.open("memory://kept").items_E) == len(Dataset.open(line.dataset).items_E)
    with pytest.raises(ArtefactError, match="nosuch://x: no file system for such a URL"):
        Folder.at(location("nosuch://x"))


def test_a_run_that_streams_from_a_store_trains_and_is_reopened(
    bucket: pafs.FileSystem, line: Line, tmp_path: Path
) -> None:
    url = upload(bucket, line.dataset, "trained")
    short = recipe("train.epochs=1", "train.loader.pool_events=100")
    metrics = train(short, dataset=url, semantic_ids=line.semantic_ids, vectors=None, out=tmp_path / "run")
    assert metrics
    assert reopen_inputs(tmp_path / "run", ()).dataset.path == url
