"""What differs between two files of tensors, as runs of rows: written of a new file over an old one, and applied to the old one.

Shape suffixes: R runs of rows that lie side by side, P bytes of all rows in runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from intrr_rec.errors import ArtefactError
from intrr_rec.io.formats.records import parse_json
from intrr_rec.serving.bundle.tensor_file import LARGEST_HEADER

CHUNK = 1 << 23  # bytes of a tensor that are compared or copied together
NEAR = 16  # bytes between two runs up to which they are one: a run costs as many
FIX = "export the delta again"
FIRST, COUNT, ROWS = "first", "count", "rows"


@dataclass(frozen=True)
class Span:
    """Where a tensor lies in its file: its first byte, its rows, and the bytes of one."""

    begin: int
    rows: int
    row_bytes: int
    dtype: str
    row_shape: tuple[int, ...]

    def fits(self, other: Span | None) -> bool:
        """Whether rows of the two can be compared."""
        return other is not None and (self.dtype, self.row_shape) == (other.dtype, other.row_shape)


@dataclass(frozen=True)
class Layout:
    """The header of a file of tensors, as it is written, and what it says."""

    text: bytes
    size: int
    spans: Mapping[str, Span]

    @classmethod
    def read(cls, path: Path) -> Layout:
        """Of a file.

        Raises:
            ArtefactError: it is no file of tensors.
        """
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LARGEST_HEADER:
                raise ArtefactError(f"{path}: its header is longer than the file; {FIX}")
            return cls.parse(length.to_bytes(8, "little") + file.read(length), str(path))

    @classmethod
    def parse(cls, text: bytes, where: str) -> Layout:
        """Of a header with the eight bytes of its length.

        Raises:
            ArtefactError: it is none.
        """
        entries = parse_json(text[8:], where, FIX)
        try:
            spans, size = {}, len(text)
            for name, entry in entries.items():
                if name == "__metadata__":
                    continue
                shape, (begin, end) = [int(each) for each in entry["shape"]], map(int, entry["data_offsets"])
                rows = shape[0] if shape else 1
                row_bytes = (end - begin) // rows if rows else 0
                if rows * row_bytes != end - begin or begin < 0 or min(shape, default=1) < 0:
                    raise ValueError(f"'{name}' has no whole rows")
                span = Span(len(text) + begin, rows, row_bytes, str(entry["dtype"]), tuple(shape[1:]))
                spans[name], size = span, max(size, len(text) + end)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtefactError(f"{where}: is no header of tensors ({error}); {FIX}") from None
        return cls(text, size, spans)


def find_changes(old: Path, new: Path) -> dict[str, Tensor]:
    """The rows of each tensor of `new` that `old` has not at the same place: `TENSOR.first`, `TENSOR.count` `[R]`, `TENSOR.rows` `[P]`.

    Raises:
        ArtefactError: one of them is no file of tensors.
    """
    before, after = Layout.read(old), Layout.read(new)
    was, now = (np.memmap(path, np.uint8, "r") for path in (old, new))
    found: dict[str, Tensor] = {}
    for name, span in after.spans.items():
        base = before.spans.get(name)
        firsts, counts, parts = [], [], []
        for first, end in _runs(span, base if span.fits(base) else None, was, now):
            firsts.append(first)
            counts.append(end - first)
            parts.append(now[span.begin + first * span.row_bytes : span.begin + end * span.row_bytes])
        found[f"{name}.{FIRST}"] = torch.tensor(firsts, dtype=torch.int64)
        found[f"{name}.{COUNT}"] = torch.tensor(counts, dtype=torch.int64)
        found[f"{name}.{ROWS}"] = torch.from_numpy(np.concatenate(parts) if parts else np.zeros(0, np.uint8))
    return found


def apply_changes(old: Path, header: bytes, changes: Mapping[str, Tensor], out: Path) -> None:
    """Write the new file from the old one and what `find_changes` found.

    Args:
        old: the old file.
        header: of the new file, with its length.
        changes: rows.
        out: where the new file is written.

    Raises:
        ArtefactError: they do not fit one another.
    """
    before, after = Layout.read(old), Layout.parse(header, str(out))
    was = np.memmap(old, np.uint8, "r")
    with open(out, "wb") as file:
        file.write(header)
        file.truncate(after.size)
        for name, span in after.spans.items():
            base = before.spans.get(name)
            same = min(span.rows, base.rows) * span.row_bytes if base is not None and span.fits(base) else 0
            file.seek(span.begin)
            for begin in range(0, same, CHUNK):
                assert base is not None
                file.write(was[base.begin + begin : base.begin + min(same, begin + CHUNK)].data)
            data = changes[f"{name}.{ROWS}"].numpy()
            runs = zip(changes[f"{name}.{FIRST}"].tolist(), changes[f"{name}.{COUNT}"].tolist(), strict=True)
            read = 0
            for first, count in runs:
                size = count * span.row_bytes
                if first < 0 or count < 1 or first + count > span.rows or read + size > len(data):
                    raise ArtefactError(f"{out.name}: rows of '{name}' do not fit; {FIX}")
                file.seek(span.begin + first * span.row_bytes)
                file.write(data[read : read + size].data)
                read += size


def _runs(span: Span, base: Span | None, was: NDArray[np.uint8], now: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    """First row and end of each run of rows that differ, rising."""
    if not span.rows or not span.row_bytes:
        return
    common = min(span.rows, base.rows) if base is not None else 0
    gap = max(1, NEAR // span.row_bytes)
    step = max(1, CHUNK // span.row_bytes)
    begin = end = -1
    for first in range(0, common, step):
        assert base is not None
        rows = min(step, common - first)
        size = rows * span.row_bytes
        a, b = (
            data[place + first * span.row_bytes :][:size].reshape(rows, span.row_bytes)
            for data, place in ((was, base.begin), (now, span.begin))
        )
        for row in (first + np.flatnonzero((a != b).any(1))).tolist():
            if begin < 0:
                begin = row
            elif row - end > gap:
                yield begin, end
                begin = row
            end = row + 1
    if common < span.rows:
        if begin >= 0 and common - end <= gap:
            yield begin, span.rows
            return
        if begin >= 0:
            yield begin, end
        yield common, span.rows
    elif begin >= 0:
        yield begin, end


def bytes_of(tensors: Mapping[str, Tensor]) -> int:
    """Of all of them."""
    return sum(math.prod(tensor.shape) * tensor.element_size() for tensor in tensors.values())
