"""Safetensors files of tables too large to pass through memory whole: written a stretch of rows at a time, read by the row."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from intrr_rec.errors import ArtefactError

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int8: "I8"}


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
        for name, (dtype, shape) in tensors.items():
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
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open(path, "rb")  # noqa: SIM115 closed with its owner
        size = int.from_bytes(self._file.read(8), "little")
        self._tensors = json.loads(self._file.read(size))
        self._data = 8 + size

    def row(self, name: str, place: int) -> Tensor | None:
        """One row of a tensor, `[1, …]`; None where the file has no such tensor.

        Raises:
            ArtefactError: the file was cut short since it was opened.
        """
        entry = self._tensors.get(name)
        if entry is None:
            return None
        dtype = next(dtype for dtype, word in _NAMES.items() if word == entry["dtype"])
        size = dtype.itemsize * math.prod(entry["shape"][1:])
        data = os.pread(self._file.fileno(), size, self._data + entry["data_offsets"][0] + place * size)
        if len(data) != size:
            raise ArtefactError(f"{self.path}: was cut short while it was in use; export the bundle again")
        return torch.frombuffer(bytearray(data), dtype=dtype).view(1, *entry["shape"][1:])
