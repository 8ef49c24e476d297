"""What is asked of JSON text beside DuckDB's reader of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from intrr_rec.data.raw.text import UNREADABLE, open_text


def type_of(kind: Any) -> str:
    """The DuckDB type of what `json_group_structure` found."""
    if isinstance(kind, list):
        return f"{type_of(kind[0])}[]"
    if isinstance(kind, dict):
        return "JSON"
    return {"UBIGINT": "BIGINT", "NULL": "VARCHAR"}.get(kind, str(kind))


def keys_of(line: str) -> set[str] | None:
    """The keys of the object that a line is; None where it is none."""
    try:
        found: Any = json.loads(line)
    except json.JSONDecodeError:
        return None
    return set(found) if isinstance(found, dict) else None


def malformed(path: Path, packing: str) -> str | None:
    """The first line that is no JSON: the engine's own line number is off by one."""
    try:
        with open_text(path, packing) as handle:
            for n, line in enumerate(handle, 1):
                if n == 1 and line.lstrip().startswith("["):
                    return None
                if line.strip():
                    try:
                        json.loads(line)
                    except json.JSONDecodeError as error:
                        return f"line {n}, column {error.pos + 1}: {error.msg}"
    except UNREADABLE as error:
        return str(error)
    return None
