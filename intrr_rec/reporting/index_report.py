"""A semantic ids artefact → one self-contained page beside it: quality, growth, and the largest first-level prefixes.

Legend of suffixes: I items, L residual levels, K codes of the first level, P items of a prefix.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from intrr_rec.data.dataset import Dataset
from intrr_rec.io.disk.atomic import write_text
from intrr_rec.io.disk.room import require_writable
from intrr_rec.io.formats.records import as_record
from intrr_rec.reporting.page import render, usage_figures
from intrr_rec.semantic_ids.artefact import QUALITY, SemanticIds
from intrr_rec.semantic_ids.inspect import open_pair
from intrr_rec.semantic_ids.quality.categories import read_categories
from intrr_rec.semantic_ids.quality.records import Quality

_LISTED = 12
_EXAMPLES = 3


def write_index_report(semantic_ids: Path, dataset: Path) -> Path:
    """Write `NAME.report.html` beside the artefact folder NAME, whose hashes must not change, and return its path.

    Raises:
        ArtefactError: an artefact that cannot be read, or a dataset the Semantic IDs were not built for.
        ConfigError: the category column the index was built with is not in the dataset.
        PlaceError: the page cannot be written.
    """
    name = Path(semantic_ids).resolve().name
    target = Path(semantic_ids).resolve().with_name(f"{name}.report.html")
    require_writable(target)
    ids, data = open_pair(semantic_ids, dataset)
    quality = as_record(ids.quality, Quality, f"{semantic_ids}/{QUALITY}", "build the semantic ids again")
    page = render(
        "index_report.html.j2",
        name=name,
        ids=ids,
        config=ids.manifest.config,
        quality=quality,
        usage=usage_figures(quality),
        largest=_largest_prefixes(ids, data),
        prefixes=len(ids.codes_IL[:, 0].unique()),
        settings=json.dumps(ids.manifest.config, indent=2, sort_keys=True),
    )
    write_text(target, page)
    return target


def _largest_prefixes(ids: SemanticIds, data: Dataset) -> list[dict[str, Any]]:
    """The first-level prefixes with most items: their size, how many prefixes they fork into, main category, some titles."""
    codes_IL = ids.codes_IL[:, :-1].numpy()
    categories = read_categories(data, ids.manifest.config.get("category_column"))
    counts_K = np.bincount(codes_IL[:, 0])
    rows = []
    for prefix in np.argsort(-counts_K, kind="stable")[:_LISTED].tolist():
        items_P = np.flatnonzero(codes_IL[:, 0] == prefix)
        if not len(items_P):
            continue
        row: dict[str, Any] = {"prefix": prefix, "items": len(items_P), "category": None}
        row["children"] = len(np.unique(codes_IL[items_P, 1])) if codes_IL.shape[1] > 1 else None
        labels_P = categories.label_I.numpy()[items_P] if categories else np.empty(0, np.int64)
        known = labels_P[labels_P >= 0]
        if categories and len(known):
            counts = np.bincount(known)
            row |= {"category": categories.names[int(counts.argmax())], "share": counts.max() / len(items_P)}
        rows.append(row | {"titles": data.titles(items_P[:_EXAMPLES].tolist())})
    return rows
