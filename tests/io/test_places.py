"""Errors of places and of memory, from every library that makes them, become one line that names what is at fault."""

import errno
import os
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from intrr_rec.errors import ConfigError, OutOfMemoryError, PlaceError
from intrr_rec.io.disk.places import (
    is_out_of_memory,
    not_the_input,
    require_local,
    trouble,
    writing_to,
)
from intrr_rec.io.disk.room import require_room, require_writable

FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EROFS, "Read-only file system"),
    OSError("Error writing bytes to file. Detail: [errno 28] No space left on device"),  # Arrow, without a number
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
    duckdb.IOException('IO Error: Could not write file "/x/out/.scratch/work.duckdb": No space left on device'),
    duckdb.OutOfMemoryException("Out of Memory Error: failed to offload data block of size 256.0 KiB"),
    RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed: file write failed"),
]
NO_MEMORY = [
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    RuntimeError("std::bad_alloc"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("can't start new thread"),
    pa.ArrowMemoryError("malloc of size 64 failed"),
    duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block of size 256.0 KiB (4.0/4.0 GiB used)"),
]


def shown(error: BaseException) -> str:
    return type(error).__name__ + " " + str(error)[:40]


@pytest.mark.parametrize("error", FULL, ids=shown)
def test_a_full_or_read_only_place_is_named(error: Exception) -> None:
    with pytest.raises(PlaceError, match=r"^/x/out: cannot be written.*another --out$"), writing_to(Path("/x/out")):
        raise error
    with pytest.raises(PlaceError):
        not_the_input(error)


@pytest.mark.parametrize("error", NO_MEMORY, ids=shown)
def test_memory_that_ran_out_is_told_apart(error: Exception) -> None:
    assert is_out_of_memory(error)
    with pytest.raises(OutOfMemoryError, match=r"^memory ran out"), writing_to(Path("/x/out")):
        raise error
    with pytest.raises(OutOfMemoryError):
        not_the_input(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("not a Parquet file"),
        OSError("Couldn't deserialize thrift"),
        FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/input.parquet"),
        RuntimeError("cannot allocate memory in static TLS block"),
    ],
    ids=shown,
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as met, writing_to(Path("/x/out")):
        raise error
    assert met.value is error
    not_the_input(error)


def test_a_file_elsewhere_is_named_instead_of_the_output() -> None:
    found = trouble(OSError(errno.ENOSPC, "No space left on device", "/spool/events"), Path("/x/out"))
    assert str(found).startswith("/spool/events: cannot be written: the disk is full")


def test_a_hidden_file_beside_the_output_is_called_by_the_name_of_the_output() -> None:
    file = "/x/.out.tmp-12-abc/.scratch/work.duckdb.wal"
    found = trouble(duckdb.IOException(f'IO Error: Could not write file "{file}": No space left on device'))
    assert str(found).startswith("/x/out: cannot be written: the disk is full")


def test_numpy_says_that_memory_ran_out() -> None:
    with pytest.raises(OutOfMemoryError), writing_to(Path("/x")):
        np.empty(1 << 60, np.uint8)


@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://bucket", "s3:/bucket/x", "hdfs://a:1/b", "file:///tmp/x"])
def test_a_url_is_refused_where_a_path_belongs(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^--out: "):
        require_local(Path(url), "--out")


@pytest.mark.parametrize("path", ["a/b", "/x", "c:", "12:30/x", "./s3://x"])
def test_a_path_is_a_path(path: str) -> None:
    assert require_local(path, "--out") == Path(path)


def test_a_file_to_write_is_probed_and_leaves_nothing(tmp_path: Path) -> None:
    require_writable(tmp_path / "deep" / "page.html")
    require_room(tmp_path / "deep" / "folder")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(PlaceError, match="is a folder"):
        require_writable(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(PlaceError, match=r"Not a directory|File exists"):
        require_writable(tmp_path / "file" / "page.html")
    with pytest.raises(PlaceError, match="File name too long"):
        require_writable(tmp_path / ("n" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0o555)
    with pytest.raises(PlaceError, match="Permission denied"):
        require_writable(tmp_path / "theirs" / "page.html")
