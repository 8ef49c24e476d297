"""A safetensors file written a stretch of rows at a time, so that a table passes through memory in pieces."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

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
