"""What is asked of an encoder and of a log reader."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from intrr_rec.config import component
from intrr_rec.testing.checks import TEXTS, Check, require, require_refused
from intrr_rec.vectors.encoder import make_encoder


def check_encoder(name: str) -> Iterator[tuple[str, Check]]:
    """Checks of a registered encoder, each with what it says."""

    def encodes() -> None:
        encoder = make_encoder(name, {})
        x_BD = encoder.encode(TEXTS)
        require(x_BD.shape == (len(TEXTS), encoder.width) and x_BD.dtype == np.float32, "not float32 [B, width]")
        require(bool(np.isfinite(x_BD).all()), "a vector is not finite")
        require(np.array_equal(x_BD, encoder.encode(TEXTS)), "the same batch gives other vectors")
        require(len(encoder.lengths(TEXTS)) == len(TEXTS), "not a length per text")
        require(
            bool(encoder.name) and all(isinstance(value, str) for value in encoder.identity.values()), "no identity"
        )

    yield "texts → float32 vectors [B, width], the same every time", encodes


def check_reader(name: str, sample: Path | None) -> Iterator[tuple[str, Check]]:
    """Checks of a registered log reader, each with what it says."""
    reader_class = component("readers", name)

    def read(path: Path) -> list[Any]:
        return list(reader_class(reader_class.Config()).batches(path))

    def schema() -> None:
        require("item_id" in reader_class.schema.names, "its schema has no item_id")

    def broken() -> None:
        with tempfile.TemporaryDirectory() as folder:
            noise = Path(folder) / "noise"
            noise.write_bytes(bytes(range(256)) * 4)
            require_refused(read, noise)
            require_refused(read, Path(folder) / "missing")

    def sampled() -> None:
        assert sample is not None
        batches = read(sample)
        require(sum(batch.num_rows for batch in batches) > 0, "no rows")
        require(all(batch.schema == reader_class.schema for batch in batches), "a block has another schema")
        require(batches == read(sample), "the same file gives other rows")

    yield "its table has an item_id", schema
    yield "a file that is missing, or of another format, is an error of one line that names it", broken
    if sample is not None:
        yield "the sample file gives rows of its schema, the same every time", sampled
