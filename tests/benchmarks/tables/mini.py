"""A grid over the miniature line: raw files, descriptor, recipes and grid file, as a user would lay them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests import tiny

INDEX = ["index.method=rk_means", "index.levels=2", "index.codes=5", "index.dedup_codes=8", "index.iterations=5"]
GRID: dict[str, Any] = {
    "title": "Mini",
    "measure": "accuracy",
    "datasets": ["mini.yaml"],
    "indexers": {"rk_means": [*INDEX, "prepare.k_core=1"]},
    "models": [
        {"label": "IntRR", "recipe": "paper.yaml", "against": "soft"},
        {"label": "soft", "recipe": "paper.yaml", "set": ["model.user_side=soft"]},
    ],
    "published": {"mini": {"rk_means": {"IntRR": [0.1, 0.2, 0.3, 0.4, 5.0]}}},
}


def write(folder: Path, name: str, tree: dict[str, Any]) -> Path:
    (folder / name).write_text(yaml.safe_dump(tree))
    return folder / name


def lay_out(folder: Path, **changes: Any) -> Path:
    """Write everything a mini grid needs into `folder`; returns the grid file. `changes` replace its keys."""
    (folder / "raw").mkdir()
    tiny.make_line(folder / "raw")
    descriptor = {
        "title": "Mini",
        "interactions": "logs.parquet",
        "vectors": "vectors.parquet",
        "about_vectors": "random",
    }
    write(folder, "mini.yaml", descriptor)
    recipe: dict[str, Any] = {}
    for word in tiny.SMALL:
        key, value = word.split("=")
        section = recipe
        for part in key.split(".")[:-1]:
            section = section.setdefault(part, {})
        section[key.split(".")[-1]] = yaml.safe_load(value)
    write(folder, "paper.yaml", recipe)
    return write(folder, "grid.yaml", GRID | changes)
