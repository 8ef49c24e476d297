"""`metrics.jsonl`: one object a line, a figure a key, and the CRC-32 of the line."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

from intrr_rec.errors import ArtefactError
from intrr_rec.io.formats.records import parse_json, read_text
from intrr_rec.io.misfit import note_read

CHECK = "crc32"
LARGEST = 1 << 30  # bytes
_FIX = "remove that line"


def metric_line(figures: dict[str, Any]) -> str:
    """A line, without its end; a figure that is not finite is written as null."""
    unknown = {name: None for name, value in figures.items() if isinstance(value, float) and not math.isfinite(value)}
    body = figures | unknown
    return json.dumps(body | {CHECK: _check(body)}, allow_nan=False)


def metric_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of the file, none where there is none; a last line without its line end is being written, and left out.

    Raises:
        ArtefactError: a finished line is not one that `metric_line` wrote.
    """
    lines = []
    for number, text in enumerate((read_text(path, LARGEST) or "").split("\n")[:-1], start=1):
        where = f"{path}: line {number}"
        line = parse_json(text, where, _FIX)
        if (
            not isinstance(line, dict)
            or not isinstance(line.get("step"), int)
            or not isinstance(line.get("split"), str)
        ):
            raise ArtefactError(f"{where}: is no object with 'step' and 'split'; {_FIX}")
        if line.pop(CHECK, None) != _check(line):
            raise ArtefactError(f"{where}: was altered after it was written; {_FIX}")
        for name, value in line.items():
            if not isinstance(value, (int, float, str, type(None))):
                raise ArtefactError(f"{where}: '{name}' is no single value; {_FIX}")
        lines.append(line)
    note_read(path)
    return lines


def _check(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())
