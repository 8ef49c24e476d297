"""Safetensors files of tables too large to pass through memory whole: written a stretch of rows at a time, read by the row."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, RootModel
from torch import Tensor

from intrr_rec.errors import ArtefactError
from intrr_rec.io.formats.records import as_record, parse_json

LARGEST_HEADER = 1 << 20
_NAMES = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
}
_DTYPES = {word: dtype for dtype, word in _NAMES.items()}
_FIX = "export the bundle again"
_Size = Annotated[int, Field(ge=0, le=1 << 53)]


class TensorFile:
    """A file of tensors whose types and shapes are known beforehand.

    Args:
        path: of the file.
        tensors: type and shape of each.
    """

    def __init__(self, path: Path, tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> None:
        header, end = {}, 0
        self._first: dict[str, int] = {}
        self._row_bytes: dict[str, int] = {}
        # Wide types first, so that each value lies at a multiple of its size: NumPy copies an array of others before it looks into it.
        for name, (dtype, shape) in sorted(tensors.items(), key=lambda entry: -entry[1][0].itemsize):
            self._first[name], self._row_bytes[name] = end, dtype.itemsize * math.prod(shape[1:])
            start, end = end, end + dtype.itemsize * math.prod(shape)
            header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        words = json.dumps(header).encode()
        words += b" " * (-len(words) % 8)
        self._data = 8 + len(words)
        self._file = open(path, "wb")  # noqa: SIM115 closed by __exit__
        self._file.write(len(words).to_bytes(8, "little") + words)
        self._file.truncate(self._data + end)

    def write(self, name: str, first_row: int, rows: Tensor) -> None:
        """Put rows of a tensor in their place."""
        self._file.seek(self._data + self._first[name] + first_row * self._row_bytes[name])
        self._file.write(rows.detach().cpu().contiguous().view(torch.uint8).numpy().data)

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class RowFile:
    """Reads rows of a file's tensors when they are asked for.

    The file stays open, so one that takes its place later is not mixed with it; it is not mapped into memory, so one that is
    cut short in its place is an error, and not the end of the process.

    Args:
        path: of the file, for error messages.
        file: the file, open for reading at any place (pyarrow.NativeFile).

    Attributes:
        shapes: type and shape of each tensor.

    Raises:
        ArtefactError: not such a file, or one whose header does not fit its length.
    """

    def __init__(self, path: Path, file: Any) -> None:
        self.path, self._file = path, file
        length = file.size()
        size = int.from_bytes(file.read_at(8, 0), "little")
        if length < 8 or size > min(length - 8, LARGEST_HEADER):
            raise ArtefactError(f"{path}: its header is longer than the file; {_FIX}")
        self._data = 8 + size
        header = parse_json(file.read_at(size, 8), str(path), _FIX)
        entries = as_record(header, _Header, str(path), _FIX).root
        self.shapes = {name: (_DTYPES[entry.dtype], entry.shape) for name, entry in entries.items()}
        self._first = {name: self._data + entry.data_offsets[0] for name, entry in entries.items()}
        for name, (dtype, shape) in self.shapes.items():
            begin, end = entries[name].data_offsets
            if end - begin != dtype.itemsize * math.prod(shape) or self._data + end > length:
                raise ArtefactError(f"{path}: '{name}' does not lie in the file as its header says; {_FIX}")

    def row(self, name: str, place: int) -> Tensor | None:
        """One row of a tensor, `[1, …]`; None where the file has no such tensor.

        Raises:
            ArtefactError: the file was cut short since it was opened.
        """
        if name not in self.shapes:
            return None
        dtype, shape = self.shapes[name]
        size = dtype.itemsize * math.prod(shape[1:])
        data = self._file.read_at(size, self._first[name] + place * size)
        if len(data) != size:
            raise ArtefactError(f"{self.path}: was cut short while it was in use; {_FIX}")
        return torch.frombuffer(bytearray(data), dtype=dtype).view(1, *shape[1:])


class _Entry(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    dtype: Literal["F32", "BF16", "I8", "U8", "I32", "I64"]
    shape: Annotated[tuple[_Size, ...], Field(min_length=1, max_length=8, strict=False)]
    data_offsets: Annotated[tuple[_Size, _Size], Field(strict=False)]


class _Header(RootModel[dict[str, _Entry]]):
    """What a file of tensors begins with."""
